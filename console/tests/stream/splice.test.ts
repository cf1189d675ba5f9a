import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type Chunk, Splicer } from "../../src/stream";
import { chunk, numbers } from "./helpers";

type Said = number | [number, number] | Partial<Chunk>;

interface Vector {
  readonly name: string;
  readonly start: number;
  readonly held?: number;
  readonly steps: { readonly feed?: Said; readonly skip?: number | null; readonly ready: Said[] }[];
  readonly next: number;
  readonly missing: [number, number] | null;
}

/** `tests/unit/test_reorder.py` runs the same file. */
const { vectors } = JSON.parse(
  readFileSync(new URL("../../../tests/unit/data/reorder.json", import.meta.url), "utf8"),
) as { vectors: Vector[] };

function said(one: Said): Chunk {
  if (typeof one === "number") return chunk(one);
  if (!Array.isArray(one)) return chunk(one.seq as number, one);
  return chunk(one[0], { type: "gap", detail: { reason: "expired", from: one[0], to: one[1] } });
}

function wanted(one: Said): object {
  if (typeof one === "number") return { seq: one };
  return Array.isArray(one) ? { seq: one[0], type: "gap", detail: { from: one[0], to: one[1] } } : one;
}

test.each(vectors)("$name", ({ start, held, steps, next, missing }) => {
  const splicer = new Splicer(start, held);
  for (const { feed, skip, ready } of steps) {
    const found = feed === undefined ? splicer.skip("lost", skip ?? undefined) : splicer.push(said(feed));
    expect(found).toHaveLength(ready.length);
    expect(found).toMatchObject(ready.map(wanted));
  }
  expect(splicer.next).toBe(next);
  expect(splicer.missing).toEqual(missing && { from: missing[0], to: missing[1] });
});

test("a hole that nobody can fill is stated as a gap, and what follows comes after it", () => {
  const splicer = new Splicer();
  for (const seq of [1, 4, 5, 7]) splicer.push(chunk(seq, { attempt: 2 }));
  const [gap, ...after] = splicer.skip("lost");
  expect(gap).toMatchObject({ seq: 2, type: "gap", attempt: 2, detail: { reason: "lost", from: 2, to: 3 } });
  expect(after.map((c) => c.seq)).toEqual([4, 5]);
  expect(splicer.missing).toEqual({ from: 6, to: 6 });
  expect(splicer.skip("lost").map((c) => c.seq)).toEqual([6, 7]);
  expect(splicer.skip("lost")).toEqual([]);
});

test("a lost tail is stated up to the number the record names", () => {
  const splicer = new Splicer(3);
  expect(splicer.skip("lost", 9)).toMatchObject([{ seq: 3, detail: { from: 3, to: 9 } }]);
  expect(splicer.next).toBe(10);
});

test("whatever the order and the repetitions, every chunk comes once and in order", () => {
  let state = 42;
  const random = (below: number): number => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state % below;
  };
  for (let round = 0; round < 200; round += 1) {
    const length = 1 + random(60);
    const deck = [...numbers(1, length), ...numbers(1, length).filter(() => random(3) === 0)];
    for (let at = deck.length - 1; at > 0; at -= 1) {
      const other = random(at + 1);
      [deck[at], deck[other]] = [deck[other] as number, deck[at] as number];
    }
    const splicer = new Splicer();
    expect(deck.flatMap((seq) => splicer.push(chunk(seq)).map((c) => c.seq))).toEqual(numbers(1, length));
  }
});
