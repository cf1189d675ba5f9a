/** ANSI escape sequences: colours (SGR) into styled pieces, everything else away. */

export interface Piece {
  readonly text: string;
  /** `--ansi-0` to `--ansi-15`, or a CSS colour; null for the default. */
  readonly colour: string | null;
  readonly background: string | null;
  readonly bold: boolean;
  readonly dim: boolean;
  readonly italic: boolean;
  readonly underline: boolean;
}

// CSI sequences, OSC and its relatives up to BEL or ST or the end of the line, and the short escapes, whole or cut off.
const ESCAPE = /\x1b(?:\[([0-?]*)[ -/]*([@-~]?)|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)/g;
/** Changes of colour that are shown in one text; the rest of it is in the colour of the last one. */
export const PIECES_MOST = 4_000;
/** Parameters of one change of colour that are read. */
const CODES_MOST = 32;

type Style = Omit<Piece, "text">;
const PLAIN: Style = {
  colour: null,
  background: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
};

/** The text without escape sequences and with carriage returns applied: `50%\r100%` shows `100%`. */
export function plain(text: string): string {
  if (!text.includes("\x1b") && !text.includes("\r")) return text;
  return overwrite(text.replace(ESCAPE, ""));
}

/** Splits text at its colour changes. */
export function pieces(text: string): Piece[] {
  if (!text.includes("\x1b")) return [{ ...PLAIN, text: overwrite(text) }];
  const found: Piece[] = [];
  let style = PLAIN;
  let at = 0;
  for (const match of text.matchAll(ESCAPE)) {
    if (match.index > at) found.push({ ...style, text: overwrite(text.slice(at, match.index)) });
    if (match[2] === "m") style = restyle(style, match[1] ?? "");
    at = match.index + match[0].length;
    if (found.length >= PIECES_MOST) return [...found, { ...style, text: plain(text.slice(at)) }];
  }
  if (at < text.length) found.push({ ...style, text: overwrite(text.slice(at)) });
  return found;
}

function overwrite(text: string): string {
  if (!text.includes("\r")) return text;
  return text
    .replaceAll("\r\n", "\n")
    .split("\n")
    .map((line) => line.slice(line.replace(/\r+$/, "").lastIndexOf("\r") + 1).replaceAll("\r", ""))
    .join("\n");
}

const FLAGS: Readonly<Record<number, Partial<Style>>> = {
  0: PLAIN,
  1: { bold: true },
  2: { dim: true },
  3: { italic: true },
  4: { underline: true },
  22: { bold: false, dim: false },
  23: { italic: false },
  24: { underline: false },
  39: { colour: null },
  49: { background: null },
};

function restyle(style: Style, parameters: string): Style {
  const codes =
    parameters === ""
      ? [0]
      : parameters
          .slice(0, 8 * CODES_MOST)
          .split(/[;:]/, CODES_MOST)
          .map(Number);
  let next = style;
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at] ?? 0;
    const flags = FLAGS[code];
    if (flags) next = { ...next, ...flags };
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes, at + 1);
      next = code === 38 ? { ...next, colour } : { ...next, background: colour };
      at += used;
    } else if (code >= 30 && code <= 37) next = { ...next, colour: indexed(code - 30) };
    else if (code >= 90 && code <= 97) next = { ...next, colour: indexed(code - 90 + 8) };
    else if (code >= 40 && code <= 47) next = { ...next, background: indexed(code - 40) };
    else if (code >= 100 && code <= 107) next = { ...next, background: indexed(code - 100 + 8) };
  }
  return next;
}

/** `38;5;N` and `38;2;R;G;B`: the colour, and how many codes it took. */
function extended(codes: number[], at: number): [string | null, number] {
  if (codes[at] === 5) return [indexed(codes[at + 1] ?? 0), 2];
  if (codes[at] === 2) return [`rgb(${codes[at + 1] ?? 0} ${codes[at + 2] ?? 0} ${codes[at + 3] ?? 0})`, 4];
  return [null, 0];
}

function indexed(index: number): string {
  if (index < 16) return `var(--ansi-${index})`;
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const step = (value: number): number => (value === 0 ? 0 : 55 + value * 40);
  const cube = index - 16;
  return `rgb(${step(Math.floor(cube / 36))} ${step(Math.floor(cube / 6) % 6)} ${step(cube % 6)})`;
}
