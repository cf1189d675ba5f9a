import type { Chunk } from "./types";

/** Sequences that are missing, both ends included. */
export interface Missing {
  readonly from: number;
  readonly to: number;
}

/** Chunks held while a gap before them is filled. Beyond this the highest sequences are dropped: history has them. */
const MAX_HELD = 20_000;

/** A gap up to and including sequence `to`. */
interface Stated {
  readonly to: number;
  readonly reason: string;
  readonly like: Chunk | undefined;
}

/**
 * Puts chunks from any number of sources into one sequence: each once, in order, no gap unreported.
 * Pure: no time, no I/O. The same rules as `events/reorder.py`; `tests/unit/data/reorder.json` holds both to them.
 */
export class Splicer {
  readonly #held = new Map<number, Chunk>();
  readonly #most: number;
  #next: number;

  /**
   * @param from sequence of the first chunk wanted
   * @param held chunks held at the most
   */
  constructor(from = 1, held = MAX_HELD) {
    this.#next = from;
    this.#most = held;
  }

  /** Sequence of the next chunk to be delivered. */
  get next(): number {
    return this.#next;
  }

  /** The first gap, known from a chunk that arrived behind it; null without one. */
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
    if (chunk.seq > this.#next) {
      this.#hold(chunk);
      return [];
    }
    if (reportsGap(chunk)) return this.#advance({ to: last, reason: chunk.data, like: chunk });
    this.#next += 1;
    return this.#held.size === 0 ? [chunk] : [chunk, ...this.#advance(null)];
  }

  /**
   * Gives up the first gap, up to `to` where nothing arrived behind it: returns a chunk of type `gap` that
   * reports it, and what follows. A loss is never silent.
   */
  skip(reason: string, to = this.missing?.to ?? this.#next - 1): Chunk[] {
    return to < this.#next ? [] : this.#advance({ to, reason, like: this.#held.get(to + 1) });
  }

  /** Returns what is ready: chunks that were held, and gaps up to the end of `stated`. */
  #advance(stated: Stated | null): Chunk[] {
    const ready: Chunk[] = [];
    for (;;) {
      const held = this.#held.get(this.#next);
      this.#held.delete(this.#next);
      if (held && !reportsGap(held)) {
        ready.push(held);
        this.#next += 1;
        continue;
      }
      if (held && lastOf(held) > (stated?.to ?? 0)) stated = { to: lastOf(held), reason: held.data, like: held };
      if (!stated || stated.to < this.#next) return ready;
      const to = Math.min(stated.to, this.missing?.to ?? stated.to);
      ready.push(gap(this.#next, to, stated));
      this.#next = to + 1;
    }
  }

  #hold(chunk: Chunk): void {
    const before = this.#held.get(chunk.seq);
    if (before && (!reportsGap(before) || reportsGap(chunk))) return;
    this.#held.set(chunk.seq, chunk);
    if (this.#held.size <= this.#most) return;
    let highest = 0;
    for (const seq of this.#held.keys()) if (seq > highest) highest = seq;
    this.#held.delete(highest);
  }
}

function gap(from: number, to: number, { reason, like }: Stated): Chunk {
  return {
    seq: from,
    type: "gap",
    data: reason,
    timestamp: like?.timestamp ?? new Date(0).toISOString(),
    attempt: like?.attempt ?? 1,
    detail: { ...like?.detail, reason, from, to },
  };
}

/** Whether a chunk stands for all of `from` to `to`; every other chunk stands for itself. */
function reportsGap(chunk: Chunk): boolean {
  const { from, to } = chunk.detail ?? {};
  return chunk.type === "gap" && from === chunk.seq && Number.isInteger(to) && (to as number) >= chunk.seq;
}

function lastOf(chunk: Chunk): number {
  return reportsGap(chunk) ? (chunk.detail?.to as number) : chunk.seq;
}
