// The planner: sliders and choices; every change asks /plan/what-if, and the last answer counts.
import { getJson, postJson } from "./api.js";
import { make, say } from "./dom.js";
import { planView } from "./plan_view.js";
import { keyOfServer } from "./preferences.js";
import { t } from "./strings.js";
import { bytes, whole } from "./units.js";

const GIB = 2 ** 30;
const PRECISIONS = ["", "fp32", "fp16", "int8", "int4"];
const MOST_VRAM_GIB = 48;
const MOST_SLOTS = 32;

export class Planner {
  constructor(element) {
    this.element = element;
    this.result = make("section", { className: "result" });
    this.asked = {
      model: null,
      gpu: "",
      vram: 8,
      context: 0,
      slots: 1,
      gpu_precision: "",
      cpu_precision: "",
      policy: "reserve",
    };
  }

  /** Show the planner, asking about the served model at first. */
  async show() {
    if (!this.choices) {
      const [choices, { model }] = await Promise.all([getJson("/plan/choices"), getJson("/status")]);
      this.choices = choices;
      this.asked.model = model;
    }
    this.draw();
    await this.#ask();
  }

  draw() {
    if (!this.choices) return;
    const { asked, choices } = this;
    const contexts = contextsOf(choices.models.find((model) => model.name === asked.model));
    if (!contexts.includes(asked.context)) asked.context = contexts.includes(2048) ? 2048 : contexts.at(-1);
    const card = choices.gpus.find((gpu) => gpu.name === asked.gpu);
    const most = card ? card.memory_bytes / GIB : MOST_VRAM_GIB;
    asked.vram = Math.min(asked.vram, most);
    const controls = make(
      "form",
      { className: "controls" },
      make("h2", { textContent: t("planner") }),
      make("p", { className: "muted", textContent: t("plannerIntro") }),
      this.#select(
        "model",
        t("model"),
        choices.models.map(({ name }) => [name, name]),
        true,
      ),
      this.#select(
        "gpu",
        t("gpu"),
        [["", t("anyGpu")], ...choices.gpus.map(({ name }) => [name, name])],
        true,
      ),
      this.#slider("vram", t("vram"), { min: 0, max: most, step: 0.25, value: asked.vram }, Number, (value) =>
        bytes(value * GIB),
      ),
      this.#slider(
        "context",
        t("context"),
        { min: 0, max: contexts.length - 1, step: 1, value: contexts.indexOf(asked.context) },
        (value) => contexts[value],
        (value) => t("contextTokens", whole(value)),
      ),
      this.#slider(
        "slots",
        t("slotsWanted"),
        { min: 1, max: MOST_SLOTS, step: 1, value: asked.slots },
        Number,
        String,
      ),
      this.#select(
        "gpu_precision",
        t("gpuPrecision"),
        PRECISIONS.map((name) => [name, name || t("byDefault")]),
      ),
      this.#select(
        "cpu_precision",
        t("cpuPrecision"),
        PRECISIONS.map((name) => [name, name || t("byDefault")]),
      ),
      this.#select("policy", t("policy"), [
        ["reserve", t("policyReserve")],
        ["fit", t("policyFit")],
      ]),
      keyOfServer()
        ? null
        : make("a", { href: "report", target: "_blank", rel: "noopener", textContent: t("report") }),
    );
    controls.addEventListener("submit", (event) => event.preventDefault());
    this.element.replaceChildren(controls, this.result);
    if (this.plan) this.result.replaceChildren(...planView(this.plan));
  }

  #select(name, label, options, redraws = false) {
    const select = make(
      "select",
      { name },
      ...options.map(([value, text]) => make("option", { value, textContent: text })),
    );
    select.value = this.asked[name];
    select.addEventListener("change", () => {
      this.asked[name] = select.value;
      if (name === "gpu")
        this.asked.vram =
          (this.choices.gpus.find((gpu) => gpu.name === select.value)?.memory_bytes ?? 8 * GIB) / GIB;
      if (redraws) {
        this.draw();
        this.element.querySelector(`[name="${name}"]`).focus();
      }
      this.#ask();
    });
    return make("label", {}, label, select);
  }

  #slider(name, label, range, valueOf, textOf) {
    const { value, ...limits } = range;
    const input = make("input", { type: "range", name, ...limits });
    input.value = value; // after the limits, which would bend it
    const shown = make("strong", { "aria-hidden": "true" });
    const show = (amount) => {
      shown.textContent = textOf(amount);
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    show(valueOf(value));
    input.addEventListener("input", () => {
      this.asked[name] = valueOf(input.value);
      show(this.asked[name]);
      this.#ask();
    });
    return make(
      "label",
      {},
      make("span", { className: "figure" }, make("span", { textContent: label }), shown),
      input,
    );
  }

  /** Ask at once; while one question is under way, only the newest of the others is asked after it. */
  async #ask() {
    this.again = true;
    if (this.asking) return;
    this.asking = true;
    while (this.again) {
      this.again = false;
      this.result.setAttribute("aria-busy", "true");
      try {
        this.plan = await postJson("/plan/what-if", questionOf(this.asked));
        this.result.replaceChildren(...planView(this.plan));
      } catch (error) {
        this.plan = null; // a refusal in one clear sentence
        this.result.replaceChildren(make("p", { className: "verdict bad", textContent: error.message }));
      }
    }
    this.result.setAttribute("aria-busy", "false");
    say(this.result.querySelector(".verdict").textContent);
    this.asking = false;
  }
}

function questionOf({ vram, gpu, gpu_precision, cpu_precision, ...rest }) {
  return {
    ...rest,
    vram: [String(vram)],
    ...(gpu ? { gpu: [gpu] } : {}),
    ...(gpu_precision ? { gpu_precision } : {}),
    ...(cpu_precision ? { cpu_precision } : {}),
  };
}

/** Powers of two up to what the model takes, which is the last. */
function contextsOf(model) {
  const most = model?.max_context ?? 2048;
  const contexts = [];
  for (let tokens = 256; tokens < most; tokens *= 2) contexts.push(tokens);
  return [...contexts, most];
}
