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
 * Pure: no time, no I/O. `docs/streaming.md` states the rule.
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
    if (chunk.seq < this.#next) return [];
    if (chunk.seq === this.#next && this.#held.size === 0) {
      this.#next += 1;
      return [chunk];
    }
    if (this.#held.size < MAX_HELD || chunk.seq < this.#highest) this.#held.set(chunk.seq, chunk);
    if (chunk.seq > this.#highest) this.#highest = chunk.seq;
    return this.#release();
  }

  /**
   * Gives up the first hole, up to `to` where nothing arrived behind it: returns a chunk of type `gap` that
   * states it, and what follows. A loss is never silent.
   */
  skip(reason: string, to = this.missing?.to ?? this.#next - 1): Chunk[] {
    if (to < this.#next) return [];
    const from = this.#next;
    const after = this.#held.get(to + 1);
    const count = to - from + 1;
    const stated: Chunk = {
      seq: to,
      type: "gap",
      data: `${count} ${count === 1 ? "chunk" : "chunks"} (${from} to ${to}) could not be had: ${reason}`,
      timestamp: after?.timestamp ?? new Date(0).toISOString(),
      attempt: after?.attempt ?? 1,
      detail: { reason, from, to },
    };
    this.#next = to + 1;
    return [stated, ...this.#release()];
  }

  #release(): Chunk[] {
    const ready: Chunk[] = [];
    for (let chunk = this.#held.get(this.#next); chunk; chunk = this.#held.get(this.#next)) {
      this.#held.delete(this.#next);
      this.#next += 1;
      ready.push(chunk);
    }
    return ready;
  }
}
