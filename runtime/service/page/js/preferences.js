// What a person chose: language, colours, sampling, key. Kept in localStorage where there is one.

const NAME = "glm-plan/preferences/1";
const DEFAULTS = { language: null, theme: "auto", key: "", system: "", sampling: {} };

let preferences = { ...DEFAULTS, ...read() };

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME));
    return kept && typeof kept === "object" ? kept : {};
  } catch {
    return {};
  }
}

export const get = (name) => preferences[name];

export function set(changes) {
  preferences = { ...preferences, ...changes };
  try {
    localStorage.setItem(NAME, JSON.stringify(preferences));
  } catch {
    // a browser that keeps nothing: the choice holds until the page closes
  }
}

export const keyOfServer = () => preferences.key;
