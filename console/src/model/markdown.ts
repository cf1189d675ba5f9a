/** The part of Markdown that agents write, as data. No HTML anywhere: what is not known stays text. */

export type Inline =
  | { readonly kind: "text" | "code" | "strong" | "emphasis" | "strike"; readonly text: string }
  | { readonly kind: "link"; readonly text: string; readonly href: string };

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

const ITEM = /^(\s*)(?:[-*+]|(\d+)[.)])\s+(?:\[([ xX])\]\s+)?(.*)$/;
const INLINE =
  /(`+)(.+?)\1|\*\*(.+?)\*\*|__(.+?)__|~~(.+?)~~|(?<![\w*])\*([^*\s][^*]*?)\*(?!\w)|(?<!\w)_([^_\s][^_]*?)_(?!\w)|\[([^\]]+)\]\(([^)\s]+)\)/;

/** Reads one stretch of prose: no blank lines in it, no fences. */
export function blocks(source: string): Block[] {
  const found: Block[] = [];
  for (const line of source.replace(/\n+$/, "").split("\n")) {
    const last = found.at(-1);
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    const item = ITEM.exec(line);
    if (heading) found.push({ kind: "heading", level: heading[1]?.length ?? 1, text: heading[2] ?? "" });
    else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) found.push({ kind: "rule" });
    else if (item) append(found, toItem(item));
    else if (/^\s*>/.test(line)) {
      const text = line.replace(/^\s*>\s?/, "");
      if (last?.kind === "quote") found[found.length - 1] = { ...last, text: `${last.text}\n${text}` };
      else found.push({ kind: "quote", text });
    } else if (/^\s*\|.*\|\s*$/.test(line)) tableLine(found, line);
    else if (last?.kind === "list" && /^\s+\S/.test(line)) {
      const tail = last.items.at(-1);
      if (tail)
        found[found.length - 1] = {
          kind: "list",
          items: [...last.items.slice(0, -1), { ...tail, text: `${tail.text} ${line.trim()}` }],
        };
    } else if (last?.kind === "paragraph") found[found.length - 1] = { ...last, text: `${last.text}\n${line}` };
    else found.push({ kind: "paragraph", text: line });
  }
  return found;
}

function toItem(match: RegExpExecArray): ListItem {
  const box = match[3];
  return {
    depth: Math.min(4, Math.floor((match[1] ?? "").replaceAll("\t", "    ").length / 2)),
    marker: match[2] ? `${match[2]}.` : "",
    done: box === undefined ? null : box !== " ",
    text: match[4] ?? "",
  };
}

function append(found: Block[], item: ListItem): void {
  const last = found.at(-1);
  if (last?.kind === "list") found[found.length - 1] = { kind: "list", items: [...last.items, item] };
  else found.push({ kind: "list", items: [item] });
}

function tableLine(found: Block[], line: string): void {
  const last = found.at(-1);
  if (/^[\s|:-]+$/.test(line) && last?.kind === "table") return;
  const cells = line
    .trim()
    .slice(1, -1)
    .split("|")
    .map((cell) => cell.trim());
  if (last?.kind === "table") found[found.length - 1] = { kind: "table", rows: [...last.rows, cells] };
  else found.push({ kind: "table", rows: [cells] });
}

/** Splits a line of prose at its emphasis, code and links. Only http(s) links are links. */
export function inlines(text: string): Inline[] {
  const found: Inline[] = [];
  let rest = text;
  for (let match = INLINE.exec(rest); match; match = INLINE.exec(rest)) {
    if (match.index > 0) found.push({ kind: "text", text: rest.slice(0, match.index) });
    found.push(toInline(match));
    rest = rest.slice(match.index + match[0].length);
  }
  if (rest) found.push({ kind: "text", text: rest });
  return found;
}

function toInline(match: RegExpExecArray): Inline {
  const [whole, , code, strong, strong2, strike, emphasis, emphasis2, label, href] = match;
  if (code !== undefined) return { kind: "code", text: code };
  if (strong !== undefined || strong2 !== undefined) return { kind: "strong", text: strong ?? strong2 ?? "" };
  if (strike !== undefined) return { kind: "strike", text: strike };
  if (emphasis !== undefined || emphasis2 !== undefined) return { kind: "emphasis", text: emphasis ?? emphasis2 ?? "" };
  if (label !== undefined && href && /^https?:\/\//i.test(href)) return { kind: "link", text: label, href };
  return { kind: "text", text: whole };
}
