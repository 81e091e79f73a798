// Asks the server for one answer and fills a message with it.
import { chatChunks } from "./api.js";
import { get } from "./preferences.js";

/** The sampling settings as fields of a request; what is empty is left to the server. */
function samplingFields() {
  const { stop, ...numbers } = get("sampling");
  const fields = Object.fromEntries(
    Object.entries(numbers).filter(([, value]) => value !== null && value !== ""),
  );
  const stops = (stop ?? "").split("\n").filter(Boolean);
  return stops.length ? { ...fields, stop: stops } : fields;
}

/**
 * Fill `message` from a stream; `onText` is called as it grows.
 * Never throws: what goes wrong is the message's `fault`.
 */
export async function answerInto(message, messages, signal, onText) {
  const started = performance.now();
  try {
    for await (const chunk of chatChunks({ messages, ...samplingFields() }, signal)) {
      const choice = chunk.choices[0];
      if (choice?.delta.content) {
        message.figures ??= { firstTokenSeconds: (performance.now() - started) / 1000, byServer: false };
        message.content += choice.delta.content;
        onText();
      }
      if (choice?.finish_reason) message.end = choice.finish_reason;
      if (chunk.timings) {
        message.figures = {
          firstTokenSeconds: chunk.timings.time_to_first_token_seconds,
          tokensPerSecond: chunk.timings.decode_tokens_per_second,
          byServer: true,
        };
      }
      if (chunk.usage && message.figures) message.figures.tokens = chunk.usage.completion_tokens;
    }
  } catch (error) {
    if (!signal.aborted) {
      message.fault = error.message;
      delete message.end;
    }
  }
}
