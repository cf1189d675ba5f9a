/** Emphasis, code and links within a line of prose, in one pass: time and depth are bounded whatever the text is. */

export type Inline =
  | { readonly kind: "text" | "code"; readonly text: string }
  | { readonly kind: "strong" | "emphasis" | "strike"; readonly parts: readonly Inline[] }
  | { readonly kind: "link"; readonly href: string; readonly parts: readonly Inline[] };

/** Marks that may be open at once, and so how deep the result nests; the oldest one is taken for text beyond. */
const MOST_OPEN = 12;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const BARE_URL = /https?:\/\/[^\s<>[\]"`]+/iy;
const ANGLE_URL = /<(https?:\/\/[^\s<>]+)>/iy;
const URL_END = /[.,;:!?'"*_~]/;
const SPACE = /\s/;
const WORD = /[\p{L}\p{N}_]/u;

/** A mark that has been opened: `length` characters of it still wait for their other half. */
interface Open {
  readonly char: string;
  length: number;
  parts: Inline[];
}

/** Splits a line of prose at its emphasis, code and links. Only http(s) links are links. */
export function inlines(text: string): Inline[] {
  return new Reader(text).read();
}

/** How many steps the last text took; the tests hold it against the text's length. */
export const work = { steps: 0 };

class Reader {
  readonly #text: string;
  readonly #root: Inline[] = [];
  readonly #open: Open[] = [];
  #at = 0;
  #plain = 0;
  /** Starts of the runs of backticks by their length, last first. */
  readonly #ticks = new Map<number, number[]>();
  /** The first `)` or space from where it was last looked for. */
  #stop = -1;

  constructor(text: string) {
    this.#text = text;
    work.steps = 0;
    for (const run of text.matchAll(/`+/g)) {
      const starts = this.#ticks.get(run[0].length);
      if (starts) starts.push(run.index);
      else this.#ticks.set(run[0].length, [run.index]);
    }
    for (const starts of this.#ticks.values()) starts.reverse();
  }

  read(): Inline[] {
    while (this.#at < this.#text.length) {
      work.steps += 1;
      const used = this.#mark(this.#text[this.#at] ?? "");
      if (used === 0) this.#at += 1;
      else {
        this.#at += used;
        this.#plain = this.#at;
      }
    }
    this.#flush();
    while (this.#open.length > 0) this.#abandon();
    return this.#root;
  }

  /** Reads a mark; returns how many characters it took, 0 when there is none here. */
  #mark(char: string): number {
    switch (char) {
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "*":
      case "_":
      case "~":
        return this.#emphasis(char);
      case "[":
        this.#flush();
        this.#push({ char: "[", length: 1, parts: [] });
        return 1;
      case "]":
        return this.#link();
      case "<":
      case "h":
      case "H":
        return this.#url(char);
      default:
        return 0;
    }
  }

  #escape(): number {
    const next = this.#text[this.#at + 1];
    if (next === undefined || !PUNCTUATION.test(next)) return 0;
    this.#flush();
    this.#say(next);
    return 2;
  }

  #code(): number {
    const length = this.#run("`");
    const starts = this.#ticks.get(length) ?? [];
    while ((starts.at(-1) ?? Number.POSITIVE_INFINITY) <= this.#at) {
      work.steps += 1;
      starts.pop();
    }
    const end = starts.at(-1);
    this.#flush();
    if (end === undefined) {
      this.#say("`".repeat(length));
      return length;
    }
    const inner = this.#text.slice(this.#at + length, end);
    // As in `` ` ``: one space on each side is there for the backtick.
    const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
    const bare = padded ? inner.slice(1, -1) : inner;
    this.#parts().push({ kind: "code", text: bare });
    return end + length - this.#at;
  }

  #emphasis(char: string): number {
    const length = this.#run(char);
    const before = this.#text[this.#at - 1] ?? " ";
    const after = this.#text[this.#at + length] ?? " ";
    // Within a word a single star is multiplication and an underscore part of a name.
    const inWord = char === "_" || length === 1;
    const opens = !SPACE.test(after) && !(inWord && WORD.test(before));
    const closes = !SPACE.test(before) && !(inWord && WORD.test(after));
    this.#flush();
    if (length > 3 || (char === "~" && length !== 2)) {
      this.#say(char.repeat(length));
      return length;
    }
    const left = closes ? this.#close(char, length) : length;
    if (left > 0 && opens) this.#push({ char, length: left, parts: [] });
    else this.#say(char.repeat(left));
    return length;
  }

  /** Ends as many open marks as `length` characters can; returns how many of them are left. */
  #close(char: string, length: number): number {
    let left = length;
    while (left > 0 && this.#open.some((one) => one.char === char)) {
      work.steps += 1;
      while (this.#open.at(-1)?.char !== char) this.#abandon();
      const opened = this.#open.at(-1);
      if (!opened) break;
      const used = Math.min(2, left, opened.length);
      const kind = char === "~" ? "strike" : used === 2 ? "strong" : "emphasis";
      const part: Inline = { kind, parts: opened.parts };
      opened.parts = [part];
      opened.length -= used;
      left -= used;
      if (opened.length === 0) {
        this.#open.pop();
        this.#parts().push(part);
      }
    }
    return left;
  }

  /** `](href)` ends a link; any other `]` is text, and so is what it would have ended. */
  #link(): number {
    this.#flush();
    if (!this.#open.some((one) => one.char === "[")) {
      this.#say("]");
      return 1;
    }
    while (this.#open.at(-1)?.char !== "[") this.#abandon();
    const href = this.#text[this.#at + 1] === "(" ? this.#destination(this.#at + 2) : "";
    if (!/^https?:\/\//i.test(href)) {
      this.#abandon();
      this.#say("]");
      return 1;
    }
    const label = this.#open.pop()?.parts ?? [];
    // A link holds no link: the address as a label is the label.
    const parts = label.flatMap((part) => (part.kind === "link" ? part.parts : [part]));
    this.#parts().push({ kind: "link", href, parts });
    return href.length + 3;
  }

  /** What stands between here and the next `)`, if no space comes first. */
  #destination(from: number): string {
    if (this.#stop < from) {
      this.#stop = from;
      while (this.#stop < this.#text.length && !/[)\s]/.test(this.#text[this.#stop] ?? "")) {
        work.steps += 1;
        this.#stop += 1;
      }
    }
    return this.#text[this.#stop] === ")" ? this.#text.slice(from, this.#stop) : "";
  }

  #url(char: string): number {
    const pattern = char === "<" ? ANGLE_URL : BARE_URL;
    if (char !== "<" && WORD.test(this.#text[this.#at - 1] ?? " ")) return 0;
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (!found) return 0;
    work.steps += found[0].length;
    const href = found[1] ?? trimmed(found[0]);
    this.#flush();
    this.#parts().push({ kind: "link", href, parts: [{ kind: "text", text: href }] });
    return found[1] === undefined ? href.length : found[0].length;
  }

  #run(char: string): number {
    let end = this.#at;
    while (this.#text[end] === char) end += 1;
    work.steps += end - this.#at;
    return end - this.#at;
  }

  #parts(): Inline[] {
    return this.#open.at(-1)?.parts ?? this.#root;
  }

  #flush(): void {
    if (this.#plain < this.#at) this.#say(this.#text.slice(this.#plain, this.#at));
    this.#plain = this.#at;
  }

  #say(text: string): void {
    say(this.#parts(), text);
  }

  #push(mark: Open): void {
    if (this.#open.length >= MOST_OPEN) {
      const oldest = this.#open.shift();
      if (oldest) this.#spill(oldest, this.#root);
    }
    this.#open.push(mark);
  }

  /** The mark that was opened last is text after all. */
  #abandon(): void {
    const mark = this.#open.pop();
    if (mark) this.#spill(mark, this.#parts());
  }

  #spill(mark: Open, into: Inline[]): void {
    say(into, mark.char.repeat(mark.length));
    for (const part of mark.parts) {
      work.steps += 1;
      if (part.kind === "text") say(into, part.text);
      else into.push(part);
    }
  }
}

/** Appends text; pieces that follow each other become one. */
function say(parts: Inline[], text: string): void {
  if (text === "") return;
  const last = parts.at(-1);
  if (last?.kind === "text") parts[parts.length - 1] = { kind: "text", text: last.text + text };
  else parts.push({ kind: "text", text });
}

/** An address without the sentence's own marks behind it. */
function trimmed(url: string): string {
  let end = url.length;
  let open = 0;
  for (const char of url) open += char === "(" ? 1 : char === ")" ? -1 : 0;
  for (; end > 0; end -= 1) {
    const char = url[end - 1] ?? "";
    if (char === ")" && open < 0) open += 1;
    else if (!URL_END.test(char)) break;
  }
  return url.slice(0, end);
}
