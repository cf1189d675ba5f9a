/** The longest that chunks wait in a hidden page, where no frame comes, in milliseconds. */
const HIDDEN_MS = 250;

/** Joins what arrives between two frames into one delivery, so that a page renders once a frame at most. */
export interface Batch<T> {
  add(items: readonly T[]): void;
  /** Delivers now what is waiting. */
  flush(): void;
  /** Forgets what is waiting. */
  close(): void;
}

/** @param deliver called at most once per animation frame, with everything since the last call, in order */
export function frameBatch<T>(deliver: (items: T[]) => void): Batch<T> {
  let waiting: T[] = [];
  let cancel: (() => void) | null = null;

  function run(): void {
    cancel?.();
    cancel = null;
    const items = waiting;
    waiting = [];
    if (items.length > 0) deliver(items);
  }

  return {
    add(items) {
      for (const item of items) waiting.push(item);
      if (!cancel && waiting.length > 0) cancel = schedule(run);
    },
    flush: run,
    close() {
      cancel?.();
      cancel = null;
      waiting = [];
    },
  };
}

function schedule(run: () => void): () => void {
  // Whichever comes first: a page that is hidden in the meantime gets no frame.
  const timer = setTimeout(run, HIDDEN_MS);
  const frame = typeof requestAnimationFrame === "function" ? requestAnimationFrame(run) : null;
  return () => {
    clearTimeout(timer);
    if (frame !== null) cancelAnimationFrame(frame);
  };
}
