import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { websocketConnector } from "../../src/stream";
import { chunk, refused, Stage } from "./helpers";

/** A gateway that is there and says nothing: no answer, no error. */

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

async function settle(ms = 0): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

test("a gateway that hangs makes its WebSocket disconnected", async () => {
  const stage = new Stage();
  stage.unreachable.add("nats");
  const watching = stage.watch();
  await settle();
  expect(watching.status.state).toBe("connected");
  stage.hanging.add("probe");
  await settle(16_000);
  expect(stage.states).toContain("disconnected");
  expect(stage.statuses.at(2)?.error).toContain("does not answer");
  stage.hanging.clear();
  await settle(20_000);
  expect(watching.status.state).toBe("connected");
  watching.close();
});

test("one look at the record that hangs does not hide the end: the next one sees it", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.hanging.add("probe");
  await settle(6_000);
  stage.hanging.clear();
  stage.sayChunk(chunk(1, { type: "status", data: "completed", detail: { state: "completed" } }));
  stage.ended = true;
  await settle(20_000);
  expect(stage.states).toEqual(["catching-up", "connected", "ended"]);
  await watching.done;
});

test.each(["probe", "viewer", "history"] as const)("%s that hangs is given up and tried again", async (call) => {
  const stage = new Stage();
  stage.say(1, 2);
  stage.hanging.add(call);
  const watching = stage.watch();
  await settle(20_100);
  expect(stage.states).toContain("disconnected");
  stage.hanging.clear();
  await settle(25_000);
  expect(watching.status.state).toBe("connected");
  expect(stage.seqs).toEqual([1, 2]);
  expect(stage.open).toBe(1);
  watching.close();
});

test.each(["probe", "viewer", "history"] as const)("close() ends it at once, even while %s hangs", async (call) => {
  const stage = new Stage();
  stage.hanging.add(call);
  const watching = stage.watch();
  await settle(1_000);
  watching.close();
  await watching.done;
  await settle();
  expect(stage.open).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("a hole that was being read when the connection broke speaks no word in the next one's time", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  let release = (): void => undefined;
  stage.slowly = () => new Promise((resolve) => (release = resolve));
  stage.drop = (seq) => seq === 2;
  stage.say(1, 2, 3);
  await settle();
  stage.slowly = () => new Promise((resolve) => setTimeout(resolve, 15_000));
  stage.hangUp("NATS is gone");
  await settle();
  stage.drop = () => true;
  stage.say(4, 5, 6);
  await settle(1_000);
  release();
  await settle(100);
  expect(watching.status.state).toBe("catching-up");
  await settle(40_000);
  expect(watching.status.state).toBe("connected");
  expect(stage.seqs).toEqual([1, 2, 3, 4, 5, 6]);
  watching.close();
});

test("a hole that fails to be read in an earlier connection's time does not break the next one", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  let fail = (_error: Error): void => undefined;
  stage.slowly = () => new Promise((_, reject) => (fail = reject));
  stage.drop = (seq) => seq === 2;
  stage.say(1, 2, 3);
  await settle();
  stage.slowly = () => Promise.resolve();
  stage.hangUp("NATS is gone");
  await settle(1_000);
  const before = stage.states.length;
  fail(new Error("history broke"));
  await settle(100);
  expect(stage.states.slice(before)).toEqual([]);
  expect(watching.status.state).toBe("connected");
  watching.close();
});

test("an execution that is deleted while it is watched over NATS is not said to be live for ever", async () => {
  const stage = new Stage();
  const watching = stage.watch();
  await settle();
  stage.failing = refused(404);
  await settle(30_000);
  expect(watching.status).toMatchObject({ state: "disconnected", retryAt: null });
  await watching.done;
});

class Socket {
  static last: Socket;
  onopen = (): void => undefined;
  onclose = (_event: { reason: string; code: number }): void => undefined;
  onmessage = (_event: { data: string }): void => undefined;
  closed = false;

  constructor() {
    Socket.last = this;
  }

  /** The other side is gone: its half of the handshake never comes. */
  close(): void {
    this.closed = true;
  }
}

test("a WebSocket without even a heartbeat is over, whether or not it can be closed", async () => {
  vi.stubGlobal("WebSocket", Socket);
  const viewer = { nats_ws: null, jwt: "", seed: "", subject: "", expires_at: "" };
  const opening = websocketConnector(() => "ws://x").open(viewer, 1, () => undefined);
  Socket.last.onopen();
  const live = await opening;
  let reason: string | null = null;
  void live.closed.then((why) => {
    reason = why;
  });
  for (let beats = 0; beats < 4; beats += 1) {
    await settle(40_000);
    Socket.last.onmessage({ data: '{"seq":0,"type":"heartbeat","data":""}' });
  }
  expect(reason).toBeNull();
  await settle(46_000);
  expect(reason).toContain("silent");
  expect(Socket.last.closed).toBe(true);
});

test("a WebSocket that does not open is given up", async () => {
  vi.stubGlobal("WebSocket", Socket);
  const viewer = { nats_ws: null, jwt: "", seed: "", subject: "", expires_at: "" };
  const opening = websocketConnector(() => "ws://x").open(viewer, 1, () => undefined);
  const outcome = expect(opening).rejects.toThrow("does not open");
  await settle(5_100);
  await outcome;
});

test.each([
  [1000, null],
  [1006, "WebSocket closed (1006)"],
])("a WebSocket that is closed with %d says why unless it is regular", async (code, why) => {
  vi.stubGlobal("WebSocket", Socket);
  const viewer = { nats_ws: null, jwt: "", seed: "", subject: "", expires_at: "" };
  const opening = websocketConnector(() => "ws://x").open(viewer, 1, () => undefined);
  Socket.last.onopen();
  const live = await opening;
  Socket.last.onclose({ code, reason: "" });
  expect(await live.closed).toBe(why);
});
