// The layer map beside the chat: asks /status while somebody looks.
import { getJson } from "./api.js";
import { make } from "./dom.js";
import { bar, blockGrid, deviceName, figure, tones } from "./layer_map.js";
import { t } from "./strings.js";
import { bytes, seconds, whole } from "./units.js";

const IDLE_MS = 2000;
const BUSY_MS = 400;

export class Live {
  /** `onStatus(status, error)` hears of every answer; one of the two is null. */
  constructor(element, onStatus) {
    this.onStatus = onStatus;
    this.sections = Array.from({ length: 4 }, () => make("section"));
    this.drawn = new Map();
    this.wait = IDLE_MS;
    element.replaceChildren(...this.sections);
    document.addEventListener("visibilitychange", () => this.look());
    this.look();
  }

  /** Look now, and often while an answer runs. */
  set busy(busy) {
    this.wait = busy ? BUSY_MS : IDLE_MS;
    this.look();
  }

  /** Draw again with what is known: the language changed. */
  redraw() {
    this.drawn.clear();
    if (this.status) this.#draw(this.status);
  }

  async look() {
    clearTimeout(this.timer);
    if (this.looking || document.hidden) return;
    this.looking = true;
    try {
      this.status = await getJson("/status");
      this.#draw(this.status);
      this.onStatus(this.status, null);
    } catch (error) {
      this.onStatus(null, error);
    }
    this.looking = false;
    this.timer = setTimeout(() => this.look(), this.wait);
  }

  #draw(status) {
    const { stages, last_step: step } = status;
    const [blocks, memory, times, slots] = this.sections;
    this.#section(
      blocks,
      stages.map(({ device, blocks: held, lm_head: head }) => [device, held, head]),
      () => [blockGrid(stages)],
    );
    this.#section(memory, stages, () => memoryOf(stages));
    this.#section(times, step, () => [make("h3", { textContent: t("lastToken") }), ...timesOf(stages, step)]);
    this.#section(slots, [status.slots, status.slots_busy, status.queue_waiting, status.health], () =>
      slotsOf(status),
    );
  }

  /** Build a section again only when what it shows has changed. */
  #section(element, shown, build) {
    const key = JSON.stringify(shown);
    if (this.drawn.get(element) === key) return;
    this.drawn.set(element, key);
    element.replaceChildren(...build());
  }
}

function memoryOf(stages) {
  const scale = Math.max(...stages.flatMap((stage) => [stage.planned_bytes, stage.actual_bytes]));
  return stages.map((stage, index) => {
    const tone = tones(stages)[index];
    const asked = stage.backend === stage.asked_backend ? "" : ` · ${t("asked", stage.asked_backend)}`;
    return make(
      "div",
      { className: "stage" },
      deviceName(stage, tone),
      make("p", { className: "muted", textContent: `${stage.backend}${asked}` }),
      figure(
        `${t("planned")} (${t("estimated")})`,
        bytes(stage.planned_bytes),
        bar([{ amount: stage.planned_bytes, tone, shade: 2 }], scale),
      ),
      figure(
        `${t("actual")} (${t("measured")})`,
        bytes(stage.actual_bytes),
        bar([{ amount: stage.actual_bytes, tone }], scale),
      ),
    );
  });
}

function timesOf(stages, step) {
  if (!step) return [make("p", { className: "muted", textContent: t("noToken") })];
  const colours = tones(stages);
  const hops = Math.max(0, step.hops);
  const parts = [
    ...step.stages.map((amount, index) => ({ label: stages[index].device, amount, tone: colours[index] })),
    { label: t("lmHead"), amount: step.lm_head, tone: "tone-head" },
    { label: t("hops"), amount: hops, tone: "tone-hop" },
  ];
  const total = step.total;
  return [
    bar(parts, total),
    ...parts.map(({ label, amount, tone }) =>
      make(
        "p",
        { className: "figure" },
        make("span", {}, make("i", { className: `dot ${tone}`, "aria-hidden": "true" }), label),
        make("span", { textContent: seconds(amount) }),
      ),
    ),
    make(
      "p",
      { className: "figure total" },
      make("span", { textContent: `${t("all")} (${t("measured")})` }),
      make("span", { textContent: seconds(total) }),
    ),
  ];
}

function slotsOf(status) {
  const { health } = status;
  const tiles = Array.from({ length: Math.min(status.slots, 64) }, (_, index) =>
    make("i", { className: index < status.slots_busy ? "slot busy" : "slot" }),
  );
  const state = {
    ready: t("ready"),
    loading: t("loading", health.loaded_parts, health.all_parts),
    degraded: t("ready"),
    restarting: t("restarting", health.fault),
    failed: t("failed", health.fault),
  };
  return [
    make("h3", { textContent: t("slots") }),
    make("div", { className: "tiles", "aria-hidden": "true" }, ...tiles),
    figure(
      t("busyOf", status.slots_busy, status.slots),
      t("queue", status.queue_waiting, status.queue_limit),
    ),
    figure(t("context"), t("contextTokens", whole(status.context_tokens))),
    figure(t("status"), state[health.status] ?? health.status),
    ...health.degraded.map((text) => make("p", { className: "muted", textContent: t("degraded", text) })),
  ];
}
