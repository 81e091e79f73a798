// Starts the page and joins its parts.
import { Chat } from "./chat.js";
import { newConversation } from "./conversation.js";
import { byId } from "./dom.js";
import { ListView } from "./list_view.js";
import { get, set } from "./preferences.js";
import { openSettings } from "./settings_view.js";
import { openStore } from "./store.js";
import { currentLanguage, t, useLanguage } from "./strings.js";

useLanguage(get("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));

const store = await openStore();
const list = new ListView(store, {
  onOpen: (conversation) => open(conversation),
  onRemoved: (id) => { if (id === list.current) open(newConversation()); },
});
const chat = new Chat({ onChange: (one) => list.keep(one), onError: () => {}, onBusy: () => {} });

async function open(conversation) {
  await chat.open(conversation);
  list.show(conversation.id);
}
byId("new").addEventListener("click", () => open(newConversation()));
byId("open-settings").addEventListener("click", () => openSettings(() => {}));
const [latest] = await list.load();
if (latest) await open(latest);
