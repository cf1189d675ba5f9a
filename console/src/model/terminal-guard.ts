/**
 * What an agent's output may tell the terminal: colours, the cursor and erasing, each within bounds. A terminal obeys
 * in time that follows from the numbers in a sequence (`ESC[2147483647L` inserts that many lines), not from its length.
 */

/** Sequences whose number is rows or columns: no screen has more. */
const NUMBER_MOST = 500;
/** A longer sequence is dropped; its end is still found. */
const SEQUENCE_MOST = 64;
/** Work that is free at first, in cells and lines; every character adds one. */
const CREDIT_FIRST = 2_000;
const CREDIT_MOST = 20_000;
/** What an erasing of the display counts for. */
const ERASE_DISPLAY = 100;

/** Cursor and erasing in a line: they cost one whatever the number is. */
const CHEAP = new Set("ABCDEFGHfd`aeKX");
/** They cost as much as their number says: repeat, insert, delete, scroll. */
const COUNTED = new Set("b@PLMST");
const STRING_STARTS = new Set("]PX^_");
const PRINTED = new Set("\t\n\r\b\v\f");

type State = "ground" | "escape" | "skip" | "csi" | "string" | "string-escape";

/** A filter for one stream of output, which may be cut anywhere. */
export class Guard {
  #state: State = "ground";
  #sequence = "";
  #credit = CREDIT_FIRST;

  /** The text as the terminal may be given it. */
  pass(text: string): string {
    this.#credit = Math.min(CREDIT_MOST, this.#credit + text.length);
    let out = "";
    let from = 0;
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (this.#state === "ground") {
        if (code >= 0x20 && code < 0x7f) continue;
        if (code > 0x9f || PRINTED.has(text[at] ?? "")) continue;
        out += text.slice(from, at);
        this.#control(code);
        from = at + 1;
      } else {
        const said = this.#next(text[at] ?? "", code);
        out += said;
        from = at + 1;
      }
    }
    return this.#state === "ground" ? out + text.slice(from) : out;
  }

  /** Whatever sequence was begun is over: what follows is somebody else's. */
  reset(): void {
    this.#state = "ground";
    this.#sequence = "";
  }

  #control(code: number): void {
    this.#sequence = "";
    if (code === 0x1b) this.#state = "escape";
    else if (code === 0x9b) this.#state = "csi";
    else if (code === 0x90 || code === 0x98 || (code >= 0x9d && code <= 0x9f)) this.#state = "string";
  }

  #next(char: string, code: number): string {
    // A line's end ends everything: an unfinished sequence hides no more than the rest of its line.
    if (char === "\n") {
      this.reset();
      return char;
    }
    if (code === 0x1b && this.#state !== "string") {
      this.#control(code);
      return "";
    }
    switch (this.#state) {
      case "escape":
        return this.#escape(char, code);
      case "csi":
        return this.#csi(char, code);
      case "skip":
        if (code >= 0x30) this.reset();
        return "";
      case "string":
        if (char === "\x07" || code === 0x9c) this.reset();
        else if (code === 0x1b) this.#state = "string-escape";
        return "";
      default:
        // ESC \ ends a string; so does any other escape, which then begins.
        if (char === "\\") this.reset();
        else {
          this.#state = "escape";
          return this.#escape(char, code);
        }
        return "";
    }
  }

  #escape(char: string, code: number): string {
    if (char === "[") this.#state = "csi";
    else if (STRING_STARTS.has(char)) this.#state = "string";
    else if (code >= 0x20 && code < 0x30) this.#state = "skip";
    else {
      this.reset();
      // Save and restore the cursor; reset, scroll regions and character sets are not the agent's.
      if (char === "7" || char === "8") return `\x1b${char}`;
    }
    return "";
  }

  #csi(char: string, code: number): string {
    if (code < 0x40 || code > 0x7e) {
      if (code >= 0x20 && this.#sequence.length <= SEQUENCE_MOST) this.#sequence += char;
      return "";
    }
    const parameters = this.#sequence;
    this.reset();
    return this.#allowed(parameters, char);
  }

  #allowed(parameters: string, final: string): string {
    if (parameters.length > SEQUENCE_MOST) return "";
    if (final === "m") return /^[\d;:]*$/.test(parameters) ? `\x1b[${parameters}m` : "";
    if (!/^[\d;]*$/.test(parameters)) return "";
    const numbers = parameters === "" ? [] : parameters.split(";").map((one) => Math.min(NUMBER_MOST, Number(one)));
    const bounded = numbers.join(";");
    if (CHEAP.has(final)) return this.#pay(1) ? `\x1b[${bounded}${final}` : "";
    // Erasing what was scrolled away (3) is the reader's to decide.
    if (final === "J") return (numbers[0] ?? 0) < 3 && this.#pay(ERASE_DISPLAY) ? `\x1b[${bounded}J` : "";
    if (!COUNTED.has(final)) return "";
    const count = Math.min(Math.max(1, numbers[0] ?? 1), this.#credit);
    return count > 0 && this.#pay(count) ? `\x1b[${count}${final}` : "";
  }

  #pay(cost: number): boolean {
    if (this.#credit < cost) return false;
    this.#credit -= cost;
    return true;
  }
}
