import type { Chunk } from "./types";

/** Sequences that are missing, both ends included. */
export interface Missing {
  readonly from: number;
  readonly to: number;
}

/** Chunks kept while a gap before them is filled. Beyond this the newest are let go: history has them. */
const MAX_HELD = 20_000;

/**
 * Puts chunks from any number of sources into one sequence: each once, in order, without a hole.
 * Pure: no time, no I/O. `docs/how-to/watch-output.md` states the rule.
 */
export class Splicer {
  readonly #held = new Map<number, Chunk>();
  #next: number;
  #highest: number;

  /** @param from sequence of the first chunk wanted */
  constructor(from = 1) {
    this.#next = from;
    this.#highest = from - 1;
  }

  /** Sequence of the next chunk to be delivered. */
  get next(): number {
    return this.#next;
  }

  /** The first hole, known from a chunk that arrived behind it; null without one. */
  get missing(): Missing | null {
    if (this.#held.size === 0) return null;
    let first = Number.POSITIVE_INFINITY;
    for (const seq of this.#held.keys()) if (seq < first) first = seq;
    return { from: this.#next, to: first - 1 };
  }

  /** Takes a chunk in; returns what may be delivered now, in order. A chunk seen before gives nothing. */
  push(chunk: Chunk): Chunk[] {
    const last = lastOf(chunk);
    if (last < this.#next) return [];
    if (chunk.seq <= this.#next) {
      if (last > chunk.seq) return this.#state(last, chunk.data, chunk);
      this.#next += 1;
      return this.#held.size === 0 ? [chunk] : [chunk, ...this.#release()];
    }
    if (this.#held.size < MAX_HELD || chunk.seq < this.#highest) this.#held.set(chunk.seq, chunk);
    if (chunk.seq > this.#highest) this.#highest = chunk.seq;
    return [];
  }

  /**
   * Gives up the first hole, up to `to` where nothing arrived behind it: returns a chunk of type `gap` that
   * states it, and what follows. A loss is never silent.
   */
  skip(reason: string, to = this.missing?.to ?? this.#next - 1): Chunk[] {
    return this.#state(to, reason, this.#held.get(to + 1));
  }

  /** States everything up to `to` as missing, except what is held. */
  #state(to: number, reason: string, like: Chunk | undefined): Chunk[] {
    const ready: Chunk[] = [];
    while (this.#next <= to) {
      const last = Math.min(to, this.missing?.to ?? to);
      ready.push({
        seq: this.#next,
        type: "gap",
        data: reason,
        timestamp: like?.timestamp ?? new Date(0).toISOString(),
        attempt: like?.attempt ?? 1,
        detail: { ...like?.detail, reason, from: this.#next, to: last },
      });
      this.#next = last + 1;
      ready.push(...this.#release());
    }
    return ready;
  }

  #release(): Chunk[] {
    const ready: Chunk[] = [];
    for (let chunk = this.#held.get(this.#next); chunk; chunk = this.#held.get(this.#next)) {
      this.#held.delete(this.#next);
      this.#next = lastOf(chunk) + 1;
      ready.push(chunk);
    }
    // A stated gap may have reached over chunks that came another way.
    for (const seq of this.#held.keys()) if (seq < this.#next) this.#held.delete(seq);
    return ready;
  }
}

/** A gap that the gateway states stands for all of `from` to `to`; every other chunk for itself. */
function lastOf(chunk: Chunk): number {
  const to = chunk.type === "gap" ? chunk.detail?.to : undefined;
  return typeof to === "number" && to > chunk.seq ? to : chunk.seq;
}
