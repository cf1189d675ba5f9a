/** Rules, events, schedules, credentials and hooks of the stand-in gateway. */

import { iso } from "./store.mjs";

const MINUTE = 60_000;
const ago = (minutes) => iso(Date.now() - minutes * MINUTE);

export const newHook = { url: "http://127.0.0.1:3003/hooks/default/github", secret: "kJ0w9sFzT4gWm1Yx-a-secret" };

export const inbox = {
  triggers: [
    {
      name: "labelled",
      on: { type: "com.github.issues.labeled", where: 'event.data.label.name == "agent"' },
      poll: { forge: "github", repository: "team/app", what: "issues", credential: "bot" },
      task: { prompt: "Fix this issue: {{ event.data.issue.title }}" },
      matched: 12,
      last_event: { id: "1", time: ago(3) },
      refused: [{ id: "2", time: ago(90), reason: "on.actors.permission: eve has read in team/app, not write" }],
      polled: { polled_at: ago(1), problem: "" },
    },
    {
      name: "scanner",
      on: { type: "org.example.*", source: "/scanner" },
      task: { prompt: "Look at {{ event.data.title }}" },
      matched: 0,
      last_event: null,
      refused: [],
      problem: "on.where: uses all(); allowed are comparisons, in, has, size, contains, startsWith, endsWith",
    },
  ],
  events: [
    {
      id: "sha256:1",
      type: "com.github.issues.labeled",
      source: "https://github.com/team/app",
      subject: "142",
      time: ago(3),
      rules: [
        { rule: "labelled", mismatch: null, execution_id: "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11", started: true },
        { rule: "scanner", mismatch: "type is com.github.issues.labeled, not org.example.*" },
      ],
    },
    {
      id: "sha256:2",
      type: "com.github.issues.opened",
      source: "https://github.com/team/app",
      subject: "143",
      time: ago(9),
      rules: [{ rule: "labelled", mismatch: "type is com.github.issues.opened, not com.github.issues.labeled" }],
    },
    { id: "", problem: "specversion: is missing", rules: [] },
  ],
  schedules: [
    {
      name: "nightly",
      cron: "0 6 * * 1-5",
      timezone: "Europe/Berlin",
      overlap: "skip",
      paused: false,
      upcoming: [ago(-300), ago(-1_740), ago(-3_180)],
      last: { id: "1", time: ago(1_140) },
      refused: [{ id: "2", time: ago(2_580), reason: "overlap: 0b9f3f0e has not ended" }],
    },
    { name: "weekly", cron: "0 6 * * 1", timezone: "UTC", overlap: "queue", paused: true, upcoming: [], last: null },
  ],
  credentials: [
    { name: "bot", forge: "github", api_url: "https://api.github.com", kind: "token", created_at: ago(5_000) },
    { name: "team-app", forge: "github", api_url: "https://api.github.com", kind: "app", created_at: ago(90) },
  ],
  hooks: [
    {
      kind: "github",
      source: "github",
      project_id: "default",
      secrets: [{ created_at: ago(60) }, { created_at: ago(9_000), expires_at: ago(-1_300) }],
    },
  ],
};
