import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import type { Chunk } from "../../src/stream";
import { numbers } from "./helpers";
import { EXECUTION, HAS_SERVER, NatsServer, SEED, SUBJECT } from "./nats-server";

/** The examples of `docs/how-to/watch-output.md`, run as they stand there. */
const DOCS = readFileSync(join(import.meta.dirname, "../../../docs/how-to/watch-output.md"), "utf8");
const suite = HAS_SERVER ? test : test.skip;
const PATIENCE = { timeout: 10_000 };

interface Connection {
  close(): Promise<void>;
}

let folder: string;
let nats: NatsServer;
let http: Server;
let gateway: string;
let status = "running";
let subject = SUBJECT;
/** Histories that were read, and how many at the same time at most. */
let readings = 0;
let reading = 0;
let most = 0;
/** Sequences that history has lost. */
const lost = new Set<number>();

beforeAll(async () => {
  if (!HAS_SERVER) return;
  vi.stubGlobal("WebSocket", WebSocket);
  // Below the package, where its imports are found.
  folder = mkdtempSync(join(import.meta.dirname, ".docs-"));
  nats = await new NatsServer().open();
  http = createServer(async (request, response) => {
    const url = new URL(request.url ?? "/", "http://x");
    const from = Number(url.searchParams.get("from"));
    if (url.pathname.endsWith("/token")) {
      const expires_at = new Date(Date.now() + 600_000).toISOString();
      response.end(JSON.stringify({ nats_ws: nats.url, jwt: "", seed: SEED, subject, expires_at }));
    } else if (url.pathname.endsWith("/status")) {
      response.end(JSON.stringify({ status, last_sequence: nats.said.length }));
    } else {
      readings += 1;
      reading += 1;
      most = Math.max(most, reading);
      const said = nats.said.filter((one) => one.seq >= from && !lost.has(one.seq));
      await new Promise((resolve) => setTimeout(resolve, 20));
      reading -= 1;
      response.end(said.map((one) => `${JSON.stringify(one)}\n`).join(""));
    }
  });
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  const address = http.address();
  gateway = `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
});

afterAll(async () => {
  if (!HAS_SERVER) return;
  http.close();
  await nats.close();
  rmSync(folder, { recursive: true, force: true });
});

/** The code block behind `<!-- example: NAME -->`, as a module. */
async function example(name: string): Promise<Record<string, (...values: unknown[]) => unknown>> {
  const code = new RegExp(`<!-- example: ${name} -->\\n\`\`\`js\\n([\\s\\S]*?)\`\`\``).exec(DOCS)?.[1];
  if (!code) throw new Error(`docs/how-to/watch-output.md has no example ${name}`);
  const file = join(folder, `${name}.js`);
  writeFileSync(file, code.replace('"opencode-stream"', JSON.stringify(join(import.meta.dirname, "../../src/stream"))));
  return import(/* @vite-ignore */ file);
}

suite("the example without the library shows every chunk once and in order", async () => {
  const { watch } = await example("javascript-plain");
  for (const seq of numbers(1, 30)) nats.say(seq);
  const seen: number[] = [];
  const connection = (await watch?.(gateway, EXECUTION, (one: Chunk) => seen.push(one.seq), vi.fn())) as Connection;
  nats.say(31, false); // lost on its way: the next one shows the hole
  for (const seq of numbers(32, 60)) nats.say(seq);
  await vi.waitFor(() => expect(seen).toEqual(numbers(1, 60)), PATIENCE);
  await connection.close();
});

suite("it states a hole that history has not got, and reads history a few times for it, never twice at once", async () => {
  const { watch } = await example("javascript-plain");
  const seen: Chunk[] = [];
  const connection = (await watch?.(gateway, EXECUTION, (one: Chunk) => seen.push(one), vi.fn())) as Connection;
  expect(seen).toHaveLength(60);
  readings = 0;
  most = 0;
  nats.say(61, false);
  nats.say(62, false);
  lost.add(61).add(62);
  for (const seq of numbers(63, 200)) nats.say(seq);
  await vi.waitFor(() => expect(seen.at(-1)?.seq).toBe(200), PATIENCE);
  expect(seen.slice(60, 62)).toMatchObject([{ seq: 61, type: "gap", detail: { from: 61, to: 62 } }, { seq: 63 }]);
  expect(seen).toHaveLength(199);
  expect(readings).toBeLessThan(8);
  expect(most).toBe(1);
  lost.clear();
  await connection.close();
});

suite("it says that it is refused, or cut off", async () => {
  const { watch } = await example("javascript-plain");
  const cut = vi.fn();
  subject = "ocf.live.other.0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11";
  try {
    await watch?.(gateway, EXECUTION, vi.fn(), cut);
    await vi.waitFor(() => expect(String(cut.mock.calls[0])).toMatch(/permission/i), PATIENCE);
  } finally {
    subject = SUBJECT;
  }
});

suite("the ten-line example shows a run to its end", async () => {
  const { show } = await example("javascript");
  const pieces: string[] = [];
  const states: string[] = [];
  const element = {
    append: (text: string) => pieces.push(text),
    setAttribute: (_: string, state: string) => states.push(state),
  };
  const watching = show?.(gateway, EXECUTION, element) as { done: Promise<void> };
  await vi.waitFor(() => expect(states.at(-1)).toBe("connected"), PATIENCE);
  status = "completed";
  await watching.done;
  expect(pieces).toHaveLength(nats.said.length);
  expect(states.at(-1)).toBe("ended");
});
