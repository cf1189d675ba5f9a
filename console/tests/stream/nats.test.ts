import { afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { type Gateway, natsConnector, type StreamStatus, watch } from "../../src/stream";
import { numbers } from "./helpers";
import { HAS_SERVER, NatsServer, SEED, SUBJECT } from "./nats-server";

const suite = HAS_SERVER ? test : test.skip;
const PATIENCE = { timeout: 10_000 };

let server: NatsServer;
let ended: boolean;

beforeAll(() => {
  // Node 20 has no WebSocket of its own; a browser does.
  vi.stubGlobal("WebSocket", WebSocket);
});

beforeEach(async (context) => {
  if (!HAS_SERVER) context.skip();
  ended = false;
  server = await new NatsServer().open();
});

afterEach(async () => {
  await server?.close();
});

const gateway: Gateway = {
  viewer: async () => ({
    nats_ws: server.url,
    jwt: "",
    seed: SEED,
    subject: SUBJECT,
    expires_at: new Date(Date.now() + 3_600_000).toISOString(),
  }),
  async *history(from) {
    yield server.said.filter((one) => one.seq >= from);
  },
  probe: async () => ({ ended, lastSequence: server.said.length }),
};

function follow() {
  const seen: number[] = [];
  const statuses: StreamStatus[] = [];
  const watching = watch({
    gateway,
    connectors: [natsConnector()],
    onChunks: (chunks) => seen.push(...chunks.map((one) => one.seq)),
    onStatus: (status) => statuses.push(status),
  });
  return { seen, statuses, watching };
}

suite("over a real server, history and live arrive as one sequence", async () => {
  for (const seq of numbers(1, 50)) server.say(seq);
  const { seen, watching } = follow();
  for (const seq of numbers(51, 100)) server.say(seq);
  await vi.waitFor(() => expect(watching.status.state).toBe("connected"), PATIENCE);
  for (const seq of numbers(101, 300)) server.say(seq);
  await vi.waitFor(() => expect(seen).toHaveLength(300), PATIENCE);
  expect(seen).toEqual(numbers(1, 300));
  watching.close();
});

suite("a server that is killed and started again costs no chunk and doubles none", { timeout: 40_000 }, async () => {
  const { seen, statuses, watching } = follow();
  await vi.waitFor(() => expect(watching.status.state).toBe("connected"), PATIENCE);
  for (const seq of numbers(1, 10)) server.say(seq);
  await vi.waitFor(() => expect(seen).toHaveLength(10), PATIENCE);
  await server.kill();
  await vi.waitFor(() => expect(watching.status.state).toBe("disconnected"), PATIENCE);
  for (const seq of numbers(11, 20)) server.say(seq, false);
  await server.start();
  await vi.waitFor(() => expect(watching.status.state).toBe("connected"), PATIENCE);
  server.say(21);
  await vi.waitFor(() => expect(seen).toEqual(numbers(1, 21)), PATIENCE);
  ended = true;
  await vi.waitFor(() => expect(watching.status.state).toBe("ended"), PATIENCE);
  expect(statuses.map((status) => status.state)).toContain("disconnected");
});

suite("a subscription that the server refuses is an error, not a silent stream", async () => {
  const viewer = {
    ...(await gateway.viewer(new AbortController().signal)),
    subject: "ocf.live.other.0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11",
  };
  await expect(natsConnector().open(viewer, 1, () => undefined)).rejects.toThrow(/permission/i);
});

test("a refusal that is the last word of a server is an error, although the flush is never answered", async () => {
  const refusing = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  let pings = 0;
  refusing.on("connection", (socket) => {
    const say = (line: string): void => socket.send(Buffer.from(`${line}\r\n`));
    say('INFO {"server_id":"x","version":"2.14.0","proto":1,"headers":true,"max_payload":1048576}');
    socket.on("message", (data) => {
      const text = String(data);
      if (text.includes("PING") && pings++ === 0) say("PONG");
      if (text.includes("SUB ")) say(`-ERR 'Permissions Violation for Subscription to "${SUBJECT}"'`);
    });
  });
  await new Promise((resolve) => refusing.once("listening", resolve));
  const address = refusing.address() as { port: number };
  const viewer = { ...(await gateway.viewer(new AbortController().signal)), nats_ws: `ws://127.0.0.1:${address.port}` };
  try {
    await expect(natsConnector().open(viewer, 1, () => undefined)).rejects.toThrow(/permission/i);
  } finally {
    refusing.close();
  }
});
