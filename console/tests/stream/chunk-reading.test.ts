import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Chunk, frameBatch, NotAChunk, parseChunk, readChunks, renewalDelay, type Viewer } from "../../src/stream";
import { chunk } from "./helpers";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function bodyOf(...pieces: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
}

async function all(body: ReadableStream<Uint8Array>): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  for await (const batch of readChunks(body)) chunks.push(...batch);
  return chunks;
}

test("history is read whole however the network cuts it, in mid-line and in mid-character too", async () => {
  const bytes = new TextEncoder().encode(
    [chunk(1, { data: "grün ✓" }), chunk(2)].map((c) => JSON.stringify(c)).join("\n"),
  );
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    expect(await all(bodyOf(bytes.slice(0, cut), bytes.slice(cut)))).toEqual([chunk(1, { data: "grün ✓" }), chunk(2)]);
  }
});

test("a history that is cut off in mid-line is an error, not a shorter history", async () => {
  await expect(all(bodyOf(new TextEncoder().encode(`${JSON.stringify(chunk(1))}\n{"seq":2,"ty`)))).rejects.toThrow(
    NotAChunk,
  );
});

test("a message that is no chunk is refused", () => {
  expect(() => parseChunk('{"heartbeat":true}')).toThrow(NotAChunk);
  expect(() => parseChunk("null")).toThrow(NotAChunk);
});

test("a type of a later version is shown as plain output, and absent fields get their defaults", () => {
  expect(parseChunk('{"seq":1,"type":"hologram","timestamp":"t"}')).toEqual({
    seq: 1,
    type: "stdout",
    data: "",
    timestamp: "t",
    attempt: 1,
    detail: null,
  });
});

test("everything that arrives between two frames is delivered once, in order", () => {
  const frames: FrameRequestCallback[] = [];
  vi.stubGlobal("requestAnimationFrame", (run: FrameRequestCallback) => frames.push(run));
  vi.stubGlobal("cancelAnimationFrame", () => undefined);
  const deliveries: number[][] = [];
  const batch = frameBatch<number>((items) => deliveries.push(items));
  batch.add([1, 2]);
  batch.add([3]);
  expect(deliveries).toEqual([]);
  expect(frames).toHaveLength(1);
  frames[0]?.(0);
  expect(deliveries).toEqual([[1, 2, 3]]);
  batch.add([4]);
  batch.flush();
  expect(deliveries).toEqual([[1, 2, 3], [4]]);
});

test("a hidden page, which gets no frames, is served all the same", () => {
  vi.stubGlobal("requestAnimationFrame", () => 1);
  vi.stubGlobal("cancelAnimationFrame", () => undefined);
  const deliveries: number[][] = [];
  frameBatch<number>((items) => deliveries.push(items)).add([1]);
  vi.advanceTimersByTime(300);
  expect(deliveries).toEqual([[1]]);
});

function viewer(claims: object | null, expires = "2026-01-01T00:10:00Z"): Viewer {
  const jwt = claims ? `x.${btoa(JSON.stringify(claims))}.y` : "";
  return { nats_ws: "ws://x", jwt, seed: "", subject: "s", expires_at: expires };
}

test("renewal is planned from the token's own life, so a wrong browser clock does no harm", () => {
  const wrong = Date.parse("2030-01-01T00:00:00Z");
  expect(renewalDelay(viewer({ iat: 1_000, exp: 1_600 }), wrong)).toBe(480_000);
  expect(renewalDelay(viewer({ iat: 1_000, exp: 1_012 }), wrong)).toBe(8_000);
});

test("without those claims renewal is planned from expires_at, and never at once", () => {
  expect(renewalDelay(viewer(null), Date.parse("2026-01-01T00:00:00Z"))).toBe(480_000);
  expect(renewalDelay(viewer(null), Date.parse("2026-01-02T00:00:00Z"))).toBe(1_000);
  expect(renewalDelay(viewer(null, "never"), 0)).toBe(120_000);
});
