import { expect, test } from "vitest";
import { PIECES_MOST, pieces, plain } from "../../src/model/ansi";
import { brief, visible } from "../../src/model/escape-controls";
import { type Inline, inlines, work } from "../../src/model/inline";
import { blocks, PROSE_MOST } from "../../src/model/markdown";
import { LINE_MOST, PATCH_MOST, shownPatch } from "../../src/model/patch-limits";
import { Guard } from "../../src/model/terminal-guard";
import { PLAN_MOST, TerminalWriter } from "../../src/model/terminal-writer";
import { Transcript } from "../../src/model/transcript";
import { chunk } from "../stream/helpers";

/** The result as HTML would be, for reading. */
function html(parts: readonly Inline[]): string {
  const tags = { strong: "b", emphasis: "i", strike: "s" };
  return parts
    .map((part) => {
      if ("text" in part) return part.kind === "code" ? `<code>${part.text}</code>` : part.text;
      if (part.kind === "link") return `<a ${part.href}>${html(part.parts)}</a>`;
      return `<${tags[part.kind]}>${html(part.parts)}</${tags[part.kind]}>`;
    })
    .join("");
}

function depth(parts: readonly Inline[]): number {
  return Math.max(0, ...parts.slice(0, 1_000).map((part) => ("parts" in part ? 1 + depth(part.parts) : 0)));
}

test.each([
  ["**`file.py`** and *`x`*", "<b><code>file.py</code></b> and <i><code>x</code></i>"],
  ["***both*** of **a *b* c**", "<i><b>both</b></i> of <b>a <i>b</i> c</b>"],
  ["a\\*b\\*c \\[x\\](https://y.z)", "a*b*c [x](<a https://y.z>https://y.z</a>)"],
  ["`a\\*b` ``a`b`` `` ` ``", "<code>a\\*b</code> <code>a`b</code> <code>`</code>"],
  ["see https://x.y/a_b_c?d=1, ok.", "see <a https://x.y/a_b_c?d=1>https://x.y/a_b_c?d=1</a>, ok."],
  ["(https://x.y/z_(w)) <https://x.y>", "(<a https://x.y/z_(w)>https://x.y/z_(w)</a>) <a https://x.y>https://x.y</a>"],
  ["**https://x.y**", "<b><a https://x.y>https://x.y</a></b>"],
  ["[**bold** https://x.y](https://x.y)", "<a https://x.y><b>bold</b> https://x.y</a>"],
  ["[[1]](https://x.y) arr[0] [ ]", "<a https://x.y>[1]</a> arr[0] [ ]"],
  ["~~gone~~ ~one~ __both__", "<s>gone</s> ~one~ <b>both</b>"],
  ["2 * 3 * 4 and 2*3*4 and a_b_c", "2 * 3 * 4 and 2*3*4 and a_b_c"],
  ["**never closed and `neither", "**never closed and `neither"],
  ["javascript:alert(1) [x](javascript:alert(1))", "javascript:alert(1) [x](javascript:alert(1))"],
])("%s", (source, expected) => {
  expect(html(inlines(source))).toBe(expected);
});

const SIZE = 40_000;
const HOSTILE = [
  ...[
    "[",
    "]",
    "](",
    "[a](",
    "[](https://",
    "*",
    "**",
    "_a",
    "**a ",
    "*a* ",
    "`",
    "` ",
    "`` ` ",
    "~~a",
    "\\",
    "<",
    "h",
  ],
  ...["https://", "<https://a", "![", "((", "a_", "***a", "*a **b ", "[*a", "https://a)", "`a``b```c"],
];

test.each(HOSTILE)("inline Markdown takes steps in proportion to its length: %s", (piece) => {
  for (const text of [piece.repeat(SIZE / piece.length), `${"[".repeat(2_000)}${piece.repeat(2_000)}`]) {
    const found = inlines(text);
    expect(work.steps).toBeLessThan(20 * text.length);
    expect(depth(found)).toBeLessThan(40);
  }
});

