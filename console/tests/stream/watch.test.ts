import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { chunk, numbers, refused, Stage } from "./helpers";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

async function settle(ms = 0): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

test("history and live are spliced without a hole or a repetition", async () => {
  const stage = new Stage();
  stage.say(...numbers(1, 20));
  // Said while history is being read: after its snapshot, before its end.
  stage.duringHistory = () => {
    stage.duringHistory = () => undefined;
    stage.say(21, 22);
  };
  const watching = stage.watch();
  await settle();
  expect(stage.states).toEqual(["catching-up", "connected"]);
  stage.say(23, 24);
  expect(stage.seqs).toEqual(numbers(1, 24));
  expect(watching.status).toMatchObject({ state: "connected", transport: "nats", sequence: 24 });
  watching.close();
});

test("it starts at the chunk that was asked for", async () => {
  const stage = new Stage();
  stage.say(...numbers(1, 9));
  const watching = stage.watch(6);
  await settle();
  expect(stage.seqs).toEqual([6, 7, 8, 9]);
  watching.close();
});

test("a chunk lost on the way shows as a hole and is read from history", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.drop = (seq) => seq === 2 || seq === 3;
  stage.say(1, 2, 3, 4);
  expect(stage.states.at(-1)).toBe("catching-up");
  await settle();
  expect(stage.seqs).toEqual([1, 2, 3, 4]);
  expect(stage.states.at(-1)).toBe("connected");
  watching.close();
});

test("a lost last chunk, which nothing follows, is noticed from the record", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.drop = (seq) => seq === 3;
  stage.say(1, 2, 3);
  expect(stage.seqs).toEqual([1, 2]);
  await settle(5_100);
  expect(stage.seqs).toEqual([1, 2, 3]);
  watching.close();
});

test("what neither history nor live has is stated as a gap", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.drop = (seq) => seq === 2;
  stage.lost.add(2);
  stage.say(1, 2, 3);
  await settle(5_000);
  expect(stage.seen.map((one) => [one.seq, one.type])).toEqual([
    [1, "text"],
    [2, "gap"],
    [3, "text"],
  ]);
  expect(watching.status.state).toBe("connected");
  watching.close();
});

test("a lost connection is reported, and what was said meanwhile is delivered after it is back", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.say(1, 2);
  stage.unreachable = new Set(["nats", "websocket"]);
  stage.hangUp("server gone");
  await settle();
  expect(watching.status).toMatchObject({ state: "disconnected", error: "server gone", transport: null });
  expect(watching.status.retryAt).toBeGreaterThan(Date.now());
  stage.say(3, 4);
  await settle(2_500);
  expect(watching.status.state).toBe("disconnected");
  stage.unreachable = new Set();
  await settle(6_000);
  expect(watching.status.state).toBe("connected");
  stage.say(5);
  expect(stage.seqs).toEqual([1, 2, 3, 4, 5]);
  watching.close();
});

test("where NATS cannot be reached, the gateway's WebSocket is used, and the status says so", async () => {
  const stage = new Stage();
  stage.unreachable.add("nats");
  stage.say(1, 2);
  const watching = stage.watch();
  await settle();
  stage.say(3);
  expect(stage.seqs).toEqual([1, 2, 3]);
  expect(watching.status).toMatchObject({ state: "connected", transport: "websocket" });
  watching.close();
});

test("a gateway that answers no more makes its WebSocket disconnected, even while that seems open", async () => {
  const stage = new Stage();
  stage.unreachable.add("nats");
  const watching = stage.watch();
  await settle();
  stage.failing = new Error("gateway gone");
  await settle(5_500);
  expect(watching.status).toMatchObject({ state: "disconnected", error: "gateway gone" });
  watching.close();
});

test("credentials are renewed before they expire, with both connections open for a moment", async () => {
  const stage = new Stage();
  stage.tokenLife = 60_000;
  const watching = stage.watch();
  await settle();
  let most = 0;
  const add = stage.listeners.add.bind(stage.listeners);
  stage.listeners.add = (listener) => {
    add(listener);
    most = Math.max(most, stage.open);
    stage.say(stage.said.length + 1); // said while both listen: must come once
    return stage.listeners;
  };
  await settle(41_000);
  expect(stage.tokens).toHaveLength(2);
  expect(most).toBe(2);
  expect(stage.open).toBe(1);
  stage.say(2);
  expect(stage.seqs).toEqual([1, 2]);
  expect(stage.states).toEqual(["catching-up", "connected"]);
  watching.close();
});

