/** The part of Markdown that agents write, as data. No HTML anywhere: what is not known stays text. */

export { type Inline, inlines } from "./inline";

export type Block =
  | { readonly kind: "paragraph"; readonly text: string }
  | { readonly kind: "heading"; readonly level: number; readonly text: string }
  | { readonly kind: "list"; readonly items: readonly ListItem[] }
  | { readonly kind: "quote"; readonly text: string }
  | { readonly kind: "table"; readonly rows: readonly (readonly string[])[] }
  | { readonly kind: "rule" };

export interface ListItem {
  readonly depth: number;
  /** `3.` for an ordered item, empty for a bullet. */
  readonly marker: string;
  readonly done: boolean | null;
  readonly text: string;
}

/** Characters of one stretch of prose that are read; the view says how many there are beyond. */
export const PROSE_MOST = 32_000;

// No `\s+` next to what may begin with a space: each line is read in one go, however many spaces it has.
const ITEM = /^([ \t]{0,64})(?:[-*+]|(\d{1,9})[.)])[ \t](.*)$/;
const BOX = /^\s{0,8}\[([ xX])\][ \t](.*)$/;
const HEADING = /^(#{1,6})[ \t](.*)$/;

type Growing =
  | { kind: "paragraph" | "quote"; lines: string[] }
  | { kind: "heading"; level: number; text: string }
  | { kind: "list"; items: (Omit<ListItem, "text"> & { lines: string[] })[] }
  | { kind: "table"; rows: string[][] }
  | { kind: "rule" };

/** Reads one stretch of prose: no blank lines in it, no fences. Its time is proportional to its length. */
export function blocks(source: string): Block[] {
  const found: Growing[] = [];
  for (const line of source.slice(0, PROSE_MOST).split("\n")) {
    if (line !== "" || found.length > 0) take(found, line);
  }
  return found.map(settled);
}

function take(found: Growing[], line: string): void {
  const last = found.at(-1);
  const heading = HEADING.exec(line);
  const trimmed = line.trim();
  const item = isRule(trimmed) ? null : ITEM.exec(line);
  if (heading) found.push({ kind: "heading", level: heading[1]?.length ?? 1, text: (heading[2] ?? "").trim() });
  else if (isRule(trimmed)) found.push({ kind: "rule" });
  else if (item) {
    if (last?.kind === "list") last.items.push(toItem(item));
    else found.push({ kind: "list", items: [toItem(item)] });
  } else if (trimmed.startsWith(">")) {
    const text = trimmed.slice(1).replace(/^\s/, "");
    if (last?.kind === "quote") last.lines.push(text);
    else found.push({ kind: "quote", lines: [text] });
  } else if (trimmed.length > 1 && trimmed.startsWith("|") && trimmed.endsWith("|")) tableLine(found, trimmed);
  else if (last?.kind === "list" && trimmed !== "" && /^\s/.test(line)) last.items.at(-1)?.lines.push(trimmed);
  else if (last?.kind === "paragraph") last.lines.push(line);
  else found.push({ kind: "paragraph", lines: [line] });
}

/** Three or more of one of `-`, `*`, `_`, with nothing but spaces between. */
function isRule(trimmed: string): boolean {
  const mark = trimmed[0];
  if (mark === undefined || !"-*_".includes(mark)) return false;
  let marks = 0;
  for (const char of trimmed) {
    if (char === mark) marks += 1;
    else if (char !== " " && char !== "\t") return false;
  }
  return marks >= 3;
}

function settled(block: Growing): Block {
  switch (block.kind) {
    case "paragraph":
    case "quote":
      return { kind: block.kind, text: block.lines.join("\n").replace(/\n$/, "") };
    case "list":
      return { kind: "list", items: block.items.map(({ lines, ...item }) => ({ ...item, text: lines.join(" ") })) };
    default:
      return block;
  }
}

function toItem(match: RegExpExecArray): Omit<ListItem, "text"> & { lines: string[] } {
  const rest = (match[3] ?? "").trimStart();
  const box = BOX.exec(rest);
  return {
    depth: Math.min(4, Math.floor((match[1] ?? "").replaceAll("\t", "    ").length / 2)),
    marker: match[2] ? `${match[2]}.` : "",
    done: box ? box[1] !== " " : null,
    lines: [box ? (box[2] ?? "").trimStart() : rest],
  };
}

function tableLine(found: Growing[], trimmed: string): void {
  const last = found.at(-1);
  if (last?.kind === "table" && /^[\s|:-]+$/.test(trimmed)) return;
  const cells = trimmed
    .slice(1, -1)
    .split("|")
    .map((cell) => cell.trim());
  if (last?.kind === "table") last.rows.push(cells);
  else found.push({ kind: "table", rows: [cells] });
}
