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
import { comparison } from "./comparison.mjs";
import { script } from "./scenario.mjs";
import "./seed.mjs";
import { inbox, newHook } from "./inbox.mjs";
import { iso, letters, play, say, sessions, start, task, tasks } from "./store.mjs";
import { usage, usageCsv } from "./usage.mjs";

const PORT = Number(process.env.PORT ?? 3003);
const DIST = process.env.DIST;
const OFFLINE = process.env.OFFLINE === "1";

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
  if (parts[0] === "usage") {
    const groups = url.searchParams.get("group_by");
    if (url.searchParams.get("format") !== "csv") return json(usage(groups, url.searchParams.get("from")));
    response.writeHead(200, { "Content-Type": "text/csv; charset=utf-8" });
    return response.end(usageCsv(groups, url.searchParams.get("from")));
  }
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
  if (inbox[parts[0]]) {
    if (request.method === "GET") return json({ [parts[0]]: inbox[parts[0]] });
    if (parts[2] === "test") return json({ submits: [{ prompt: "Fix this issue: It fails" }], mismatch: null });
    if (parts[0] === "hooks" && request.method === "POST") return json(newHook, 201);
    if (request.method === "POST" && body.cron === "never")
      return problem(422, "1 field is wrong", [{ field: "cron", message: "must be five fields" }]);
    return json({ name: parts[1] }, 202);
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
    if (parts[2] === "compare") return json(comparison(record, tasks.get(parts[3]).record));
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
  // As the gateway does: who hears nothing for long takes it for gone.
  const heartbeat = setInterval(() => send({ seq: entry.chunks.length, type: "heartbeat", data: "" }), 15_000);
  socket.on("close", () => {
    clearInterval(heartbeat);
    entry.listeners.delete(send);
  });
});

server.listen(PORT, "127.0.0.1", () =>
  process.stdout.write(`gateway stand-in on http://127.0.0.1:${server.address().port}\n`),
);
