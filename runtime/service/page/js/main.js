// Starts the page and joins its parts.
import { Chat } from "./chat.js";
import { newConversation } from "./conversation.js";
import { byId } from "./dom.js";
import { banner, closeList, startFrame } from "./frame.js";
import { ListView } from "./list_view.js";
import { Live } from "./live.js";
import { Planner } from "./planner.js";
import { openSettings } from "./settings_view.js";
import { openStore } from "./store.js";
import { t } from "./strings.js";

startFrame(() => {
  list.draw();
  chat.draw();
  live.redraw();
  planner.draw();
});

const store = await openStore();
const list = new ListView(store, {
  onOpen: open,
  onRemoved: (id) => {
    if (id === list.current) open(newConversation());
  },
});
const chat = new Chat({
  onChange: (conversation) => {
    list.current = conversation.id;
    list.keep(conversation);
  },
  onBusy: (busy) => {
    live.busy = busy;
  },
});
const planner = new Planner(byId("planner"));
const live = new Live(byId("live"), (status, error) => {
  if (status) byId("model").textContent = status.model;
  banner(remark(status, error), Boolean(error));
});

function remark(status, error) {
  if (error) return error.status === 401 ? t("keyNeeded") : error.status ? error.message : t("unreachable");
  const { status: state, loaded_parts: parts, all_parts: all, fault } = status.health;
  if (state === "loading") return t("loading", parts, all);
  if (state === "failed") return t("failed", fault);
  if (state === "restarting") return t("restarting", fault);
  if (state === "degraded") return t("degradedNow");
  return store.lasting ? null : t("noStorage");
}

async function open(conversation) {
  closeList();
  await chat.open(conversation);
  list.show(conversation.id);
  byId("question").focus({ preventScroll: true });
}

function show(planning) {
  document.body.classList.toggle("planning", planning);
  byId("chat").hidden = planning;
  byId("planner").hidden = !planning;
  byId("show-chat").setAttribute("aria-pressed", String(!planning));
  byId("show-planner").setAttribute("aria-pressed", String(planning));
  if (planning) planner.show().catch((error) => banner(error.message, true));
}

byId("new").addEventListener("click", () => open(newConversation()));
byId("show-chat").addEventListener("click", () => show(false));
byId("show-planner").addEventListener("click", () => show(true));
byId("open-settings").addEventListener("click", () => openSettings(() => live.look()));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.busy && !document.querySelector("dialog[open]")) chat.stop();
  if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    show(false);
    open(newConversation());
  }
});

await list.load();
if (list.conversations.length) await open(list.conversations[0]);
document.documentElement.dataset.started = "true";

// Browsers have service workers on HTTPS and on this machine. What was loaded before the worker could see
// it is kept as well, for a visit without the server.
if (navigator.serviceWorker) {
  navigator.serviceWorker.register("service-worker.js").catch(() => {});
  const { active } = await navigator.serviceWorker.ready;
  active.postMessage(performance.getEntriesByType("resource").map((entry) => entry.name));
}
