import { Refused, TERMINAL_STATES } from "./gateway";
import { keepRenewed, type Renewed, renewalDelay } from "./renewal";
import { Splicer } from "./splice";
import type { Chunk, Connector, Live, StreamStatus, Viewer } from "./types";
import type { WatchOptions } from "./watch";

/** While nothing arrives, how often the record is asked whether something was missed, in milliseconds. */
const PROBE_MS = 5_000;
/** Tries to fill one hole before it is stated as a gap; the wait doubles from `FILL_MS`. */
const FILL_TRIES = 4;
const FILL_MS = 250;
/** The record is written a moment after the last chunk: the first check follows it by this, then twice as long. */
const PROBE_SOON_MS = 100;
/** A task that was submitted a moment ago may not have its record yet: so many answers "not there" are not final. */
const NOT_THERE_YET = 4;
const RETRY_MS = [500, 1_000, 2_000, 4_000, 8_000, 10_000] as const;

/** Subscribes, reads history, splices both, until the execution has ended. `watch` is how it is used. */
export class Watcher {
  status: StreamStatus;
  readonly #splicer: Splicer;
  readonly #abort = new AbortController();
  #live: Live | null = null;
  #connector: Connector | null = null;
  #wake: (() => void) | null = null;
  #filling: Promise<void> | null = null;
  /** Called when the session in progress must be given up. */
  #fail: (error: Error) => void = () => undefined;
  #checkSoon: () => void = () => undefined;

  constructor(private readonly options: WatchOptions) {
    this.#splicer = new Splicer(options.from ?? 1);
    this.status = {
      state: "catching-up",
      transport: null,
      error: null,
      retryAt: null,
      sequence: this.#splicer.next - 1,
    };
  }

