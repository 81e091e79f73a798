// Conversations in IndexedDB, which holds more than localStorage; in memory where there is none.

const NAME = "glm-plan";
const TABLE = "conversations";

const finished = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

async function openDatabase() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return finished(request);
}

/** A store with `all`, `put` and `remove`; `lasting` tells whether it outlives the page. */
export async function openStore() {
  try {
    const database = await openDatabase();
    const table = (mode) => database.transaction(TABLE, mode).objectStore(TABLE);
    return {
      lasting: true,
      all: () => finished(table("readonly").getAll()),
      put: (conversation) => finished(table("readwrite").put(conversation)),
      remove: (id) => finished(table("readwrite").delete(id)),
    };
  } catch {
    const kept = new Map();
    return {
      lasting: false,
      all: async () => [...kept.values()],
      put: async (conversation) => void kept.set(conversation.id, structuredClone(conversation)),
      remove: async (id) => void kept.delete(id),
    };
  }
}
