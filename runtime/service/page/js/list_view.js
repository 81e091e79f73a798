// The list of conversations: open, rename, delete, export, import.
import { exported, imported, titleOf } from "./conversation.js";
import { byId, make, say } from "./dom.js";
import { t } from "./strings.js";

export class ListView {
  /** `store` keeps conversations; `onOpen(conversation)` shows one; `onRemoved(id)` hears of one that is gone. */
  constructor(store, { onOpen, onRemoved }) {
    this.store = store;
    this.current = null;
    this.conversations = [];
    Object.assign(this, { onOpen, onRemoved });
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
  }

  async load() {
    this.conversations = await this.store.all();
    this.draw();
  }

  async keep(conversation) {
    if (!this.conversations.some((one) => one.id === conversation.id)) this.conversations.push(conversation);
    await this.store.put(conversation);
    this.draw();
  }

  show(id) {
    this.current = id;
    this.draw();
  }

  draw() {
    this.conversations.sort((one, other) => other.changed - one.changed);
    byId("conversations").replaceChildren(...this.conversations.map((one) => this.#row(one)));
    byId("export").disabled = this.conversations.length === 0;
  }

  #row(conversation) {
    const title = titleOf(conversation) || t("untitled");
    const open = make("button", { type: "button", className: "open-one", textContent: title, title });
    if (conversation.id === this.current) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => this.onOpen(conversation));
    const rename = make("button", {
      type: "button",
      className: "icon",
      textContent: "✎",
      "aria-label": t("rename", title),
    });
    rename.addEventListener("click", () => this.#rename(conversation, title));
    const remove = make("button", {
      type: "button",
      className: "icon",
      textContent: "✕",
      "aria-label": t("remove", title),
    });
    remove.addEventListener("click", () => this.#remove(conversation, title));
    return make("li", {}, open, rename, remove);
  }

  async #rename(conversation, title) {
    const name = prompt(t("renameTo"), title);
    if (name === null) return;
    conversation.title = name.trim().slice(0, 200);
    await this.keep(conversation);
  }

  async #remove(conversation, title) {
    if (!confirm(t("removeSure", title))) return;
    this.conversations = this.conversations.filter((one) => one.id !== conversation.id);
    await this.store.remove(conversation.id);
    this.draw();
    this.onRemoved(conversation.id);
  }

  #export() {
    const url = URL.createObjectURL(new Blob([exported(this.conversations)], { type: "application/json" }));
    make("a", {
      href: url,
      download: `glm-plan-conversations-${new Date().toISOString().slice(0, 10)}.json`,
    }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async #import(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      const conversations = imported(await file.text());
      for (const one of conversations) await this.keep(one);
      say(t("imported", conversations.length));
      if (conversations.length) this.onOpen(conversations[0]);
    } catch (error) {
      alert(t("importFailed", error.message));
    }
  }
}
