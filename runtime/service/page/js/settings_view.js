// The settings: sampling, system message, key. Fields that stay empty leave the choice to the server.
import { byId, make } from "./dom.js";
import { get, set } from "./preferences.js";
import { t } from "./strings.js";

const NUMBERS = [
  ["temperature", "temperature", { min: 0, max: 2, step: "any" }, "zeroGreedy"],
  ["max_tokens", "maxTokens", { min: 1, step: 1 }, "serverDefault"],
  ["top_p", "topP", { min: 0.001, max: 1, step: "any" }, "serverDefault"],
  ["top_k", "topK", { min: 0, step: 1 }, "serverDefault"],
  ["min_p", "minP", { min: 0, max: 1, step: "any" }, "serverDefault"],
  ["seed", "seed", { step: 1 }, "randomSeed"],
  ["presence_penalty", "presence", { min: -2, max: 2, step: "any" }, "serverDefault"],
  ["frequency_penalty", "frequency", { min: -2, max: 2, step: "any" }, "serverDefault"],
];

/** Open the dialog; `onChange` is called when something was chosen. */
export function openSettings(onChange) {
  const dialog = byId("settings");
  const sampling = get("sampling");
  const fields = NUMBERS.map(([name, label, limits, hint]) =>
    field(label, make("input", { type: "number", name, value: sampling[name] ?? "", ...limits }), hint),
  );
  const form = make(
    "form",
    { method: "dialog" },
    make("h2", { id: "settings-title", textContent: t("settings") }),
    field("system", make("textarea", { name: "system", rows: 2, value: get("system") }), null, "wide"),
    ...fields,
    field("stopTexts", make("textarea", { name: "stop", rows: 2, value: sampling.stop ?? "" }), null, "wide"),
    field(
      "apiKey",
      make("input", { type: "password", name: "key", value: get("key"), autocomplete: "off" }),
      "keyKept",
      "wide",
    ),
  );
  const reset = make("button", { type: "button", textContent: t("reset") });
  reset.addEventListener("click", () => {
    for (const input of form.elements)
      if (input.type === "number" || input.name === "stop" || input.name === "system") input.value = "";
  });
  form.append(
    make("p", { className: "end" }, reset, make("button", { className: "primary", textContent: t("done") })),
  );
  form.addEventListener("submit", () => {
    const value = (name) => form.elements[name].value;
    const numbers = NUMBERS.filter(([name]) => value(name) !== "").map(([name]) => [
      name,
      Number(value(name)),
    ]);
    set({
      sampling: { ...Object.fromEntries(numbers), stop: value("stop") },
      system: value("system"),
      key: value("key").trim(),
    });
    onChange();
  });
  dialog.replaceChildren(form);
  dialog.showModal();
}

function field(label, input, hint, className = "") {
  return make("label", { className }, t(label), input, hint ? make("small", { textContent: t(hint) }) : null);
}
