// The frame around the views: drawers on narrow screens, colours, language, what the server says of itself.
import { byId } from "./dom.js";
import { get, set } from "./preferences.js";
import { currentLanguage, t, useLanguage } from "./strings.js";

const THEMES = ["auto", "light", "dark"];
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };

export function startFrame(onLanguage) {
  useLanguage(get("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  showTheme();
  showLanguage();
  byId("theme").addEventListener("click", () => {
    set({ theme: THEMES[(THEMES.indexOf(get("theme")) + 1) % THEMES.length] });
    showTheme();
  });
  byId("language").addEventListener("click", () => {
    set({ language: currentLanguage() === "zh" ? "en" : "zh" });
    useLanguage(get("language"));
    showTheme();
    showLanguage();
    onLanguage();
  });
  startDrawer("open-list", "list");
  startDrawer("open-map", "map");
}

function showLanguage() {
  const button = byId("language");
  const other = currentLanguage() === "zh" ? ["English", "en"] : ["中文", "zh-CN"];
  [button.textContent, button.lang] = other;
}

function showTheme() {
  const theme = get("theme");
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = SIGNS[theme];
  byId("theme").setAttribute("aria-label", t("theme", t(theme)));
  byId("theme").title = t("theme", t(theme));
}

/** A drawer that lies over the page while it is open: the rest cannot be reached, Escape closes it. */
function startDrawer(buttonId, drawerId) {
  const button = byId(buttonId);
  const drawer = byId(drawerId);
  const others = () =>
    [document.querySelector(".top"), ...document.querySelector(".views").children].filter(
      (one) => one !== drawer,
    );
  const turn = (open) => {
    drawer.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
    for (const one of others()) one.inert = open;
    (open ? drawer.querySelector(".close") : button).focus();
  };
  const isOpen = () => drawer.classList.contains("open");
  button.addEventListener("click", () => turn(true));
  drawer.querySelector(".close").addEventListener("click", () => turn(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen()) turn(false);
  });
  document.addEventListener("pointerdown", (event) => {
    if (isOpen() && !drawer.contains(event.target)) turn(false);
  });
  drawer.addEventListener("closed-by-choice", () => {
    if (isOpen()) turn(false);
  });
  matchMedia("(max-width: 1100px)").addEventListener("change", () => {
    if (isOpen()) turn(false);
  });
}

/** Close the drawer after something in it was chosen. */
export const closeList = () => byId("list").dispatchEvent(new Event("closed-by-choice"));

/** A line under the header; null takes it away. */
export function banner(text, bad = false) {
  const element = byId("banner");
  element.classList.toggle("bad", bad);
  if (element.textContent !== (text ?? "")) element.textContent = text ?? "";
  element.hidden = !text;
}
