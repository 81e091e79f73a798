// A plan drawn: verdict, blocks, speed, memory item by item, what the planner remarks.
import { copyButton, make } from "./dom.js";
import { bar, blockGrid, deviceName, figure, tones } from "./layer_map.js";
import { t } from "./strings.js";
import { bytes, number, seconds, whole } from "./units.js";

const ITEMS = [
  ["weights_bytes", "weights"],
  ["lm_head_bytes", "lmHead"],
  ["kv_cache_bytes", "kvCache"],
  ["workspace_bytes", "workspace"],
  ["runtime_bytes", "runtime"],
];

/** Elements for a plan as the API gives it. */
export function planView(plan) {
  const over = overOf(plan);
  const verdict = over.length
    ? over.map(([name, amount]) => t("verdictOver", name, bytes(amount))).join(" ")
    : t("verdictFits");
  const blocks = plan.gpu_blocks + plan.cpu_blocks;
  return [
    make(
      "p",
      { className: `verdict ${over.length ? "bad" : "good"}` },
      make("strong", { textContent: verdict }),
      ` ${t("onGpu", whole(plan.gpu_blocks), whole(blocks))} (${t("estimated")})`,
    ),
    blockGrid(plan.stages),
    make("div", { className: "cards" }, ...speedCards(plan.speed)),
    make("div", { className: "stages" }, ...memoryOf(plan)),
    ...rest(plan),
  ];
}

/** What does not fit: [device or RAM, missing bytes]. The processor's own need is part of RAM. */
function overOf({ stages, ram }) {
  const places = stages
    .filter((stage) => stage.device !== "cpu")
    .map((stage) => [stage.device, stage.memory.total_bytes - stage.free_bytes]);
  return [...places, ["RAM", ram.needed_bytes - ram.available_bytes]].filter(([, amount]) => amount > 0);
}

function speedCards(speed) {
  if (!speed) return [];
  const label = t(speed.provenance);
  const card = (title, value) =>
    make(
      "div",
      { className: "card" },
      make("strong", { textContent: value }),
      make("span", { className: "muted", textContent: `${title} (${label})` }),
    );
  return [
    card(t("decode"), `${number(speed.decode_tokens_per_second)} ${t("tokensPerSecond")}`),
    card(t("prefill"), `${number(speed.prefill_tokens_per_second)} ${t("tokensPerSecond")}`),
    card(t("firstTokenOf", whole(speed.prompt_tokens)), seconds(speed.time_to_first_token_seconds)),
    card(t("step"), seconds(speed.step_seconds)),
  ];
}

function memoryOf(plan) {
  const colours = tones(plan.stages);
  const stages = plan.stages.map((stage, index) => {
    const { memory, free_bytes: free } = stage;
    const parts = ITEMS.map(([name, label], shade) => ({
      label,
      amount: memory[name],
      tone: colours[index],
      shade,
    })).filter(({ amount }) => amount > 0);
    const scale = Math.max(free, memory.total_bytes) * 1.02;
    return make(
      "div",
      { className: "stage" },
      deviceName(stage, colours[index]),
      make("p", { className: "muted", textContent: `${stage.backend} · ${stage.precision}` }),
      needAndFree(
        memory.total_bytes,
        free,
        memory.provenance,
        stage.free_provenance,
        bar(parts, scale, free),
      ),
      make(
        "p",
        { className: "items muted" },
        ...parts.map(({ label, amount, tone, shade }) =>
          make(
            "span",
            {},
            make("i", { className: `dot ${tone} shade-${shade}`, "aria-hidden": "true" }),
            `${t(label)} ${bytes(amount)}`,
          ),
        ),
      ),
    );
  });
  const { ram } = plan;
  const scale = Math.max(ram.needed_bytes, ram.available_bytes) * 1.02;
  const drawn = bar([{ amount: ram.needed_bytes, tone: "tone-hop" }], scale, ram.available_bytes);
  return [
    ...stages,
    make(
      "div",
      { className: "stage" },
      make("h3", { textContent: t("ram") }),
      needAndFree(ram.needed_bytes, ram.available_bytes, ram.provenance, ram.available_provenance, drawn),
    ),
  ];
}

function needAndFree(needed, free, provenance, freeProvenance, drawn) {
  const left = free - needed;
  const text = left < 0 ? t("over", bytes(-left)) : t("fitsWith", bytes(left));
  return figure(
    `${t("needed")} ${bytes(needed)} (${t(provenance)}), ${t("free")} ${bytes(free)} (${t(freeProvenance)})`,
    text,
    drawn,
    left < 0 ? "bad" : "good",
  );
}

function rest(plan) {
  const remarks = [...plan.warnings, ...plan.notes];
  const parts = [
    make("h3", { textContent: t("rule") }),
    make("p", { textContent: plan.decision.text ?? plan.decision.formula }),
  ];
  if (plan.command) {
    parts.push(
      make("h3", { textContent: t("command") }),
      make(
        "p",
        { className: "command" },
        make("code", { textContent: plan.command }),
        copyButton(plan.command),
      ),
    );
  }
  if (remarks.length) {
    parts.push(
      make(
        "details",
        { open: plan.warnings.length > 0 },
        make("summary", { textContent: `${t("notes")} (${remarks.length})` }),
        make("ul", {}, ...remarks.map((text) => make("li", { textContent: text, lang: "en" }))),
      ),
    );
  }
  return parts;
}
