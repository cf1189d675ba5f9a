import type { Chunk, Watch } from "../stream";

/**
 * The chunks of a watch as an iterator, which ends with the execution.
 *
 * @param start begins to watch
 * @param signal ends it with its reason
 * @throws Refused when the gateway refuses for good
 */
export async function* chunksOf(
  start: (onChunks: (chunks: Chunk[]) => void) => Watch,
  signal?: AbortSignal,
): AsyncGenerator<Chunk> {
  let waiting: Chunk[] = [];
  let over = false;
  let wake = (): void => undefined;
  const watching = start((chunks) => {
    for (const chunk of chunks) waiting.push(chunk);
    wake();
  });
  const stop = (): void => watching.close();
  signal?.addEventListener("abort", stop);
  void watching.done.then(() => {
    over = true;
    wake();
  });
  try {
    while (!(over && waiting.length === 0)) {
      signal?.throwIfAborted();
      const ready = waiting;
      waiting = [];
      yield* ready;
      if (waiting.length > 0 || over) continue;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    signal?.throwIfAborted();
    if (watching.failure) throw watching.failure;
  } finally {
    signal?.removeEventListener("abort", stop);
    watching.close();
  }
}
