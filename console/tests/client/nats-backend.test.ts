import { expect, test } from "vitest";
import { chunksOf } from "../../src/client/chunk-iterator";
import { Backend, type Connection, NotStored } from "../../src/client/nats-commands";
import type { Chunk, Watch } from "../../src/stream";

const ID = "0b5f2f0e-6a3b-4c1e-9d70-3a6f7b1c2d3e";

/** A connection that remembers what it was asked to publish, and answers as JetStream. */
function connection(answer: object = { stream: "OCF_COMMANDS", seq: 1 }) {
  const asked: { subject: string; event: Record<string, unknown>; timeout: number }[] = [];
  const one: Connection = {
    async request(subject, payload, { timeout }) {
      asked.push({ subject, event: JSON.parse(payload) as Record<string, unknown>, timeout });
      return { data: new TextEncoder().encode(JSON.stringify(answer)) };
    },
  };
  return { asked, one };
}

test("commands are CloudEvents on the subject of their project and execution", async () => {
  const { asked, one } = connection();
  const backend = new Backend(one, { project: "web" });
  await backend.submit({ prompt: "Do it" }, ID);
  await backend.cancel(ID, "enough");
  await backend.attachSession("s-1", "me");
  expect(asked.map(({ subject }) => subject)).toEqual([
    `ocf.cmd.submit.web.${ID}`,
    `ocf.cmd.cancel.web.${ID}`,
    "ocf.cmd.session.web.s-1",
  ]);
  expect(asked[0]?.event).toMatchObject({
    specversion: "1.0",
    type: "dev.ocf.task.submit.v1",
    subject: ID,
    data: { prompt: "Do it", execution_id: ID, project_id: "web" },
  });
  expect(asked[2]?.event).toMatchObject({ type: "dev.ocf.session.attach.v1", data: { client_id: "me" } });
});

test("NATS has a minute to store a command, or what the caller gives it", async () => {
  const { asked, one } = connection();
  await new Backend(one).cancel(ID);
  await new Backend(one, { timeoutMs: 5_000 }).cancel(ID);
  expect(asked.map(({ timeout }) => timeout)).toEqual([60_000, 5_000]);
});

test("a command that NATS does not store, or whose id would be another subject, is an error", async () => {
  const backend = new Backend(connection({ error: { description: "no space" } }).one);
  await expect(backend.cancel(ID)).rejects.toThrow(NotStored);
  expect(() => backend.cancel("a.b.>")).toThrow('execution: "a.b.>" is no token');
  expect(() => new Backend(connection().one, { project: "*" })).toThrow("project");
});

/** A watch that the test drives. */
function driven() {
  let end = (): void => undefined;
  const done = new Promise<void>((resolve) => {
    end = resolve;
  });
  const state = { failure: null as Error | null, closed: false };
  const watch: Watch = {
    status: { state: "connected", transport: null, error: null, retryAt: null, sequence: 0 },
    done,
    get failure() {
      return state.failure;
    },
    retry: () => undefined,
    close() {
      state.closed = true;
      end();
    },
  };
  return { watch, state, end };
}

const chunk = (seq: number): Chunk => ({ seq, type: "text", data: "", timestamp: "", attempt: 1 });

test("chunks that arrived before the end are yielded, then the refusal is thrown", async () => {
  const { watch, state, end } = driven();
  const seen: number[] = [];
  const read = async (): Promise<void> => {
    const chunks = chunksOf((onChunks) => {
      onChunks([chunk(1), chunk(2)]);
      return watch;
    });
    for await (const one of chunks) {
      seen.push(one.seq);
      if (one.seq === 2) {
        state.failure = new Error("it was deleted");
        end();
      }
    }
  };
  await expect(read()).rejects.toThrow("it was deleted");
  expect([seen, state.closed]).toEqual([[1, 2], true]);
});

test("an aborted signal ends a watch that waits, with its reason", async () => {
  const { watch, state } = driven();
  const over = new AbortController();
  const next = chunksOf(() => watch, over.signal).next();
  over.abort(new Error("long enough"));
  await expect(next).rejects.toThrow("long enough");
  expect(state.closed).toBe(true);
});
