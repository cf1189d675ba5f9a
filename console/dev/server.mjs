/**
 * A stand-in for the gateway, for developing the console without a stack: `npm run dev:server`, then `npm run dev`.
 * It plays `scenario.mjs`; it has no NATS, so the stream library falls back to its WebSocket.
 * PORT (3003) and DIST (a built console to serve) come from the environment.
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { WebSocketServer } from "ws";
import { flood, PATCH, script } from "./scenario.mjs";

const PORT = Number(process.env.PORT ?? 3003);
const DIST = process.env.DIST;
const OFFLINE = process.env.OFFLINE === "1";
const TERMINAL = ["completed", "failed", "cancelled", "timed_out", "rejected"];
const tasks = new Map();
const sessions = [];
const letters = [];
const iso = (ms) => new Date(ms).toISOString();

function task(change) {
  const id = change.execution_id ?? randomUUID();
  const now = Date.now();
  const record = {
    execution_id: id,
    project_id: "default",
    status: "pending",
    progress: 0,
    title: "",
    labels: {},
    model: "anthropic/claude-sonnet-4-5",
    submitted_at: iso(now),
    timeout_seconds: 3600,
    max_attempts: 1,
    attempts: [],
    todo: [],
    errors: [],
    archived: false,
    last_sequence: 0,
    usage: {
      requests: 0,
      input_tokens: 0,
      output_tokens: 0,
      reasoning_tokens: 0,
      cache_read_tokens: 0,
      cache_write_tokens: 0,
      cost_usd: 0,
    },
    diff: { files: 0, additions: 0, deletions: 0, changed: [] },
    ...change,
  };
  const entry = { record, chunks: [], listeners: new Set(), patch: "" };
  tasks.set(id, entry);
  return entry;
}

function say(entry, chunk, at = Date.now()) {
  const full = {
    seq: entry.chunks.length + 1,
    timestamp: iso(at),
    attempt: entry.record.attempts.length || 1,
    data: "",
    ...chunk,
  };
  entry.chunks.push(full);
  const { record } = entry;
  record.last_sequence = full.seq;
  if (chunk.type === "usage") record.usage = chunk.detail;
  if (chunk.type === "todo") {
    record.todo = chunk.detail.items;
    record.progress = Math.min(
      99,
      Math.round((100 * record.todo.filter((one) => one.status === "completed").length) / record.todo.length),
    );
  }
  if (chunk.type === "file_change") {
    const changed = [...record.diff.changed.filter((one) => one.path !== chunk.detail.path), chunk.detail];
    record.diff = sum(changed);
  }
  if (chunk.type === "permission" || chunk.type === "question") {
    record.waiting_for = { ...chunk.detail, deadline: iso(Date.now() + 600_000) };
  }
  if (TERMINAL.includes(chunk.detail?.state)) {
    Object.assign(record, {
      status: chunk.detail.state,
      ended_at: iso(at),
      progress: chunk.detail.state === "completed" ? 100 : record.progress,
      archived: true,
    });
    if (record.attempts.length) Object.assign(record.attempts.at(-1), { ended_at: iso(at), ended: chunk.detail.state });
    if (record.diff.files) entry.patch = PATCH;
  }
  for (const listener of entry.listeners) listener(full);
}

const sum = (changed) => ({
  files: changed.length,
  changed,
  additions: changed.reduce((n, one) => n + (one.additions ?? 0), 0),
  deletions: changed.reduce((n, one) => n + (one.deletions ?? 0), 0),
});

function start(entry, at = Date.now()) {
  entry.record.status = "running";
  entry.record.started_at = iso(at);
  entry.record.attempts.push({
    number: entry.record.attempts.length + 1,
    worker: "execute-00012-deployment-6c9f7d5b8-x2x7p",
    started_at: iso(at),
  });
}

/** Plays the rest of the script in real time; stops at a question until it is answered. */
function play(entry, steps) {
  const [next, ...rest] = steps;
  if (!next || TERMINAL.includes(entry.record.status)) return;
  entry.resume = null;
  setTimeout(() => {
    if (TERMINAL.includes(entry.record.status)) return;
    say(entry, next[1]);
    if (entry.record.waiting_for) entry.resume = () => play(entry, rest);
    else play(entry, rest);
  }, next[0]);
}

