import { expect, test } from "vitest";
import { Transcript } from "../../src/model/transcript";
import { asText } from "../../src/model/transcript-as-text";
import type { Row } from "../../src/model/transcript-rows";
import type { Chunk } from "../../src/stream";
import { chunk } from "../stream/helpers";

let seq = 0;

function say(...parts: Partial<Chunk>[]): Transcript {
  seq = 0;
  const transcript = new Transcript();
  for (const part of parts) transcript.push([next(part)]);
  return transcript;
}

function next(part: Partial<Chunk>): Chunk {
  seq += 1;
  return chunk(seq, { timestamp: new Date(Date.UTC(2026, 0, 1) + seq * 1_000).toISOString(), ...part });
}

const text = (data: string, part_id = "a"): Partial<Chunk> => ({ type: "text", data, detail: { part_id } });
const call = (call_id: string, tool = "bash"): Partial<Chunk> => ({
  type: "tool_call",
  data: `${tool} make`,
  detail: { call_id, tool, input: { command: "make" } },
});

function shape(rows: readonly Row[]): unknown[] {
  return rows.map((row) => (row.kind === "text" ? [row.format, row.source.trimEnd()] : [row.kind]));
}

test("deltas of one text become one row per paragraph, wherever they are cut", () => {
  const whole = "First line\nsecond line\n\n- a\n- b\n\n```py\nx = 1\n\ny = 2\n```\nafter\n";
  const expected = [
    ["prose", "First line\nsecond line"],
    ["prose", "- a\n- b"],
    ["code", "x = 1\n\ny = 2"],
    ["prose", "after"],
  ];
  for (const size of [1, 2, 3, 7, whole.length]) {
    const parts = whole.match(new RegExp(`[\\s\\S]{1,${size}}`, "g")) ?? [];
    expect(shape(say(...parts.map((part) => text(part))).rows)).toEqual(expected);
  }
});

test("a text that goes on after a tool call begins a new row", () => {
  const transcript = say(text("before"), call("c1"), text("after"));
  expect(shape(transcript.rows)).toEqual([["prose", "before"], ["tool"], ["prose", "after"]]);
});

test("a row that changes is a new object, the others stay the same ones", () => {
  const transcript = say(text("one\n\n"), text("two"));
  const [first, second] = transcript.rows;
  transcript.push([next(text(" and more"))]);
  expect(transcript.rows[0]).toBe(first);
  expect(transcript.rows[1]).not.toBe(second);
});

test("a long code block is cut into rows, so that a list can leave most of it out", () => {
  const transcript = say(text(`\`\`\`\n${"line\n".repeat(200)}\`\`\`\n`));
  expect(transcript.rows.map((row) => row.kind === "text" && row.continued)).toEqual([false, true, true]);
});

test("output of a running tool grows in its row, and its result has the last word", () => {
  const transcript = say(call("c1"), { type: "stdout", data: "half", detail: { call_id: "c1" } });
  expect(transcript.rows[0]).toMatchObject({ kind: "tool", state: "running", title: "make", output: "half" });
  transcript.push([
    next({
      type: "tool_result",
      data: "half and half",
      detail: { call_id: "c1", tool: "bash", ok: true, exit_code: 0 },
    }),
  ]);
  expect(transcript.rows).toHaveLength(1);
  expect(transcript.rows[0]).toMatchObject({ state: "ok", output: "half and half", severity: "info" });
});

test("a tool that ended with another exit code than 0 failed, and counts as an error", () => {
  const transcript = say(call("c1"), {
    type: "tool_result",
    data: "",
    detail: { call_id: "c1", tool: "bash", ok: false, exit_code: 2 },
  });
  expect(transcript.rows[0]).toMatchObject({ state: "failed", exitCode: 2, severity: "error" });
});

test("two tools at once keep their outputs apart", () => {
  const transcript = say(
    call("c1"),
    call("c2"),
    { type: "stdout", data: "one", detail: { call_id: "c1" } },
    { type: "stdout", data: "two", detail: { call_id: "c2" } },
  );
  expect(transcript.rows.map((row) => row.kind === "tool" && row.output)).toEqual(["one", "two"]);
});

test("a result without its call, as after a gap, is shown all the same", () => {
  const transcript = say({ type: "tool_result", data: "out", detail: { call_id: "c9", tool: "grep", ok: true } });
  expect(transcript.rows[0]).toMatchObject({ kind: "tool", tool: "grep", state: "ok", output: "out" });
});

test("a further attempt is set off, and what the lost one was doing is marked as failed", () => {
  const transcript = say(call("c1"), { ...text("again"), attempt: 2 });
  expect(transcript.rows.map((row) => row.kind)).toEqual(["tool", "attempt", "text"]);
  expect(transcript.rows[0]).toMatchObject({ state: "failed" });
});

test("usage, plan and files are summed up, not listed", () => {
  const transcript = say(
    { type: "usage", detail: { requests: 1, input_tokens: 5 } },
    { type: "todo", detail: { items: [{ content: "x", status: "pending" }] } },
    { type: "file_change", data: "added a.py", detail: { path: "a.py", change: "added", additions: 3 } },
    { type: "status", data: "storing", detail: { phase: "artifacts" } },
  );
  const summary = transcript.summary();
  expect(summary).toMatchObject({
    usage: { input_tokens: 5 },
    todo: [{ content: "x" }],
    phase: "artifacts",
    chunks: 4,
  });
  expect([...summary.files.keys()]).toEqual(["a.py"]);
});

test("as text it reads like a log, without colours", () => {
  const transcript = say(text("Hello."), call("c1"), {
    type: "tool_result",
    data: "\x1b[31mbad\x1b[0m\n",
    detail: { call_id: "c1", tool: "bash", ok: false, exit_code: 1 },
  });
  expect(asText(transcript.rows)).toBe("Hello.\n\n> bash make [failed with 1]\nbad\n");
});
