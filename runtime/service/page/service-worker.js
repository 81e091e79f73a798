// Keeps the page's own files for when the server is away; the server is asked first. Answers are never kept.
const CACHE = "glm-plan-page";
const KEPT = /^\/(?:index\.html|manifest\.webmanifest|(?:js|css|icons|vendor)\/[\w.-]+)?$/;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.add("./"))
      .then(() => self.skipWaiting()),
  );
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("message", (event) => {
  event.waitUntil(keepMissing(event.data.filter(isKept)));
});
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && isKept(event.request.url)) event.respondWith(serve(event.request));
});

async function keepMissing(addresses) {
  const cache = await caches.open(CACHE);
  const kept = new Set((await cache.keys()).map((request) => request.url));
  await cache.addAll(addresses.filter((address) => !kept.has(address)));
}

function isKept(address) {
  const { origin, pathname } = new URL(address);
  return origin === location.origin && KEPT.test(pathname);
}

async function serve(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
