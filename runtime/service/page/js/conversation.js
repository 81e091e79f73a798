// A conversation as data: made, titled, exported, and read from a file that nobody vouches for.

const SCHEMA = "glm-plan/conversations/1";
const ROLES = new Set(["user", "assistant"]);

/** An id without crypto.randomUUID, which pages outside HTTPS and localhost lack. */
function newId() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "", created: now, changed: now, messages: [] };
}

/** The title that somebody gave, or the beginning of the first question. */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages.find((message) => message.role === "user");
  return first ? first.content.trim().replace(/\s+/g, " ").slice(0, 60) : "";
}

/** Messages as the API takes them: what failed before its first word is left out, with its question. */
export function messagesToSend(conversation, system) {
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const { role, content } of conversation.messages) {
    if (role === "assistant" && !content) messages.pop();
    else messages.push({ role, content });
  }
  return messages;
}

export const exported = (conversations) => JSON.stringify({ schema: SCHEMA, conversations }, null, 1);

/** Conversations of an exported file, with new ids. Throws Error with a reason. */
export function imported(text) {
  const document = JSON.parse(text);
  if (document?.schema !== SCHEMA) throw new Error(`schema is not ${SCHEMA}`);
  if (!Array.isArray(document.conversations)) throw new Error("conversations is not a list");
  return document.conversations.map((one) => ({
    ...newConversation(),
    title: textOf(one?.title ?? "").slice(0, 200),
    created: timeOf(one?.created),
    changed: timeOf(one?.changed),
    messages: messagesOf(one?.messages),
  }));
}

function messagesOf(messages) {
  if (!Array.isArray(messages)) throw new Error("messages is not a list");
  return messages.map((message) => {
    if (!ROLES.has(message?.role)) throw new Error("a role is neither user nor assistant");
    return { role: message.role, content: textOf(message.content) };
  });
}

function textOf(value) {
  if (typeof value !== "string") throw new Error("a text is not a string");
  return value;
}

const timeOf = (value) => (Number.isFinite(value) ? value : Date.now());
