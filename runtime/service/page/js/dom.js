// Elements made in one call; text is always set as text.
import { t } from "./strings.js";

/** An element with properties, attributes (names with a dash, or `role`) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Tell screen readers something. */
export function say(text) {
  byId("said").textContent = text;
}

/** A button that copies a text and says so for a moment. */
export function copyButton(text, key = "copy") {
  const button = make("button", { type: "button", className: "quiet", textContent: t(key) });
  button.addEventListener("click", async () => {
    const worked = await copyText(text);
    say(t(worked ? "copied" : "copyFailed"));
    if (!worked) return;
    button.textContent = t("copied");
    setTimeout(() => {
      button.textContent = t(key);
    }, 2000);
  });
  return button;
}

/** Copy a text; true when it worked. Pages that are not on HTTPS or localhost have no clipboard API. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { value: text, className: "unseen" });
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    const worked = document.execCommand("copy");
    area.remove();
    before?.focus();
    return worked;
  }
}
