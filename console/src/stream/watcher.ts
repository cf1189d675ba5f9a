import { type Host, Session } from "./connection";
import { Refused } from "./gateway-requests";
import { Splicer } from "./splice";
import type { Chunk, StreamStatus } from "./types";
import type { WatchOptions } from "./watch";

/** A task that was submitted a moment ago may not have its record yet: so many answers "not there" are not final. */
const NOT_THERE_YET = 4;
const RETRY_MS = [500, 1_000, 2_000, 4_000, 8_000, 10_000] as const;

/** One session after the other until the execution has ended. `watch` is how it is used. */
export class Watcher implements Host {
  status: StreamStatus;
  failure: Error | null = null;
  readonly splicer: Splicer;
  #closed = false;
  #session: Session | null = null;
  #wake: () => void = () => undefined;

  constructor(readonly options: WatchOptions) {
    this.splicer = new Splicer(options.from ?? 1);
    this.status = {
      state: "catching-up",
      transport: null,
      error: null,
      retryAt: null,
      sequence: this.splicer.next - 1,
    };
  }

  async run(): Promise<void> {
    const online = (): void => this.wake();
    const offline = (): void => this.#session?.fail(new Error("the browser is offline"));
    globalThis.addEventListener?.("online", online);
    globalThis.addEventListener?.("offline", offline);
    try {
      let failures = 0;
      while (!this.#closed) {
        const before = this.splicer.next;
        try {
          this.#session = new Session(this);
          await this.#session.run();
          return;
        } catch (error) {
          if (this.#closed) return;
          // A session that brought something was a good one: start the backoff anew.
          failures = this.splicer.next > before || this.status.state === "connected" ? 0 : failures;
          if (!(await this.#disconnected(error as Error, failures))) return;
          failures += 1;
        }
      }
    } finally {
      globalThis.removeEventListener?.("online", online);
      globalThis.removeEventListener?.("offline", offline);
    }
  }

  wake(): void {
    this.#wake();
  }

  close(): void {
    this.#closed = true;
    this.#session?.fail(new Error("closed"));
    this.wake();
  }

  deliver(chunks: Chunk[]): void {
    if (chunks.length === 0 || this.#closed) return;
    this.status = { ...this.status, sequence: this.splicer.next - 1 };
    this.options.onChunks(chunks);
  }

  report(change: Partial<StreamStatus>): void {
    const next = { ...this.status, ...change, sequence: this.splicer.next - 1 };
    const same =
      next.state === this.status.state &&
      next.transport === this.status.transport &&
      next.error === this.status.error &&
      next.retryAt === this.status.retryAt;
    this.status = next;
    if (!same) this.options.onStatus?.(next);
  }

  /** Reports the failure and waits; false when trying again is of no use. */
  async #disconnected(error: Error, failures: number): Promise<boolean> {
    const base = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] ?? 10_000;
    const final = error instanceof Refused && error.final && !(error.status === 404 && failures < NOT_THERE_YET);
    const wait = base * (0.75 + Math.random() / 2);
    const retryAt = final ? null : Date.now() + wait;
    this.report({ state: "disconnected", transport: null, error: error.message, retryAt });
    if (final) this.failure = error;
    else await this.#sleep(wait);
    return !final;
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
