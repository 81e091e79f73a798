// The words of the page in the language that is in force.
import en from "./words_en.js";
import zh from "./words_zh.js";

const STRINGS = { en, zh };

let language = "en";

export function useLanguage(name) {
  language = name in STRINGS ? name : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]"))
    one.setAttribute("aria-label", t(one.dataset.label));
  for (const one of document.querySelectorAll("[data-placeholder]"))
    one.placeholder = t(one.dataset.placeholder);
}

export const currentLanguage = () => language;

/** The text of a key, with {0}, {1} … replaced. */
export function t(key, ...values) {
  const text = STRINGS[language][key] ?? STRINGS.en[key] ?? key;
  return text.replace(/\{(\d)\}/g, (_, index) => values[index]);
}
