/** A wait that took longer than it may: whoever was asked may be there, but does not answer. */
export class TimedOut extends Error {
  override name = "TimedOut";
}

/**
 * Gives `call` at most `ms` milliseconds, and no longer than until `over` is aborted. Not left to the call: one that
 * heeds no signal is let go all the same.
 *
 * @throws TimedOut, or the reason of `over`
 */
export async function within<T>(ms: number, over: AbortSignal, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const wait = new Wait(over);
  try {
    wait.start(ms);
    return await wait.first(call(wait.signal));
  } finally {
    wait.end();
  }
}

/**
 * The pieces of `open()`, each within `ms` milliseconds of when it was asked for, until `over` is aborted.
 *
 * @throws TimedOut, or the reason of `over`
 */
export async function* piecesWithin<T>(
  ms: number,
  over: AbortSignal,
  open: (signal: AbortSignal) => AsyncIterable<T>,
): AsyncGenerator<T> {
  const wait = new Wait(over);
  const pieces = open(wait.signal)[Symbol.asyncIterator]();
  try {
    for (;;) {
      wait.start(ms);
      const piece = await wait.first(pieces.next());
      wait.stop();
      if (piece.done) return;
      yield piece.value;
    }
  } finally {
    wait.end();
    // Not awaited: one that hangs in a read comes back from it only when that does.
    pieces.return?.().catch(() => undefined);
  }
}

/** Resolves after `ms` milliseconds, or rejects with the reason of `over`. */
export function pause(ms: number, over: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(over.reason);
    };
    const timer = setTimeout(() => {
      over.removeEventListener("abort", stop);
      resolve();
    }, ms);
    over.addEventListener("abort", stop);
    if (over.aborted) stop();
  });
}

/** One who waits: for an answer, for a limit of time, and for the end of all waiting. */
class Wait {
  readonly #own = new AbortController();
  readonly #aborted: Promise<never>;
  readonly #stop = (): void => this.#own.abort(this.over.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly over: AbortSignal) {
    this.#aborted = new Promise((_, reject) => {
      this.signal.addEventListener("abort", () => reject(this.signal.reason));
    });
    this.#aborted.catch(() => undefined);
    over.addEventListener("abort", this.#stop);
    if (over.aborted) this.#stop();
  }

  get signal(): AbortSignal {
    return this.#own.signal;
  }

  first<T>(one: Promise<T>): Promise<T> {
    return Promise.race([one, this.#aborted]);
  }

  start(ms: number): void {
    this.#timer = setTimeout(() => this.#own.abort(new TimedOut("the gateway does not answer")), ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  end(): void {
    this.stop();
    this.over.removeEventListener("abort", this.#stop);
    this.#own.abort();
  }
}
