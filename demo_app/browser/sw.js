// Lets the page work offline: what was fetched is kept, and given where there is no network.

self.addEventListener("fetch", (event) => event.respondWith(answer(event)));

/** Answers a request of the page from the network, else from the cache. */
async function answer(event) {
  const { request } = event;
  const cache = await caches.open("customocr-reader");
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept && request.url.includes("/onnxruntime-web@")) return kept; // one version never changes
  try {
    const response = await fetch(request, { cache: "no-cache" }); // the browser may keep old ones for days
    if (response.ok) event.waitUntil(cache.put(request, response.clone()).catch(() => {})); // no room
    return response;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}
