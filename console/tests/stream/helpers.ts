import {
  type Chunk,
  type Connector,
  type Gateway,
  Refused,
  type StreamStatus,
  type Viewer,
  watch,
} from "../../src/stream";

/** A plain chunk with that number. */
export function chunk(seq: number, change: Partial<Chunk> = {}): Chunk {
  return { seq, type: "text", data: `${seq} `, timestamp: "2026-01-01T00:00:00Z", attempt: 1, detail: null, ...change };
}

export function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

/** An execution that says what a test tells it to, with faults on demand. */
export class Stage {
  readonly said: Chunk[] = [];
  /** Sequences that history has lost. */
  readonly lost = new Set<number>();
  readonly seen: Chunk[] = [];
  readonly statuses: StreamStatus[] = [];
  readonly listeners = new Set<(chunk: Chunk) => void>();
  readonly tokens: Viewer[] = [];
  readonly historyFrom: number[] = [];
  /** What live delivery forgets. */
  drop = (_seq: number): boolean => false;
  /** Called while history is read, after the snapshot was taken. */
  duringHistory: () => void = () => undefined;
  unreachable = new Set<string>();
  failing: Error | null = null;
  /** Calls that are neither answered nor refused. */
  hanging = new Set<"viewer" | "probe" | "history">();
  /** What a reading of history waits for after it has taken its snapshot. */
  slowly: () => Promise<void> = () => Promise.resolve();
  ended = false;
  tokenLife = 3_600_000;
  #hangUps = new Set<(reason: string | null) => void>();

  say(...seqs: number[]): void {
    for (const seq of seqs) this.sayChunk(chunk(seq));
  }

  sayChunk(one: Chunk): void {
    this.said.push(one);
    if (!this.drop(one.seq)) for (const listener of this.listeners) listener(one);
  }

  /** The other side closes; `null`: regularly. */
  hangUp(reason: string | null): void {
    for (const hangUp of [...this.#hangUps]) hangUp(reason);
  }

  get open(): number {
    return this.listeners.size;
  }

  readonly gateway: Gateway = {
    viewer: async () => {
      await this.#check("viewer");
      const viewer = {
        nats_ws: "ws://nats",
        jwt: `token-${this.tokens.length + 1}`,
        seed: "seed",
        subject: "ocf.live.default.x",
        expires_at: new Date(Date.now() + this.tokenLife).toISOString(),
      };
      this.tokens.push(viewer);
      return viewer;
    },
    history: (from) => this.#history(from),
    probe: async () => {
      await this.#check("probe");
      return { ended: this.ended, lastSequence: this.said.length };
    },
  };

  async *#history(from: number): AsyncGenerator<Chunk[]> {
    await this.#check("history");
    this.historyFrom.push(from);
    const snapshot = this.said.filter((one) => one.seq >= from && !this.lost.has(one.seq));
    this.duringHistory();
    await this.slowly();
    for (let at = 0; at < snapshot.length; at += 7) yield snapshot.slice(at, at + 7);
  }

  connector(transport: "nats" | "websocket"): Connector {
    return {
      transport,
      order: transport === "nats" ? "subscribe-first" : "history-first",
      open: async (_viewer, from, onChunk) => {
        if (this.unreachable.has(transport)) throw new Error(`${transport} cannot be reached`);
        if (transport === "websocket") for (const one of this.said.filter((c) => c.seq >= from)) onChunk(one);
        this.listeners.add(onChunk);
        let close = (_reason: string | null): void => undefined;
        const closed = new Promise<string | null>((resolve) => {
          close = (reason) => {
            this.listeners.delete(onChunk);
            this.#hangUps.delete(close);
            resolve(reason);
          };
        });
        this.#hangUps.add(close);
        return { closed, close: () => close(null) };
      },
    };
  }

  watch(from?: number) {
    return watch({
      gateway: this.gateway,
      connectors: [this.connector("nats"), this.connector("websocket")],
      ...(from === undefined ? {} : { from }),
      onChunks: (chunks) => this.seen.push(...chunks),
      onStatus: (status) => this.statuses.push(status),
    });
  }

  get seqs(): number[] {
    return this.seen.map((one) => one.seq);
  }

  get states(): string[] {
    return this.statuses.map((status) => status.state);
  }

  async #check(call: "viewer" | "probe" | "history"): Promise<void> {
    if (this.hanging.has(call)) await new Promise(() => undefined);
    if (this.failing) throw this.failing;
  }
}

export function refused(status: number): Refused {
  return new Refused("no", status);
}
