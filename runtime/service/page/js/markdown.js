// Markdown of a model made into elements. Nothing of it is trusted: tags other than a few harmless ones
// are shown as text, pictures become their description, and DOMPurify has the last word.
import { Marked } from "../vendor/marked.esm.js";
import "../vendor/purify.min.js";
import highlighter from "../vendor/highlight.min.js";
import { copyButton, make } from "./dom.js";
import { t } from "./strings.js";

const HARMLESS = /^<\/?(?:b|br|em|i|kbd|mark|s|strong|sub|sup|u)\s*\/?>$/i;
const TAGS = [
  "a",
  "b",
  "blockquote",
  "br",
  "code",
  "del",
  "em",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "hr",
  "i",
  "kbd",
  "li",
  "mark",
  "ol",
  "p",
  "pre",
  "s",
  "strong",
  "sub",
  "sup",
  "table",
  "tbody",
  "td",
  "th",
  "thead",
  "tr",
  "u",
  "ul",
];
const LONGEST_PARSED = 200_000; // characters
const LONGEST_HIGHLIGHTED = 50_000; // characters; longer code stays plain, so that nothing stalls

const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => (HARMLESS.test(text.trim()) ? text : escaped(text)),
    image: ({ text, href }) => escaped(`[${t("image", text || href.slice(0, 80))}]`),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** A fragment for a Markdown text; a text that is too long or too deep for the parser stays as it is. */
export function rendered(text) {
  try {
    if (text.length <= LONGEST_PARSED) return drawn(text);
  } catch {
    // nested deeper than the parser's stack
  }
  const plain = document.createDocumentFragment();
  plain.append(make("p", { className: "plain", textContent: text }));
  return plain;
}

function drawn(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "class", "start"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const one of fragment.querySelectorAll("[class]"))
    if (one.tagName !== "CODE") one.removeAttribute("class");
  for (const code of fragment.querySelectorAll("pre > code")) frameCode(code);
  for (const table of fragment.querySelectorAll("table")) {
    const frame = make("div", { className: "table", tabIndex: 0, role: "group" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

function frameCode(code) {
  const name = /^language-([\w+#.-]+)$/.exec(code.className)?.[1] ?? "";
  const source = code.textContent;
  code.removeAttribute("class");
  if (highlighter.getLanguage(name) && source.length <= LONGEST_HIGHLIGHTED) {
    const html = highlighter.highlight(source, { language: name, ignoreIllegals: true }).value;
    code.replaceChildren(
      DOMPurify.sanitize(html, {
        ALLOWED_TAGS: ["span"],
        ALLOWED_ATTR: ["class"],
        RETURN_DOM_FRAGMENT: true,
      }),
    );
  }
  const pre = code.parentElement;
  const frame = make(
    "div",
    { className: "code" },
    make(
      "div",
      { className: "code-head" },
      make("span", { textContent: name }),
      copyButton(source, "copyCode"),
    ),
  );
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  frame.append(pre);
}
