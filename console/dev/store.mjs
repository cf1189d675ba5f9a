/** What the stand-in gateway knows, and how an execution goes on in it. */
import { randomUUID } from "node:crypto";
import { PATCH } from "./scenario.mjs";

export const TERMINAL = ["completed", "failed", "cancelled", "timed_out", "rejected"];
export const tasks = new Map();
export const sessions = [];
export const letters = [];
export const iso = (ms) => new Date(ms).toISOString();

export function task(change) {
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

export function say(entry, chunk, at = Date.now()) {
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

export function start(entry, at = Date.now()) {
  entry.record.status = "running";
  entry.record.started_at = iso(at);
  entry.record.attempts.push({
    number: entry.record.attempts.length + 1,
    worker: "execute-00012-deployment-6c9f7d5b8-x2x7p",
    started_at: iso(at),
  });
}

/** Plays the rest of the script in real time; stops at a question until it is answered. */
export function play(entry, steps) {
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
export function past(entry, steps, ago) {
  let at = Date.now() - ago;
  entry.record.submitted_at = iso(at - 700);
  start(entry, at);
  for (const [ms, chunk] of steps) {
    at += ms;
    say(entry, chunk, at);
  }
  return entry;
}
