// One message on the page: text, what may be done with it, and what its answer measured.
import { copyButton, make } from "./dom.js";
import { rendered } from "./markdown.js";
import { currentLanguage, t } from "./strings.js";
import { number, seconds } from "./units.js";

const LONG = 4000; // characters of a question from which it is folded

/** `actions` has `edit(text)` for questions and `regenerate()` for answers; both may be absent. */
export function messageView(message, actions, busy) {
  const user = message.role === "user";
  const article = make(
    "article",
    { className: `message ${message.role}` },
    make("h2", { textContent: t(user ? "you" : "assistant") }),
  );
  const text = make("div", { className: user ? "text" : "text rendered" });
  article.append(text);
  if (user) text.textContent = message.content;
  else showAnswer(text, message.content, busy);
  article.setAttribute("aria-busy", String(busy));
  if (message.fault) article.append(make("p", { className: "fault", textContent: message.fault }));
  if (!busy) article.append(below(article, message, actions));
  return article;
}

/** Put an answer's Markdown, whole or so far, into its element. */
export function showAnswer(element, content, busy) {
  element.lang = /\p{Script=Han}/u.test(content) ? "zh" : "";
  if (!element.lang) element.removeAttribute("lang");
  element.replaceChildren(rendered(content));
  element.classList.toggle("waiting", busy);
}

function below(article, message, actions) {
  const row = make("div", { className: "below" });
  const add = (key, act, kind = "") => {
    const button = make("button", { type: "button", className: `quiet ${kind}`, textContent: t(key) });
    button.addEventListener("click", () => act(button));
    row.append(button);
    return button;
  };
  if (message.content) row.append(copyButton(message.content));
  if (actions.edit) add("edit", () => editIn(article, message, actions.edit), "asks");
  if (actions.regenerate) add(message.fault ? "retry" : "regenerate", actions.regenerate, "asks");
  if (message.role === "user" && message.content.length > LONG) {
    article.classList.add("long");
    const button = add("showAll", () => {
      const whole = article.classList.toggle("whole");
      button.setAttribute("aria-expanded", String(whole));
      button.textContent = t(whole ? "showLess" : "showAll");
    });
    button.setAttribute("aria-expanded", "false");
  }
  const figures = figuresOf(message);
  if (figures) row.append(make("span", { className: "figures", textContent: figures }));
  return row;
}

function figuresOf(message) {
  const { figures, end } = message;
  const parts = [];
  if (end === "stopped") parts.push(t("stopped"));
  if (end === "length") parts.push(t("cutOff"));
  if (figures) {
    if (figures.firstTokenSeconds != null)
      parts.push(`${t("firstToken")} ${seconds(figures.firstTokenSeconds)}`);
    if (figures.tokensPerSecond != null)
      parts.push(`${number(figures.tokensPerSecond)} ${t("tokensPerSecond")}`);
    if (figures.tokens != null) parts.push(t("tokens", figures.tokens));
    if (parts.length) parts.push(t(figures.byServer ? "measuredThere" : "measuredHere"));
  }
  return parts.join(" · ");
}

function editIn(article, message, send) {
  const area = make("textarea", { value: message.content, "aria-label": t("editText"), rows: 4 });
  const save = make("button", { type: "submit", className: "primary", textContent: t("save") });
  const cancel = make("button", { type: "button", textContent: t("cancel") });
  const form = make("form", { className: "edit", lang: currentLanguage() }, area, save, cancel);
  const old = [...article.children].slice(1);
  const back = () => {
    form.replaceWith(...old);
    article.querySelector(".below button")?.focus();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (area.value.trim()) send(area.value);
  });
  cancel.addEventListener("click", back);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      back();
    }
  });
  for (const child of old) child.remove();
  article.append(form);
  area.focus();
}
