import { Refused } from "./gateway-requests";
import { TERMINAL_STATES } from "./lifecycle-states";
import { keepRenewed, type Renewed, renewalDelay } from "./renewal";
import type { Splicer } from "./splice";
import { pause, piecesWithin, within } from "./timeouts";
import type { Chunk, Connector, Live, Probe, StreamStatus, Viewer } from "./types";
import type { WatchOptions } from "./watch";

/** How long the gateway may take to answer, and history to send its next piece, in milliseconds. */
const ANSWER_MS = 10_000;
const PIECE_MS = 20_000;
/** While nothing arrives, how often the record is asked whether something was missed, in milliseconds. */
const PROBE_MS = 5_000;
/** Tries to fill one hole before it is stated as a gap; the wait doubles from `FILL_MS`. */
const FILL_TRIES = 4;
const FILL_MS = 250;
/** The record is written a moment after the last chunk: the first check follows it by this, then twice as long. */
const PROBE_SOON_MS = 100;
const NOWHERE = "it is in neither the stream nor the archive";

/** Where a session's chunks and states go, and what outlives it. */
export interface Host {
  readonly options: WatchOptions;
  readonly splicer: Splicer;
  readonly status: StreamStatus;
  deliver(chunks: Chunk[]): void;
  report(change: Partial<StreamStatus>): void;
}

/**
 * One connection's life. Everything it waits for ends with it: what an earlier one had asked for never speaks in
 * the next one's time.
 */
export class Session {
  readonly #over = new AbortController();
  #live: Live | null = null;
  #connector: Connector | null = null;
  #filling: Promise<void> | null = null;
  /** The connection in use was closed regularly. */
  #hungUp = false;
  #checkSoon: () => void = () => undefined;

  constructor(private readonly host: Host) {}

  /** Gives it up: `run` throws `error`. */
  fail(error: Error): void {
    this.#over.abort(error);
  }

  /** Returns once the execution has ended and is delivered whole; throws to be tried again. */
  async run(): Promise<void> {
    let stopRenewing = (): void => undefined;
    try {
      this.#report({ state: "catching-up", transport: null, error: null, retryAt: null });
      const probe = await this.#probe();
      if (probe.ended) return await this.#finish(probe.lastSequence);
      // Something to read while the connection is made, which may take seconds where NATS cannot be reached.
      const early = this.#readHistory();
      early.catch(() => undefined);
      const viewer = await this.#viewer().catch(withoutNats);
      const renewAt = Date.now() + renewalDelay(viewer, Date.now());
      await this.#open(viewer, early);
      await early;
      // The rule: what was said before the subscription is in the history that is read after it.
      if (this.#connector?.order === "subscribe-first") await this.#catchUp();
      this.#report({ state: "connected" });
      stopRenewing = keepRenewed(
        renewAt,
        () => this.#renew(),
        (error) => this.fail(error),
      );
      await this.#untilEnded();
    } finally {
      stopRenewing();
      this.fail(new Error("over"));
      this.#live?.close();
    }
  }

  #viewer(): Promise<Viewer> {
    return within(ANSWER_MS, this.#over.signal, (signal) => this.host.options.gateway.viewer(signal));
  }

  #probe(): Promise<Probe> {
    return within(ANSWER_MS, this.#over.signal, (signal) => this.host.options.gateway.probe(signal));
  }

  /** Opens the first way that can be opened. */
  async #open(viewer: Viewer, early: Promise<void>): Promise<void> {
    const errors: string[] = [];
    for (const connector of this.host.options.connectors) {
      if (connector.order === "history-first") await early;
      try {
        this.#use(connector, await this.#openOne(connector, viewer));
        return;
      } catch (error) {
        this.#over.signal.throwIfAborted();
        errors.push((error as Error).message || "cannot be reached");
      }
    }
    throw new Error(errors.join("; "));
  }

