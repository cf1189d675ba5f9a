import type { Chunk } from "../stream";

/** A pause longer than this is shortened to it where pauses are skipped, in milliseconds. */
const LONGEST_PAUSE = 1_500;
const BINS = 160;

export interface Mark {
  readonly at: number;
  readonly kind: "tool" | "file" | "error" | "attempt" | "waiting";
  readonly title: string;
}

/** The recorded timeline: where each chunk stands, in milliseconds from the start. */
export interface Timeline {
  /** Never decreasing, one a chunk. */
  readonly at: readonly number[];
  readonly length: number;
  readonly marks: readonly Mark[];
  /** How much was said in each part of the time, 0 to 1. */
  readonly density: readonly number[];
}

export function timeline(chunks: readonly Chunk[], skipPauses: boolean): Timeline {
  const at: number[] = [];
  const marks: Mark[] = [];
  let now = 0;
  let before = Number.NaN;
  let attempt = 1;
  for (const chunk of chunks) {
    const time = Date.parse(chunk.timestamp);
    // Clocks of two workers may disagree: time never runs backwards here.
    const step = Number.isNaN(before) || Number.isNaN(time) ? 0 : Math.max(0, time - before);
    if (!Number.isNaN(time)) before = Number.isNaN(before) ? time : Math.max(before, time);
    now += skipPauses ? Math.min(step, LONGEST_PAUSE) : step;
    at.push(now);
    if (chunk.attempt > attempt) {
      attempt = chunk.attempt;
      marks.push({ at: now, kind: "attempt", title: `Attempt ${attempt}` });
    }
    const mark = markOf(chunk);
    if (mark) marks.push({ ...mark, at: now });
  }
  return { at, length: now, marks, density: density(at, now) };
}

/** How many chunks have been said at `time`. */
export function saidAt(at: readonly number[], time: number): number {
  let low = 0;
  let high = at.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((at[middle] ?? 0) <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}

function markOf(chunk: Chunk): Omit<Mark, "at"> | null {
  const detail = chunk.detail ?? {};
  if (chunk.type === "tool_call") return { kind: "tool", title: chunk.data };
  if (chunk.type === "file_change") return { kind: "file", title: chunk.data };
  if (chunk.type === "permission" || chunk.type === "question") return { kind: "waiting", title: chunk.data };
  if (chunk.type === "tool_result" && detail.ok === false)
    return { kind: "error", title: `${String(detail.tool)} failed` };
  if (chunk.type === "status" && (detail.state === "failed" || detail.state === "timed_out"))
    return { kind: "error", title: chunk.data };
  return null;
}

function density(at: readonly number[], length: number): number[] {
  const bins = new Array<number>(BINS).fill(0);
  for (const time of at) {
    const bin = Math.min(BINS - 1, Math.floor((time / Math.max(1, length)) * BINS));
    bins[bin] = (bins[bin] ?? 0) + 1;
  }
  const most = Math.max(1, ...bins);
  // The root keeps quiet stretches visible beside floods.
  return bins.map((value) => Math.sqrt(value / most));
}
