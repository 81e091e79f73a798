// The conversation on the page: asking, streaming, stopping, editing, asking again.
import { answerInto } from "./answering.js";
import { messagesToSend, newConversation } from "./conversation.js";
import { byId, make, say } from "./dom.js";
import { messageView, showAnswer } from "./message_view.js";
import { get } from "./preferences.js";
import { currentLanguage, t } from "./strings.js";

const EXAMPLES = {
  en: ["What is the capital of France?", "How much is 12 plus 30?", "Count from 3 to 9."],
  zh: ["法国的首都是哪里？", "12加30等于多少？", "从3数到9。"],
};

/** `onChange(conversation)` keeps it; `onBusy(busy)` hears of answers. */
export class Chat {
  constructor({ onChange, onBusy }) {
    this.conversation = newConversation();
    this.stopping = null;
    this.drafts = new Map();
    Object.assign(this, { onChange, onBusy });
    this.list = byId("messages");
    this.question = byId("question");
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("stop").addEventListener("click", () => this.stop());
    this.question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    this.draw();
  }

  get busy() {
    return this.stopping !== null;
  }

  /** Show another conversation; what is being answered is stopped, and kept. */
  async open(conversation) {
    this.drafts.set(this.conversation.id, this.question.value);
    await this.stop();
    this.conversation = conversation;
    this.question.value = this.drafts.get(conversation.id) ?? "";
    this.draw();
  }

  send() {
    const text = this.question.value;
    if (this.busy || !text.trim()) return;
    this.question.value = "";
    this.#ask(text);
  }

  /** Stop the answer; resolves when it is kept. */
  async stop() {
    this.stopping?.abort();
    await this.running;
  }

  #ask(text) {
    this.conversation.messages.push({ role: "user", content: text });
    this.running = this.#answer();
  }

  async #answer() {
    const { conversation } = this;
    const messages = messagesToSend(conversation, get("system"));
    const answer = { role: "assistant", content: "" };
    conversation.messages.push(answer);
    conversation.changed = Date.now();
    this.stopping = new AbortController();
    this.onChange(conversation);
    this.draw();
    this.#setBusy(true);
    await answerInto(answer, messages, this.stopping.signal, () => this.#grow(answer));
    this.stopping = null;
    this.#setBusy(false);
    conversation.changed = Date.now();
    this.onChange(conversation);
    this.draw();
    say(answer.fault ?? t(answer.end === "stopped" ? "stopped" : "answered"));
  }

  /** Redraw the growing answer, at most once a frame and less often as it gets longer. */
  #grow(answer) {
    if (this.drawing) return;
    this.drawing = true;
    const wait = Math.min(1000, 30 + answer.content.length / 50);
    setTimeout(() => {
      this.drawing = false;
      const element = this.list.querySelector(".message:last-of-type .text");
      if (!this.busy || !element || this.conversation.messages.at(-1) !== answer) return;
      const follow = this.#atEnd();
      showAnswer(element, answer.content, true);
      if (follow) this.#toEnd();
    }, wait);
  }

  #setBusy(busy) {
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    if (busy) say(t("asking"));
    this.onBusy(busy);
  }

  draw() {
    const { messages } = this.conversation;
    const last = messages.length - 1;
    const views = messages.map((message, index) => messageView(message, this.#actions(message, index), this.busy && index === last));
    this.list.replaceChildren(...(views.length ? views : [this.#empty()]));
    this.#toEnd();
  }

  #actions(message, index) {
    if (this.busy) return {};
    const { messages } = this.conversation;
    if (message.role === "assistant") {
      return { regenerate: () => { messages.splice(index); this.running = this.#answer(); } };
    }
    return { edit: (text) => { messages.splice(index); this.#ask(text); } };
  }

  #empty() {
    const examples = EXAMPLES[currentLanguage()].map((text) => {
      const button = make("button", { type: "button", textContent: text });
      button.addEventListener("click", () => { this.question.value = text; this.send(); });
      return button;
    });
    return make("div", { className: "empty" }, make("h2", { textContent: t("emptyTitle") }), t("emptyText"), make("div", { className: "examples" }, ...examples));
  }

  #atEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
  }

  #toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}
