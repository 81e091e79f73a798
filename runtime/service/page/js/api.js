// Requests to the server that sent this page.
import { keyOfServer } from "./preferences.js";

/** A refusal of the server in its own words; `status` is 0 when it could not be reached. */
class ServerError extends Error {
  constructor(message, status, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function request(path, { body, signal } = {}) {
  const headers = {};
  const key = keyOfServer();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(error.message, 0);
  }
  if (response.ok) return response;
  const error = (await response.json().catch(() => ({}))).error ?? {};
  throw new ServerError(error.message ?? `HTTP ${response.status}`, response.status, error.code);
}

export const getJson = async (path) => (await request(path)).json();

export const postJson = async (path, body, signal) => (await request(path, { body, signal })).json();

/** Yield the chunks of a streamed chat completion. Throws ServerError, also for a stream that breaks. */
export async function* chatChunks(question, signal) {
  const body = { ...question, stream: true, stream_options: { include_usage: true } };
  const response = await request("/v1/chat/completions", { body, signal });
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, 500, chunk.error.code);
    yield chunk;
  }
  if (!ended) throw new ServerError("the connection broke before the answer ended.", 0);
}

/** The data of server-sent events; comments and other fields are passed over. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
