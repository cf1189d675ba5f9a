/** An execution in every state, sessions and dead letters: what the stand-in gateway has from its start. */
import { randomUUID } from "node:crypto";
import { flood, script } from "./scenario.mjs";
import { iso, letters, past, play, say, sessions, start, task } from "./store.mjs";

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
task({
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
