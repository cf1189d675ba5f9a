import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { vi } from "vitest";
import type { Chunk } from "../../src/stream";
import { chunk } from "./helpers";

/** The real server: `OCF_NATS_SERVER`, or the one `make install` puts into the checkout. */
const BINARY = process.env.OCF_NATS_SERVER ?? join(import.meta.dirname, "../../../.venv/bin/nats-server");
export const HAS_SERVER = existsSync(BINARY);

export const EXECUTION = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11";
export const SUBJECT = `ocf.live.default.${EXECUTION}`;
/** Well-formed; the server here asks for no signature. */
export const SEED = "SUAGMJH5XLGZKQQWAWKRZJIGMOU4HPFUYLXJMXOO5NLFEO2OOQJ5LPRDPM";

/** A nats-server with a WebSocket, where a viewer may listen to one subject, and one who says things there. */
export class NatsServer {
  readonly said: Chunk[] = [];
  #folder = "";
  #process: ChildProcess | null = null;
  #publisher: Socket | null = null;
  #tcp = 0;
  #ws = 0;

  get url(): string {
    return `ws://127.0.0.1:${this.#ws}`;
  }

  async open(): Promise<this> {
    this.#folder = mkdtempSync(join(tmpdir(), "ocf-console-nats-"));
    [this.#tcp, this.#ws] = [await freePort(), await freePort()];
    writeFileSync(
      join(this.#folder, "nats.conf"),
      `listen: "127.0.0.1:${this.#tcp}"
websocket { listen: "127.0.0.1:${this.#ws}", no_tls: true }
authorization { users: [
  { user: p, password: p, permissions: { publish: "ocf.>" } }
  { user: v, password: v, permissions: { subscribe: "${SUBJECT}", publish: { deny: ">" } } }
] }
no_auth_user: v`,
    );
    await this.start();
    return this;
  }

  async start(): Promise<void> {
    this.#process = spawn(BINARY, ["-c", join(this.#folder, "nats.conf")], { stdio: "ignore" });
    this.#publisher = await vi.waitFor(() => dial(this.#tcp), { timeout: 10_000, interval: 20 });
  }

  /** Ends it at once, as a crash does. */
  async kill(): Promise<void> {
    const process = this.#process;
    if (!process) return;
    const gone = new Promise((resolve) => process.once("exit", resolve));
    process.kill("SIGKILL");
    await gone;
  }

  /** Keeps the chunk, then publishes it, as the stream's republication does. */
  say(seq: number, published = true): void {
    this.said.push(chunk(seq));
    const payload = JSON.stringify(chunk(seq));
    if (published) this.#publisher?.write(`PUB ${SUBJECT} ${Buffer.byteLength(payload)}\r\n${payload}\r\n`);
  }

  async close(): Promise<void> {
    this.#publisher?.destroy();
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

function dial(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("error", reject);
    socket.once("data", () => {
      socket.on("error", () => undefined);
      socket.write('CONNECT {"user":"p","pass":"p","verbose":false}\r\n');
      resolve(socket);
    });
  });
}
