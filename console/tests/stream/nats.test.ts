import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { WebSocket } from "ws";
import { type Chunk, type Gateway, natsConnector, type StreamStatus, type Viewer, watch } from "../../src/stream";
import { chunk, numbers } from "./helpers";

/** The real server: `OCF_NATS_SERVER`, or the one `make install` puts into the checkout. */
const BINARY = process.env.OCF_NATS_SERVER ?? join(import.meta.dirname, "../../../.venv/bin/nats-server");
const SUBJECT = "ocf.live.default.0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11";

let folder: string;
let ports: { tcp: number; ws: number };
let server: ChildProcess;
let publisher: Socket;
let said: Chunk[];
let ended: boolean;

beforeAll(() => {
  // Node 20 has no WebSocket of its own; a browser does.
  vi.stubGlobal("WebSocket", WebSocket);
});

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "ocf-console-nats-"));
  ports = { tcp: await freePort(), ws: await freePort() };
  writeFileSync(
    join(folder, "nats.conf"),
    `listen: "127.0.0.1:${ports.tcp}"
websocket { listen: "127.0.0.1:${ports.ws}", no_tls: true }
authorization { users: [
  { user: p, password: p, permissions: { publish: "ocf.>" } }
  { user: v, password: v, permissions: { subscribe: "${SUBJECT}", publish: { deny: ">" } } }
] }
no_auth_user: v`,
  );
  said = [];
  ended = false;
  await start();
});

afterEach(async () => {
  publisher?.destroy();
  await stop();
  rmSync(folder, { recursive: true, force: true });
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

async function start(): Promise<void> {
  server = spawn(BINARY, ["-c", join(folder, "nats.conf")], { stdio: "ignore" });
  publisher = await vi.waitFor(dial, { timeout: 5_000, interval: 20 });
}

function dial(): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(ports.tcp, "127.0.0.1");
    socket.once("error", reject);
    socket.once("data", () => {
      socket.on("error", () => undefined);
      socket.write('CONNECT {"user":"p","pass":"p","verbose":false}\r\n');
      resolve(socket);
    });
  });
}

async function stop(): Promise<void> {
  const gone = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGKILL");
  await gone;
}

/** Keeps the chunk, then publishes it, as the stream's republication does. */
function say(seq: number, published = true): void {
  said.push(chunk(seq));
  const payload = JSON.stringify(chunk(seq));
  if (published) publisher.write(`PUB ${SUBJECT} ${Buffer.byteLength(payload)}\r\n${payload}\r\n`);
}

const gateway: Gateway = {
  viewer: async (): Promise<Viewer> => ({
    nats_ws: `ws://127.0.0.1:${ports.ws}`,
    jwt: "",
    // A well-formed seed: this server asks for no signature.
    seed: "SUAGMJH5XLGZKQQWAWKRZJIGMOU4HPFUYLXJMXOO5NLFEO2OOQJ5LPRDPM",
    subject: SUBJECT,
    expires_at: new Date(Date.now() + 3_600_000).toISOString(),
  }),
  async *history(from) {
    yield said.filter((one) => one.seq >= from);
  },
  probe: async () => ({ ended, lastSequence: said.length }),
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

const suite = existsSync(BINARY) ? test : test.skip;

suite("over a real server, history and live arrive as one sequence", async () => {
  for (const seq of numbers(1, 50)) say(seq);
  const { seen, watching } = follow();
  for (const seq of numbers(51, 100)) say(seq);
  await vi.waitFor(() => expect(watching.status.state).toBe("connected"));
  for (const seq of numbers(101, 300)) say(seq);
  await vi.waitFor(() => expect(seen).toHaveLength(300));
  expect(seen).toEqual(numbers(1, 300));
  watching.close();
});

suite("a server that is killed and started again costs no chunk and doubles none", async () => {
  const { seen, statuses, watching } = follow();
  await vi.waitFor(() => expect(watching.status.state).toBe("connected"));
  for (const seq of numbers(1, 10)) say(seq);
  await vi.waitFor(() => expect(seen).toHaveLength(10));
  await stop();
  await vi.waitFor(() => expect(watching.status.state).toBe("disconnected"));
  for (const seq of numbers(11, 20)) say(seq, false);
  await start();
  await vi.waitFor(() => expect(watching.status.state).toBe("connected"), { timeout: 8_000 });
  say(21);
  await vi.waitFor(() => expect(seen).toEqual(numbers(1, 21)));
  ended = true;
  watching.retry();
  await vi.waitFor(() => expect(watching.status.state).toBe("ended"), { timeout: 8_000 });
  expect(statuses.map((status) => status.state)).toContain("disconnected");
});

suite("a subscription that the server refuses is an error, not a silent stream", async () => {
  const viewer = { ...(await gateway.viewer()), subject: "ocf.live.other.0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11" };
  await expect(natsConnector().open(viewer, 1, () => undefined)).rejects.toThrow(/permission/i);
});
