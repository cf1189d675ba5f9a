import { CHUNK_TYPES, type Chunk } from "./types";

const KNOWN = new Set<string>(CHUNK_TYPES);

/** Something that was to be a chunk and is none. */
export class NotAChunk extends Error {
  override name = "NotAChunk";
}

/**
 * Reads one chunk. A type this version does not know is kept: later versions may add some.
 *
 * @throws NotAChunk
 */
export function parseChunk(text: string): Chunk {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new NotAChunk(`not JSON: ${text.slice(0, 80)}`);
  }
  const chunk = value as Partial<Chunk> | null;
  if (!chunk || typeof chunk.seq !== "number" || typeof chunk.type !== "string") {
    throw new NotAChunk(`no chunk: ${text.slice(0, 80)}`);
  }
  return {
    seq: chunk.seq,
    type: KNOWN.has(chunk.type) ? chunk.type : "stdout",
    data: chunk.data ?? "",
    timestamp: chunk.timestamp ?? "",
    attempt: chunk.attempt ?? 1,
    detail: chunk.detail ?? null,
  };
}

/**
 * Reads newline-delimited JSON, a batch of chunks per piece the network delivers.
 *
 * @throws NotAChunk on a line that is none, which a connection cut in mid-line also shows as
 */
export async function* readChunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Chunk[]> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (done ? decoder.decode() : decoder.decode(value, { stream: true }))).split("\n");
      rest = done ? "" : (lines.pop() ?? "");
      const chunks = lines.filter((line) => line.trim() !== "").map(parseChunk);
      if (chunks.length > 0) yield chunks;
      if (done) return;
    }
  } finally {
    // Also reached when the caller stops early: lets the connection go.
    reader.cancel().catch(() => undefined);
  }
}