  async run(): Promise<void> {
    const online = (): void => this.wake();
    const offline = (): void => this.#fail(new Error("the browser is offline"));
    globalThis.addEventListener?.("online", online);
    globalThis.addEventListener?.("offline", offline);
    try {
      let failures = 0;
      while (!this.#abort.signal.aborted) {
        const before = this.#splicer.next;
        try {
          await this.#session();
          return;
        } catch (error) {
          if (this.#abort.signal.aborted) return;
          // A session that brought something was a good one: start the backoff anew.
          failures = this.#splicer.next > before || this.status.state === "connected" ? 0 : failures;
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
    this.#wake?.();
  }

  close(): void {
    this.#abort.abort();
    this.#live?.close();
    this.wake();
    this.#fail(new Error("closed"));
  }

  /** One connection's life. Returns once the execution has ended and is delivered whole; throws to be tried again. */
  async #session(): Promise<void> {
    const { gateway } = this.options;
    this.#set({ state: "catching-up", transport: null, error: null, retryAt: null });
    const probe = await gateway.probe();
    if (probe.ended) return this.#finish(probe.lastSequence);

    const failed = new Promise<never>((_, reject) => {
      this.#fail = reject;
    });
    failed.catch(() => undefined);
    let stopRenewing = (): void => undefined;
    try {
      // Something to read while the connection is made, which may take seconds where NATS cannot be reached.
      const early = this.#readHistory();
      early.catch(() => undefined);
      const viewer = await gateway.viewer().catch(withoutNats);
      const renewAt = Date.now() + renewalDelay(viewer, Date.now());
      await Promise.race([this.#open(viewer, early), failed]);
      await Promise.race([early, failed]);
      // The rule: what was said before the subscription is in the history that is read after it.
      if (this.#connector?.order === "subscribe-first") await Promise.race([this.#catchUp(), failed]);
      this.#set({ state: "connected" });
      stopRenewing = keepRenewed(
        renewAt,
        () => this.#renew(),
        (error) => this.#fail(error),
      );
      await Promise.race([this.#untilEnded(failed), failed]);
    } finally {
      stopRenewing();
      this.#fail = () => undefined;
      this.#checkSoon = () => undefined;
      const live = this.#live;
      this.#live = null;
      live?.close();
    }
  }

  /** Opens the first way that can be opened. */
  async #open(viewer: Viewer, early: Promise<void>): Promise<void> {
    const errors: string[] = [];
    for (const connector of this.options.connectors) {
      if (connector.order === "history-first") await early;
      try {
        this.#use(connector, await this.#openOne(connector, viewer));
        return;
      } catch (error) {
        errors.push((error as Error).message || "cannot be reached");
      }
    }
    throw new Error(errors.join("; "));
  }

  #openOne(connector: Connector, viewer: Viewer): Promise<Live> {
    return connector.open(viewer, this.#splicer.next, (chunk) => this.#arrived(chunk));
  }

  #use(connector: Connector, live: Live): void {
    if (this.#abort.signal.aborted) {
      live.close();
      return;
    }
    const previous = this.#live;
    this.#live = live;
    this.#connector = connector;
    this.#set({ transport: connector.transport });
    void live.closed.then((reason) => {
      // One that was replaced may close; the one in use may not.
      if (this.#live === live) this.#fail(new Error(reason ?? "connection closed"));
    });
    previous?.close();
  }

  /** Opens the next connection before the present one expires: both overlap, so nothing is missed. */
  async #renew(): Promise<Renewed | null> {
    const connector = this.#connector;
    if (connector?.transport !== "nats") return null;
    const viewer = await this.options.gateway.viewer();
    const next = Date.now() + renewalDelay(viewer, Date.now());
    const live = await this.#openOne(connector, viewer);
    return { next, use: () => this.#use(connector, live), drop: () => live.close() };
  }

  #arrived(chunk: Chunk): void {
    if (this.#abort.signal.aborted) return;
    this.#deliver(this.#splicer.push(chunk));
    if (this.status.state === "connected" && this.#splicer.missing) void this.#fillHole();
    const state = chunk.type === "status" ? chunk.detail?.state : undefined;
    if (typeof state === "string" && TERMINAL_STATES.has(state)) this.#checkSoon();
  }

  /** A hole in what arrived live: read it from history. */
  async #fillHole(): Promise<void> {
    if (this.#filling) return this.#filling;
    this.#filling = (async () => {
      try {
        this.#set({ state: "catching-up" });
        await this.#catchUp();
        if (this.#live) this.#set({ state: "connected" });
      } catch (error) {
        this.#fail(error as Error);
      } finally {
        this.#filling = null;
      }
    })();
    return this.#filling;
  }

  /** Reads history from the next chunk on until no hole is known, at least once; states what cannot be had. */
  async #catchUp(): Promise<void> {
    for (let tries = 0; ; ) {
      const before = this.#splicer.next;
      await this.#readHistory();
      if (!this.#splicer.missing) return;
      tries = this.#splicer.next > before ? 0 : tries + 1;
      if (tries >= FILL_TRIES) {
        this.#deliver(this.#splicer.skip("it is in neither the stream nor the archive"));
        tries = 0;
      } else if (tries > 0) {
        await this.#sleep(FILL_MS * 2 ** (tries - 1));
      }
    }
  }

  async #readHistory(): Promise<void> {
    for await (const chunks of this.options.gateway.history(this.#splicer.next, this.#abort.signal)) {
      const ready: Chunk[] = [];
      for (const chunk of chunks) for (const one of this.#splicer.push(chunk)) ready.push(one);
      this.#deliver(ready);
    }
  }

  /** Asks the record now and then, so that a lost last message is noticed and the end is known. */
  async #untilEnded(failed: Promise<never>): Promise<void> {
    for (let wait = PROBE_MS; ; wait = Math.min(PROBE_MS, wait * 2)) {
      const soon = await Promise.race([this.#checkAfter(wait), failed]);
      if (soon) wait = PROBE_SOON_MS;
      const probe = await this.options.gateway.probe().catch((error: Error) => {
        // NATS proves itself by its own pings. A WebSocket that goes through the gateway is only as alive as it.
        if (this.#connector?.transport === "websocket" || (error instanceof Refused && error.final)) throw error;
        return null;
      });
      if (probe?.ended) return this.#finish(probe.lastSequence);
      if (probe && probe.lastSequence >= this.#splicer.next) await this.#fillHole();
    }
  }

  /** Resolves after `wait` milliseconds with false, or with true as soon as a chunk says that it has ended. */
  #checkAfter(wait: number): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), wait);
      this.#checkSoon = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }

  /** Delivers all up to `last` and reports the end. */
  async #finish(last: number): Promise<void> {
    // A hole being filled reports "connected" when it is done: that must not come after the end.
    await this.#filling;
    if (this.#splicer.next <= last || this.#splicer.next === (this.options.from ?? 1)) await this.#catchUp();
    for (let tries = 1; this.#splicer.next <= last; tries += 1) {
      if (tries > FILL_TRIES) this.#deliver(this.#splicer.skip("it is in neither the stream nor the archive", last));
      else {
        await this.#sleep(FILL_MS * 2 ** (tries - 1));
        await this.#catchUp();
      }
      if (this.#abort.signal.aborted) return;
    }
    this.#set({ state: "ended", transport: null, error: null, retryAt: null });
  }

  /** Reports the failure and waits; false when trying again is of no use. */
  async #disconnected(error: Error, failures: number): Promise<boolean> {
    const base = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] ?? 10_000;
    const final = error instanceof Refused && error.final && !(error.status === 404 && failures < NOT_THERE_YET);
    const wait = base * (0.75 + Math.random() / 2);
    const retryAt = final ? null : Date.now() + wait;
    this.#set({ state: "disconnected", transport: null, error: error.message, retryAt });
    if (final) return false;
    await this.#sleep(wait);
    return true;
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

  #deliver(chunks: Chunk[]): void {
    if (chunks.length === 0 || this.#abort.signal.aborted) return;
    this.status = { ...this.status, sequence: this.#splicer.next - 1 };
    this.options.onChunks(chunks);
  }

  #set(change: Partial<StreamStatus>): void {
    if (this.#abort.signal.aborted) return;
    const next = { ...this.status, ...change, sequence: this.#splicer.next - 1 };
    const same =
      next.state === this.status.state &&
      next.transport === this.status.transport &&
      next.error === this.status.error &&
      next.retryAt === this.status.retryAt;
    this.status = next;
    if (!same) this.options.onStatus?.(next);
  }
}

/** A gateway without a NATS address answers 503: its own WebSocket is there all the same. */
function withoutNats(error: unknown): Viewer {
  if (error instanceof Refused && error.status === 503) {
    return { nats_ws: null, jwt: "", seed: "", subject: "", expires_at: "" };
  }
  throw error;
}
