import { expect, test } from "vitest";
import { pieces, plain } from "../../src/model/ansi";
import { ago, clockTime, cost, day, duration } from "../../src/model/format";
import { blocks, inlines } from "../../src/model/markdown";
import { saidAt, timeline } from "../../src/model/replay-timeline";
import { BLANK, bodyOf, fieldOf } from "../../src/model/submission";
import { TerminalWriter } from "../../src/model/terminal-writer";
import { chunk } from "../stream/helpers";

test("colours become pieces, whatever else escapes say is left out", () => {
  const found = pieces("a\x1b[1;31mb\x1b[0m\x1b[2Kc\x1b]0;title\x07d");
  expect(found.map((piece) => [piece.text, piece.colour, piece.bold])).toEqual([
    ["a", null, false],
    ["b", "var(--ansi-1)", true],
    ["c", null, false],
    ["d", null, false],
  ]);
  expect(pieces("\x1b[38;5;196mx")[0]?.colour).toBe("rgb(255 0 0)");
  expect(pieces("\x1b[48;2;1;2;3mx")[0]?.background).toBe("rgb(1 2 3)");
});

test("a carriage return writes over its line, as a terminal does", () => {
  expect(plain("10%\r50%\r100%\ndone\r\n")).toBe("100%\ndone\n");
});

test("Markdown is read as data; what is not known stays text, and only web links are links", () => {
  expect(blocks("# T\ntext\n- a\n  - [x] b\n> q").map((block) => block.kind)).toEqual([
    "heading",
    "paragraph",
    "list",
    "quote",
  ]);
  expect(inlines("a `b` **c** [d](https://x.y) [e](javascript:alert(1)) <b>")).toEqual([
    { kind: "text", text: "a " },
    { kind: "code", text: "b" },
    { kind: "text", text: " " },
    { kind: "strong", parts: [{ kind: "text", text: "c" }] },
    { kind: "text", text: " " },
    { kind: "link", parts: [{ kind: "text", text: "d" }], href: "https://x.y" },
    { kind: "text", text: " [e](javascript:alert(1)) <b>" },
  ]);
  expect(inlines("snake_case_name and 2*3*4")).toEqual([{ kind: "text", text: "snake_case_name and 2*3*4" }]);
});

test("numbers and times are short and say what they are", () => {
  expect([120, 4_200, 42_000, 185_000, 3_720_000].map(duration)).toEqual([
    "120 ms",
    "4.2 s",
    "42 s",
    "3 m 05 s",
    "1 h 02 m",
  ]);
  expect([0, 0.00001, 0.0042, 1.2].map(cost)).toEqual(["$0", "< $0.0001", "$0.0042", "$1.20"]);
  expect([7_000, 750_000, 3_723_000].map(clockTime)).toEqual(["0:07", "12:30", "1:02:03"]);
  const now = Date.parse("2026-01-02T12:00:00Z");
  expect(ago("2026-01-02T11:56:00Z", now)).toBe("4 min ago");
  expect(day("2026-01-02T11:56:00Z", now)).toBe("Today");
});

test("what the form leaves blank is left out of the request", () => {
  expect(bodyOf({ ...BLANK, prompt: "do it" })).toEqual({ prompt: "do it" });
});

test("what the form says is in the request, in its units", () => {
  const form = {
    ...BLANK,
    prompt: "p",
    source: "git" as const,
    url: " https://x/y.git ",
    labels: "team=web, urgent",
    timeoutMinutes: "1.5",
    bash: "ask" as const,
  };
  expect(bodyOf({ ...form, network: "pypi.org, *.example.com", provider: "openai", model: "m" })).toEqual({
    prompt: "p",
    workspace: { source: "git", url: "https://x/y.git" },
    labels: { team: "web", urgent: "" },
    limits: { timeout_seconds: 90, answer_seconds: 600 },
    permissions: { bash: "ask" },
    network: { allow: ["pypi.org", "*.example.com"] },
    model_config: { provider: "openai", model: "m" },
  });
});

test("an error of the gateway finds the field it is about", () => {
  expect(fieldOf("workspace.url")).toBe("url");
  expect(fieldOf("body.workspace.git.url")).toBe("url");
  expect(fieldOf("network.allow.0")).toBe("network");
  expect(fieldOf("labels.x y")).toBe("labels");
  expect(fieldOf("nothing.known")).toBeNull();
});

test("the terminal shows a tool's output once: as it ran, or from its result", () => {
  const writer = new TerminalWriter();
  const call = chunk(1, { type: "tool_call", data: "bash ls", detail: { call_id: "a", tool: "bash" } });
  const result = (id: string) =>
    chunk(3, { type: "tool_result", data: "out\n", detail: { call_id: id, tool: "bash", ok: true } });
  const printed = [
    call,
    chunk(2, { type: "stdout", data: "out\n", detail: { call_id: "a" } }),
    result("a"),
    result("b"),
  ].map((one) => writer.render(one));
  expect(printed.join("").match(/out/g)).toHaveLength(2);
});

test("a recorded timeline never runs backwards, and long pauses may be shortened", () => {
  const at = (seq: number, second: number, change = {}) =>
    chunk(seq, { timestamp: new Date(second * 1_000).toISOString(), ...change });
  const chunks = [at(1, 100), at(2, 101), at(3, 99), at(4, 161, { type: "file_change", data: "added x" })];
  expect(timeline(chunks, false).at).toEqual([0, 1_000, 1_000, 61_000]);
  const short = timeline(chunks, true);
  expect(short.at).toEqual([0, 1_000, 1_000, 2_500]);
  expect(short.marks).toEqual([{ at: 2_500, kind: "file", title: "added x" }]);
  expect([saidAt(short.at, -1), saidAt(short.at, 0), saidAt(short.at, 1_000), saidAt(short.at, 9_999)]).toEqual([
    0, 1, 3, 4,
  ]);
});
