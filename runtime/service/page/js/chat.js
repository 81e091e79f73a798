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
const KEEP_MS = 2000;

/** `onChange(conversation)` keeps it; `onBusy(busy)` hears of answers. */
export class Chat {
  constructor({ onChange, onBusy }) {
    this.conversation = newConversation();
    this.stopping = null;
    this.drafts = new Map();
    this.views = new WeakMap();
    this.drawMs = 0; // of the last part of an answer
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
    this.draw(true);
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
    const answer = { role: "assistant", content: "", end: "stopped" }; // until it ends otherwise
    conversation.messages.push(answer);
    conversation.changed = Date.now();
    this.stopping = new AbortController();
    this.onChange(conversation);
    this.draw(true);
    this.#setBusy(true);
    await answerInto(answer, messages, this.stopping.signal, () => this.#grow(answer));
    this.stopping = null;
    this.#setBusy(false);
    conversation.changed = Date.now();
    this.onChange(conversation);
    this.draw();
    say(answer.fault ?? t(answer.end === "stopped" ? "stopped" : "answered"));
  }

  /** Redraw the growing answer, and spend at most a fifth of the time with that, however long it gets. */
  #grow(answer) {
    if (this.drawing) return;
    this.drawing = true;
    setTimeout(
      () => {
        this.drawing = false;
        const element = this.list.querySelector(".message:last-of-type .text");
        if (!this.busy || !element || this.conversation.messages.at(-1) !== answer) return;
        const follow = this.#atEnd();
        const begun = performance.now();
        showAnswer(element, answer.content, true);
        this.drawMs = performance.now() - begun;
        if (follow) this.#toEnd();
        this.#keepNowAndThen();
      },
      Math.max(30, 4 * this.drawMs),
    );
  }

  /** A page that is closed or reloaded loses a few seconds of an answer at most. */
  #keepNowAndThen() {
    if (Date.now() - this.conversation.changed < KEEP_MS) return;
    this.conversation.changed = Date.now();
    this.onChange(this.conversation);
  }

  #setBusy(busy) {
    const stop = byId("stop");
    const refocus = !busy && document.activeElement === stop;
    byId("send").hidden = busy;
    stop.hidden = !busy;
    if (busy && document.activeElement === document.body) stop.focus(); // what was pressed is gone
    if (refocus) this.question.focus();
    byId("chat").classList.toggle("busy", busy);
    if (busy) say(t("asking"));
    this.onBusy(busy);
  }

  /** Draw the conversation; stay where somebody reads, unless `toEnd`. */
  draw(toEnd = this.#atEnd()) {
    const top = this.list.scrollTop;
    const views = this.conversation.messages.map((message, index) => this.#view(message, index));
    this.list.replaceChildren(...(views.length ? views : [this.#empty()]));
    if (toEnd) this.#toEnd();
    else this.list.scrollTop = top;
  }

  /** A message's element, made again only when something about it has changed. */
  #view(message, index) {
    const busy = this.busy && index === this.conversation.messages.length - 1;
    const key = JSON.stringify([currentLanguage(), busy, message]);
    const kept = this.views.get(message);
    if (kept?.key === key) return kept.view;
    const view = messageView(message, this.#actions(message, index), busy);
    this.views.set(message, { key, view });
    return view;
  }

  #actions({ role }, index) {
    const { messages } = this.conversation;
    const from = (ask) => {
      if (this.busy) return;
      messages.splice(index);
      ask();
    };
    if (role === "assistant")
      return {
        regenerate: () =>
          from(() => {
            this.running = this.#answer();
          }),
      };
    return { edit: (text) => from(() => this.#ask(text)) };
  }

  #empty() {
    const examples = EXAMPLES[currentLanguage()].map((text) => {
      const button = make("button", { type: "button", textContent: text });
      button.addEventListener("click", () => {
        this.question.value = text;
        this.send();
      });
      return button;
    });
    return make(
      "div",
      { className: "empty" },
      make("h2", { textContent: t("emptyTitle") }),
      t("emptyText"),
      make("div", { className: "examples" }, ...examples),
    );
  }

  #atEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
  }

  #toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }
}
