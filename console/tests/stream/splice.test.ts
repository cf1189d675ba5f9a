import { expect, test } from "vitest";
import { Splicer } from "../../src/stream";
import { chunk, numbers } from "./helpers";

test("chunks in order go straight through", () => {
  const splicer = new Splicer();
  expect(numbers(1, 5).flatMap((seq) => splicer.push(chunk(seq)).map((c) => c.seq))).toEqual([1, 2, 3, 4, 5]);
  expect(splicer.missing).toBeNull();
});

test("a chunk seen before gives nothing", () => {
  const splicer = new Splicer();
  splicer.push(chunk(1));
  expect(splicer.push(chunk(1))).toEqual([]);
  expect(splicer.next).toBe(2);
});

test("live chunks that run ahead are held until history closes the hole", () => {
  const splicer = new Splicer();
  expect([5, 4, 7].flatMap((seq) => splicer.push(chunk(seq)))).toEqual([]);
  expect(splicer.missing).toEqual({ from: 1, to: 3 });
  expect(numbers(1, 3).flatMap((seq) => splicer.push(chunk(seq)).map((c) => c.seq))).toEqual([1, 2, 3, 4, 5]);
  expect(splicer.missing).toEqual({ from: 6, to: 6 });
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

test("a gap that the gateway states stands for all the numbers it names", () => {
  const splicer = new Splicer();
  const gap = chunk(2, { type: "gap", data: "not kept any more", detail: { reason: "expired", from: 2, to: 6 } });
  expect(splicer.push(chunk(1)).map((c) => c.seq)).toEqual([1]);
  expect(splicer.push(chunk(4))).toEqual([]);
  expect(splicer.push(gap).map((c) => [c.seq, c.type, c.detail?.to])).toEqual([
    [2, "gap", 3],
    [4, "text", undefined],
    [5, "gap", 6],
  ]);
  expect(splicer.next).toBe(7);
  expect(splicer.push(gap)).toEqual([]);
});