test("a renewal that fails is tried again while the old connection lives", async () => {
  const stage = new Stage();
  stage.tokenLife = 60_000;
  const watching = stage.watch();
  await settle();
  stage.failing = new Error("gateway restarts");
  await settle(41_000);
  expect(watching.status.state).toBe("connected");
  stage.failing = null;
  await settle(2_500);
  expect(stage.tokens).toHaveLength(2);
  expect(stage.open).toBe(1);
  watching.close();
});

test("the end is reported once the record says so and every chunk is there", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.drop = (seq) => seq === 2;
  stage.say(1, 2);
  stage.sayChunk(chunk(3, { type: "status", data: "completed", detail: { state: "completed" } }));
  stage.ended = true;
  await settle(400);
  expect(watching.status.state).toBe("ended");
  expect(stage.seqs).toEqual([1, 2, 3]);
  expect(stage.open).toBe(0);
  await watching.done;
});

test("a status chunk alone does not end it: the record decides", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.sayChunk(chunk(1, { type: "status", detail: { state: "failed" } }));
  await settle(1_000);
  expect(watching.status.state).toBe("connected");
  stage.ended = true;
  await settle(5_000);
  expect(watching.status.state).toBe("ended");
});

test("one that has ended is read from history alone: no credentials, no connection", async () => {
  const stage = new Stage();
  stage.say(...numbers(1, 30));
  stage.ended = true;
  const watching = stage.watch();
  await settle();
  expect(stage.states).toEqual(["ended"]);
  expect(stage.seqs).toEqual(numbers(1, 30));
  expect(stage.tokens).toEqual([]);
  await watching.done;
});

test("an ended one whose tail is nowhere ends with a stated gap, not silently short", async () => {
  const stage = new Stage();
  stage.say(1, 2, 3);
  stage.lost.add(3);
  stage.ended = true;
  stage.watch();
  await settle(10_000);
  expect(stage.seen.at(-1)).toMatchObject({ type: "gap", detail: { from: 3, to: 3 } });
  expect(stage.states.at(-1)).toBe("ended");
});

test("a refusal is final and is said; nothing is tried again", async () => {
  const stage = new Stage();
  stage.failing = refused(403);
  const watching = stage.watch();
  await settle();
  expect(watching.status).toMatchObject({ state: "disconnected", error: "no", retryAt: null });
  await watching.done;
});

test("a task submitted a moment ago may not be there yet: that is tried again for some seconds", async () => {
  const stage = new Stage();
  stage.failing = refused(404);
  const watching = stage.watch();
  await settle();
  expect(watching.status.retryAt).not.toBeNull();
  stage.failing = null;
  await settle(1_000);
  expect(watching.status.state).toBe("connected");
  watching.close();
});

test("one that stays unknown is given up", async () => {
  const stage = new Stage();
  stage.failing = refused(404);
  const watching = stage.watch();
  await settle(15_000);
  expect(watching.status).toMatchObject({ state: "disconnected", retryAt: null });
  await watching.done;
});

test("retry() does not wait for the next try", async () => {
  const stage = new Stage();
  stage.failing = new Error("down");
  const watching = stage.watch();
  await settle();
  stage.failing = null;
  watching.retry();
  await settle();
  expect(watching.status.state).toBe("connected");
  watching.close();
});

test("after close() nothing is delivered, nothing is open and nothing is planned", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  watching.close();
  await watching.done;
  stage.say(1);
  expect(stage.seen).toEqual([]);
  expect(stage.open).toBe(0);
  await settle(60_000);
  expect(stage.historyFrom.length).toBeLessThanOrEqual(2);
});

test("a regular close is the end where the record says so, and a lost connection where it does not", async () => {
  const stage = new Stage();
  stage.unreachable.add("nats");
  const watching = stage.watch();
  await settle();
  stage.say(1, 2);
  stage.hangUp(null);
  await settle();
  expect(watching.status).toMatchObject({ state: "disconnected", error: "connection closed" });
  await settle(1_000);
  expect(watching.status.state).toBe("connected");
  const before = stage.states.length;
  stage.ended = true;
  stage.hangUp(null);
  await settle();
  expect(stage.states.slice(before)).toEqual(["ended"]);
});