  async #openOne(connector: Connector, viewer: Viewer): Promise<Live> {
    const opening = connector.open(viewer, this.host.splicer.next, (chunk) => this.#arrived(chunk));
    try {
      return await within(ANSWER_MS, this.#over.signal, () => opening);
    } catch (error) {
      // It may open yet: nobody would close it.
      opening.then(
        (live) => live.close(),
        () => undefined,
      );
      throw error;
    }
  }

  #use(connector: Connector, live: Live): void {
    const previous = this.#live;
    this.#live = live;
    this.#connector = connector;
    this.#report({ transport: connector.transport });
    void live.closed.then((reason) => {
      // One that was replaced may close. The one in use may only at the end, which the record must confirm.
      if (this.#live !== live) return;
      if (reason !== null) return this.fail(new Error(reason));
      this.#hungUp = true;
      this.#checkSoon();
    });
    previous?.close();
  }

  /** Opens the next connection before the present one expires: both overlap, so nothing is missed. */
  async #renew(): Promise<Renewed | null> {
    const connector = this.#connector;
    if (connector?.transport !== "nats") return null;
    const viewer = await this.#viewer();
    const next = Date.now() + renewalDelay(viewer, Date.now());
    const live = await this.#openOne(connector, viewer);
    return { next, use: () => this.#use(connector, live), drop: () => live.close() };
  }

  #arrived(chunk: Chunk): void {
    // Not taken in: the next session's history has it.
    if (this.#over.signal.aborted) return;
    this.host.deliver(this.host.splicer.push(chunk));
    if (this.host.status.state === "connected" && this.host.splicer.missing) void this.#fillHole();
    const state = chunk.type === "status" ? chunk.detail?.state : undefined;
    if (typeof state === "string" && TERMINAL_STATES.has(state)) this.#checkSoon();
  }

  /** A hole in what arrived live: read it from history. */
  async #fillHole(): Promise<void> {
    if (this.#filling) return this.#filling;
    this.#filling = (async () => {
      try {
        this.#report({ state: "catching-up" });
        await this.#catchUp();
        this.#report({ state: "connected" });
      } catch (error) {
        this.fail(error as Error);
      } finally {
        this.#filling = null;
      }
    })();
    return this.#filling;
  }

  /** Reads history from the next chunk on until no hole is known, at least once; states what cannot be had. */
  async #catchUp(): Promise<void> {
    const { splicer } = this.host;
    for (let tries = 0; ; ) {
      const before = splicer.next;
      await this.#readHistory();
      this.#over.signal.throwIfAborted();
      if (!splicer.missing) return;
      tries = splicer.next > before ? 0 : tries + 1;
      if (tries >= FILL_TRIES) {
        this.host.deliver(splicer.skip(NOWHERE));
        tries = 0;
      } else if (tries > 0) {
        await pause(FILL_MS * 2 ** (tries - 1), this.#over.signal);
      }
    }
  }

  async #readHistory(): Promise<void> {
    const { options, splicer } = this.host;
    const read = (signal: AbortSignal) => options.gateway.history(splicer.next, signal);
    for await (const chunks of piecesWithin(PIECE_MS, this.#over.signal, read)) {
      const ready: Chunk[] = [];
      for (const chunk of chunks) for (const one of splicer.push(chunk)) ready.push(one);
      this.host.deliver(ready);
    }
  }

  /** Asks the record now and then, so that a lost last message is noticed and the end is known. */
  async #untilEnded(): Promise<void> {
    for (let wait = PROBE_MS; ; wait = Math.min(PROBE_MS, wait * 2)) {
      if (await this.#checkAfter(wait)) wait = PROBE_SOON_MS;
      const hungUp = this.#hungUp;
      const probe = await this.#probe().catch((error: Error) => {
        // NATS proves itself by its own pings. A WebSocket that goes through the gateway is only as alive as it.
        if (this.#connector?.transport === "websocket" || (error instanceof Refused && error.final)) throw error;
        this.#over.signal.throwIfAborted();
        return null;
      });
      if (probe?.ended) return this.#finish(probe.lastSequence);
      if (hungUp) throw new Error("connection closed");
      if (probe && probe.lastSequence >= this.host.splicer.next) await this.#fillHole();
      this.#over.signal.throwIfAborted();
    }
  }

  /** Resolves after `wait` milliseconds with false, or with true as soon as a chunk or a close says that it has ended. */
  #checkAfter(wait: number): Promise<boolean> {
    if (this.#hungUp) return Promise.resolve(true);
    const soon = new Promise<boolean>((resolve) => {
      this.#checkSoon = () => resolve(true);
    });
    return Promise.race([soon, pause(wait, this.#over.signal).then(() => false)]);
  }

  /** Delivers all up to `last` and reports the end. */
  async #finish(last: number): Promise<void> {
    const { options, splicer } = this.host;
    // A hole being filled reports "connected" when it is done: that must not come after the end.
    await this.#filling;
    this.#over.signal.throwIfAborted();
    if (splicer.next <= last || splicer.next === (options.from ?? 1)) await this.#catchUp();
    for (let tries = 1; splicer.next <= last; tries += 1) {
      if (tries > FILL_TRIES) this.host.deliver(splicer.skip(NOWHERE, last));
      else {
        await pause(FILL_MS * 2 ** (tries - 1), this.#over.signal);
        await this.#catchUp();
      }
    }
    this.#report({ state: "ended", transport: null, error: null, retryAt: null });
  }

  #report(change: Partial<StreamStatus>): void {
    if (!this.#over.signal.aborted) this.host.report(change);
  }
}

/** A gateway without a NATS address answers 503: its own WebSocket is there all the same. */
function withoutNats(error: unknown): Viewer {
  if (error instanceof Refused && error.status === 503) {
    return { nats_ws: null, jwt: "", seed: "", subject: "", expires_at: "" };
  }
  throw error;
}