test("blocks of hostile prose are read up to a limit", () => {
  for (const piece of ["[", "> ", "- ", "- [ ] a\n", "|a", "| ", " ", "#", "1. ", "* * ", "\t", "\n\n"]) {
    const found = blocks(piece.repeat(200_000));
    expect(JSON.stringify(found).length).toBeLessThan(12 * PROSE_MOST);
  }
});

/** How much work the sequences in it ask a terminal for: their numbers added up. */
function asked(text: string): number {
  const numbers = [...text.matchAll(/\x1b\[([\d;]*)[A-Za-z@`]/g)].map((one) =>
    Number((one[1] ?? "").split(";")[0] || 1),
  );
  return numbers.reduce((sum, one) => sum + one, 0);
}

test.each([..."LMSTbP@XABCDEFGHfdKJ"])("a number in a sequence is bounded: ESC[2147483647%s", (final) => {
  const passed = new Guard().pass(`a\x1b[2147483647${final}b`);
  expect(asked(passed)).toBeLessThanOrEqual(2_000);
  expect(passed.startsWith("a") && passed.endsWith("b")).toBe(true);
});

test.each([..."LMSTbP@J"])("many of them are bounded by the length of the text: %s", (final) => {
  const text = `\x1b[499${final}`.repeat(20_000);
  expect(asked(new Guard().pass(text))).toBeLessThan(text.length + 20_000);
});

test.each([
  ["title", "\x1b]0;title\x07"],
  ["title of a megabyte", `\x1b]0;${"x".repeat(1_000_000)}\x1b\\`],
  ["clipboard", "\x1b]52;c;ZXZpbA==\x07"],
  ["image", `\x1bPq${"#0~".repeat(300_000)}\x1b\\`],
  ["C1 forms", "\x9b1;2r\x9d0;title\x9c\x90q\x9c"],
  ["scroll region", "\x1b[1;2r"],
  ["alternate screen, mouse, bracketed paste", "\x1b[?1049h\x1b[?1000h\x1b[?2004h"],
  ["full reset, alignment test, character set", "\x1bc\x1b#8\x1b(0\x0e"],
  ["window, device, cursor reports", "\x1b[8;1000;1000t\x1b[c\x1b[6n\x1b[>c"],
  ["scrollback", "\x1b[3J"],
  ["a sequence of a megabyte", `\x1b[${"1;".repeat(500_000)}m`],
  ["bells", "\x07\x07\x00\x7f"],
])("what is not the agent's to tell a terminal is left out: %s", (_, text) => {
  for (const size of [1, 3, text.length]) {
    if (size < text.length && text.length > 10_000) continue;
    const guard = new Guard();
    let out = "";
    for (let at = 0; at < text.length; at += size) out += guard.pass(text.slice(at, at + size));
    expect(out + guard.pass("after")).toBe("after");
  }
});

test("colours, progress bars and what was cut in two stay as they are", () => {
  const text = "\x1b[1;38;5;196mred\x1b[0m\r\x1b[2K50%\x1b[1A\x1b[3G✓ 🚀\t\b\x1b7\x1b8\n";
  for (const size of [1, 2, 5, text.length]) {
    const guard = new Guard();
    let out = "";
    for (let at = 0; at < text.length; at += size) out += guard.pass(text.slice(at, at + size));
    expect(out).toBe(text);
  }
});

test("a sequence that never ends hides the rest of its line and nothing of anybody else's", () => {
  const writer = new TerminalWriter();
  const said = [
    chunk(1, { type: "stdout", data: "a\x1b]0;never", detail: { call_id: "x" } }),
    chunk(2, { type: "stdout", data: " ended\nnext line\x1b[", detail: { call_id: "x" } }),
    chunk(3, { type: "status", data: "own\x1b[2147483647L line" }),
    chunk(4, { type: "text", data: "text" }),
  ].map((one) => writer.render(one));
  expect(said.join("")).toContain("next line");
  expect(said.join("")).toContain("own\\u{1b}[2147483647L line");
  expect(said.join("").endsWith("text")).toBe(true);
  expect(said.join("")).not.toContain("never");
});

test("a plan of 100,000 items is shown in part, and says so", () => {
  const items = Array.from({ length: 100_000 }, (_, at) => ({ content: `${at}`, status: "pending" }));
  const text = new TerminalWriter().render(chunk(1, { type: "todo", detail: { items } }));
  expect(text.split("\n")).toHaveLength(PLAN_MOST + 2);
  expect(text).toContain("99,900 more");
});

test("colour changes without end become one piece at last", () => {
  const text = "\x1b[31ma\x1b[32mb".repeat(20_000);
  const found = pieces(text);
  expect(found).toHaveLength(PIECES_MOST + 1);
  expect(found.map((piece) => piece.text).join("")).toBe("ab".repeat(20_000));
  expect(pieces(`\x1b[${"38;5;1;".repeat(100_000)}mx`)).toHaveLength(1);
  expect(plain("\x1b[?25la\x1b]0;never\nb\x1b[2147483647Lc\x1b")).toBe("a\nbc");
});

test("names show what they hide, and have an end", () => {
  expect(visible("a\u202egpj.exe")).toBe("a\\u{202e}gpj.exe");
  expect(visible("a\x1b]0;x\x07\u200b\u2066b\nc")).toBe("a\\u{1b}]0;x\\u{7}\\u{200b}\\u{2066}b c");
  expect(visible("Grüße 🚀 日本語")).toBe("Grüße 🚀 日本語");
  expect(visible("x".repeat(1_000_000)).length).toBeLessThan(500);
});

test("a value is shown in bounded length and depth", () => {
  let deep: unknown = "end";
  for (let level = 0; level < 50_000; level += 1) deep = level % 2 ? [deep] : { a: deep };
  expect(brief(deep).length).toBeLessThan(100);
  expect(brief({ a: [1, "b", null, true], c: {} })).toBe('{"a":[1,"b",null,true],"c":{}}');
  expect(brief(Array.from({ length: 1_000_000 }, () => "xxxx")).length).toBeLessThan(4_100);
  expect(brief({ ["n".repeat(1_000_000)]: "v".repeat(1_000_000) }).length).toBeLessThan(4_100);
});

test("a patch is shown with its lines cut, and as whole files up to a limit", () => {
  const file = (name: string, line: string): string =>
    `diff --git a/${name} b/${name}\n--- a/${name}\n+++ b/${name}\n@@ -0,0 +1 @@\n+${line}\n`;
  const small = file("a", "x");
  expect(shownPatch(small)).toEqual({ patch: small, longLines: 0, filesLeftOut: 0 });
  const wide = shownPatch(small + file("min.js", "y".repeat(5_000_000)));
  expect(wide.patch.length).toBeLessThan(LINE_MOST + 1_000);
  expect(wide).toMatchObject({ longLines: 1, filesLeftOut: 0 });
  expect(wide.patch).toContain("4,998,001 more characters");
  const many = shownPatch(Array.from({ length: 3_000 }, (_, at) => file(`f${at}`, "z".repeat(1_900))).join(""));
  expect(many.patch.length).toBeLessThanOrEqual(PATCH_MOST);
  expect(many.patch.endsWith("\n")).toBe(true);
  expect(many.patch.split("diff --git ").length - 1 + many.filesLeftOut).toBe(3_000);
});

test("a text of one line without end goes on in further rows, whole", () => {
  for (const start of ["", "```\n"]) {
    const transcript = new Transcript();
    const data = "x".repeat(9_000);
    for (let seq = 1; seq <= 50; seq += 1)
      transcript.push([chunk(seq, { data: (seq === 1 ? start : "") + data, detail: { part_id: "a" } })]);
    const sources = transcript.rows.map((row) => (row.kind === "text" ? row.source : ""));
    expect(Math.max(...sources.map((one) => one.length))).toBeLessThanOrEqual(20_000);
    expect(sources.join("")).toBe(data.repeat(50));
  }
  const output = new Transcript();
  for (let seq = 1; seq <= 50; seq += 1) output.push([chunk(seq, { type: "stdout", data: "y".repeat(9_000) })]);
  expect(Math.max(...output.rows.map((row) => (row.kind === "output" ? row.source.length : 0)))).toBeLessThan(30_000);
});
