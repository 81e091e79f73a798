// Drawings that the live map and the planner share: blocks coloured by device, and bars.
import { make } from "./dom.js";
import { t } from "./strings.js";

const CPU_TONE = 1; // the second colour; GPUs take the others in order
const GPU_TONES = [0, 2, 3, 4, 5];

/** A class that colours each stage's device. */
export function tones(stages) {
  let gpus = 0;
  return stages.map(
    (stage) => `tone-${stage.device === "cpu" ? CPU_TONE : GPU_TONES[gpus++ % GPU_TONES.length]}`,
  );
}

export function span(stage) {
  if (stage.first_block === null) return t("noBlocks");
  const { first_block: first, last_block: last } = stage;
  return t("blocks", first === last ? first : `${first}–${last}`);
}

/** Every block in order as a numbered cell, and lm_head where it lives. */
export function blockGrid(stages) {
  const colours = tones(stages);
  const cells = stages.flatMap((stage, index) => {
    const numbers = [];
    for (let block = stage.first_block ?? 0; block <= (stage.last_block ?? -1); block += 1)
      numbers.push(block);
    const tiles = numbers.map((block) =>
      make("span", { className: `block ${colours[index]}`, textContent: block }),
    );
    if (stage.lm_head)
      tiles.push(make("span", { className: `block head ${colours[index]}`, textContent: t("lmHead") }));
    return tiles;
  });
  const count = cells.filter((cell) => !cell.classList.contains("head")).length;
  const words = stages
    .map((stage) => `${stage.device} ${span(stage)}${stage.lm_head ? `, ${t("lmHead")}` : ""}`)
    .join("; ");
  return make("div", { className: "blocks", role: "img", "aria-label": t("mapOf", count, words) }, ...cells);
}

/** A bar of parts `{ amount, tone, faint }` on a scale; `limit` draws a line. The numbers belong beside it. */
export function bar(parts, scale, limit = null) {
  const element = make("div", { className: "bar", "aria-hidden": "true" });
  const share = (amount) => `${Math.min(100, scale ? (100 * amount) / scale : 0)}%`;
  for (const { amount, tone, shade } of parts) {
    const part = make("i", { className: `${tone} shade-${shade ?? 0}` });
    part.style.width = share(amount);
    element.append(part);
  }
  if (limit !== null) {
    const line = make("b");
    line.style.left = share(limit);
    element.append(line);
  }
  return element;
}

/** A row: what it is, and its number, above a bar or alone. */
export function figure(label, value, drawn = null, className = "") {
  const row = make(
    "p",
    { className: "figure" },
    make("span", { textContent: label }),
    make("span", { textContent: value }),
  );
  return make("div", { className: `row ${className}` }, row, drawn);
}

/** A device's name with its colour. */
export function deviceName(stage, tone) {
  return make(
    "h3",
    { className: "device" },
    make("i", { className: tone, "aria-hidden": "true" }),
    stage.device,
    make("span", { className: "muted", textContent: span(stage) }),
  );
}