/** Plays all of it at once, as if it had ended long ago. */
function past(entry, steps, ago) {
  let at = Date.now() - ago;
  entry.record.submitted_at = iso(at - 700);
  start(entry, at);
  for (const [ms, chunk] of steps) {
    at += ms;
    say(entry, chunk, at);
  }
  return entry;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
past(
  task({
    title: "Add retries with backoff to the HTTP client",
    execution_id: "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11",
    labels: { team: "shop", ticket: "SHOP-142" },
  }),
  script(),
  26 * MINUTE,
);
past(
  task({
    title: "A long story in ten thousand chunks",
    execution_id: "11111111-6f0e-4c6e-9f5e-2f4f6f1f7a11",
    project_id: "load",
  }),
  flood(10_000),
  3 * HOUR,
);
const failing = past(
  task({ title: "Upgrade the billing service to Python 3.13", project_id: "billing", labels: { team: "billing" } }),
  script().slice(0, 90),
  2 * HOUR,
);
say(
  failing,
  { type: "status", data: "failed: the model answered 529 five times", detail: { state: "failed" } },
  Date.now() - 2 * HOUR + 41_000,
);
Object.assign(failing.record, { reason: "model_error", message: "the model failed (529): overloaded, 5 tries" });
const lost = past(
  task({
    title: "Write property tests for the price calculator",
    execution_id: "22222222-6f0e-4c6e-9f5e-2f4f6f1f7a11",
    max_attempts: 3,
    model: "offline/scripted",
  }),
  script().slice(0, 60),
  5 * HOUR,
);
Object.assign(lost.record.attempts[0], { ended: "worker_lost", ended_at: iso(Date.now() - 5 * HOUR + 30_000) });
start(lost, Date.now() - 5 * HOUR + 33_000);
say(lost, { type: "status", data: "running", detail: { state: "running" } }, Date.now() - 5 * HOUR + 34_000);
say(
  lost,
  { type: "gap", data: "chunks 61 to 63 are not kept any more", detail: { reason: "expired" } },
  Date.now() - 5 * HOUR + 34_500,
);
say(
  lost,
  { type: "stderr", data: "warning: the workspace was restored from the last snapshot\n" },
  Date.now() - 5 * HOUR + 35_000,
);
let later = Date.now() - 5 * HOUR + 36_000;
for (const [ms, chunk] of script().slice(3)) {
  later += ms;
  say(lost, chunk, later);
}
const cancelled = past(
  task({ title: "Port the admin pages to the new design system", project_id: "web" }),
  script().slice(0, 120),
  27 * HOUR,
);
say(
  cancelled,
  { type: "status", data: "cancelled by ana", detail: { state: "cancelled" } },
  Date.now() - 27 * HOUR + 60_000,
);
const slow = past(
  task({ title: "Find out why the nightly export takes four hours", project_id: "data" }),
  script().slice(0, 100),
  30 * HOUR,
);
say(slow, { type: "status", data: "timed out after 1 h", detail: { state: "timed_out" } }, Date.now() - 29 * HOUR);
task({
  title: "Rejected: workspace path outside the allowed roots",
  status: "rejected",
  submitted_at: iso(Date.now() - 31 * HOUR),
  errors: [{ field: "workspace.path", message: "must be below /srv/projects" }],
});
const queued = task({
  title: "Translate the help pages into Portuguese",
  project_id: "web",
  queue_position: 3,
  submitted_at: iso(Date.now() - 2 * MINUTE),
});
const live = task({
  title: "Add retries with backoff to the HTTP client, and cover them with tests",
  execution_id: "33333333-6f0e-4c6e-9f5e-2f4f6f1f7a11",
  labels: { team: "shop" },
});
start(live);
play(live, script());
const asking = task({
  title: "Mock the payment provider in the test suite",
  execution_id: "44444444-6f0e-4c6e-9f5e-2f4f6f1f7a11",
  labels: { team: "shop" },
});
start(asking, Date.now() - 4 * MINUTE);
for (const [ms, chunk] of script({ ask: true })) {
  say(asking, chunk, Date.now() - 3 * MINUTE + ms);
  if (chunk.type === "permission") break;
}
asking.resume = () => play(asking, script().slice(-80));
void queued;
sessions.push({
  session_id: randomUUID(),
  project_id: "default",
  state: "open",
  created_at: iso(Date.now() - 2 * HOUR),
  expires_at: iso(Date.now() + 22 * HOUR),
  executions: [randomUUID(), asking.record.execution_id],
  labels: { team: "shop" },
  clients: [{ client_id: "ana" }],
});
sessions.push({
  session_id: randomUUID(),
  project_id: "web",
  state: "open",
  queue: [live.record.execution_id, randomUUID()],
  created_at: iso(Date.now() - 26 * HOUR),
  expires_at: iso(Date.now() + 40 * MINUTE),
  labels: {},
});
for (const [reason, type, status] of [
  ["the function answered 422: workspace.url: must be an https address", "dev.ocf.task.submit.v1", 422],
  ["not a CloudEvent: no ce-specversion", null, null],
  ["gave up after 20 deliveries: the archive's store did not answer", "dev.ocf.task.completed.v1", 503],
]) {
  letters.push({
    seq: letters.length + 41,
    consumer: type ? `ocf-${type.split(".")[3]}` : "ocf-submit",
    subject: `ocf.cmd.submit.default.${randomUUID()}`,
    project_id: "default",
    reason,
    ...(status ? { status } : {}),
    deliveries: status === 503 ? 20 : 1,
    failed_at: iso(Date.now() - (letters.length + 1) * 17 * MINUTE),
    ...(type ? { type } : {}),
  });
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://x");
  const parts = url.pathname.split("/").filter(Boolean);
  const json = (value, status = 200) => {
    response.writeHead(status, { "Content-Type": status < 400 ? "application/json" : "application/problem+json" });
    response.end(JSON.stringify(value));
  };
  const problem = (status, detail, errors = []) =>
    json({ type: "urn:ocf:problem", title: "Problem", status, detail, errors }, status);
  let text = "";
  for await (const piece of request) text += piece;
  const body = text ? JSON.parse(text) : {};

  if (parts[0] === "ready") return json({ ready: true, offline_model: OFFLINE, checks: { nats: { ok: true, ms: 1 } } });
  if (parts[0] === "sessions") {
    if (request.method === "GET") return json({ items: sessions });
    if (request.method === "POST")
      sessions.unshift({
        session_id: randomUUID(),
        project_id: body.project_id ?? "default",
        state: "open",
        created_at: iso(Date.now()),
        labels: {},
      });
    else
      sessions.splice(
        sessions.findIndex((one) => one.session_id === parts[1]),
        1,
      );
    return json({ session_id: parts[1], status: "creating" }, 202);
  }
  if (parts[0] === "dlq") {
    const at = letters.findIndex((one) => String(one.seq) === parts[1]);
    if (!parts[1]) return json({ items: letters });
    if (request.method === "GET")
      return json({ ...letters[at], data: '{"execution_id":"0b9f","workspace":{"source":"git","url":"ftp://x"}}' });
    letters.splice(at, 1);
    return json({}, 202);
  }
  if (parts[0] === "tasks" && parts[1] === "execute") {
    if (body.workspace?.source === "git" && !/^https?:/.test(body.workspace.url)) {
      return problem(422, "1 field is wrong", [{ field: "workspace.url", message: "must be an https or ssh address" }]);
    }
    const entry = task({
      title: body.prompt.split("\n")[0].slice(0, 120),
      project_id: body.project_id ?? "default",
      labels: body.labels ?? {},
    });
    setTimeout(() => {
      start(entry);
      play(entry, script({ ask: body.permissions?.bash === "ask" }));
    }, 900);
    return json({ execution_id: entry.record.execution_id, status: "pending" }, 202);
  }
  if (parts[0] === "tasks" && !parts[1]) {
    const wanted = (name) => url.searchParams.get(name);
    const items = [...tasks.values()]
      .map((entry) => entry.record)
      .filter(
        (one) =>
          (!wanted("status") || one.status === wanted("status")) &&
          (!wanted("project_id") || one.project_id === wanted("project_id")) &&
          (!wanted("q") || one.title.toLowerCase().includes(wanted("q").toLowerCase())) &&
          (!wanted("label") || one.labels[wanted("label").split("=")[0]] === wanted("label").split("=")[1]) &&
          (!wanted("since") || one.submitted_at >= wanted("since")),
      )
      .sort((a, b) => b.submitted_at.localeCompare(a.submitted_at))
      .map(({ diff, waiting_for, todo, attempts, ...one }) => ({
        ...one,
        files_changed: diff.files,
        waiting: Boolean(waiting_for),
      }));
    return json({ items, next: null });
  }
  const entry = parts[0] === "tasks" ? tasks.get(parts[1]) : undefined;
  if (parts[0] === "tasks" && !entry) return problem(404, `no execution ${parts[1]} in the projects you may read`);
  if (entry) {
    const { record } = entry;
    if (request.method === "DELETE") {
      tasks.delete(parts[1]);
      return json({}, 202);
    }
    if (parts[2] === "status") return json(record);
    if (parts[2] === "token") return problem(503, "this gateway mints no viewer tokens");
    if (parts[2] === "cancel") {
      say(entry, { type: "status", data: "cancelled in the console", detail: { state: "cancelled" } });
      return json({}, 202);
    }
    if (parts[2] === "replies") {
      delete record.waiting_for;
      say(entry, { type: "status", data: `permission answered: ${body.answer}`, detail: { phase: "agent" } });
      entry.resume?.();
      return json({}, 202);
    }
    if (parts[2] === "diff") {
      response.end(entry.patch);
      return;
    }
    if (parts[2] === "output") {
      response.writeHead(200, { "Content-Type": "application/x-ndjson" });
      response.end(
        entry.chunks
          .filter((one) => one.seq >= Number(url.searchParams.get("from") ?? 1))
          .map((one) => `${JSON.stringify(one)}\n`)
          .join(""),
      );
      return;
    }
  }
  if (!DIST) return problem(404, `there is no ${url.pathname} here`);
  const path = normalize(url.pathname === "/" ? "/index.html" : url.pathname);
  const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
  try {
    const content = readFileSync(join(DIST, path));
    response.writeHead(200, { "Content-Type": types[extname(path)] ?? "application/octet-stream" });
    response.end(content);
  } catch {
    problem(404, `there is no ${url.pathname} here`);
  }
});

new WebSocketServer({ server }).on("connection", (socket, request) => {
  const url = new URL(request.url, "http://x");
  const entry = tasks.get(url.pathname.split("/")[2]);
  if (!entry) return socket.close(1008, "unknown");
  const send = (chunk) => socket.send(JSON.stringify(chunk));
  entry.chunks.filter((one) => one.seq >= Number(url.searchParams.get("from") ?? 1)).forEach(send);
  entry.listeners.add(send);
  socket.on("close", () => entry.listeners.delete(send));
});

server.listen(PORT, "127.0.0.1", () =>
  process.stdout.write(`gateway stand-in on http://127.0.0.1:${server.address().port}\n`),
);
