import type { TodoItem } from "../api/types";
import type { Chunk } from "../stream";
import { visible } from "./escape-controls";
import { Guard } from "./terminal-guard";

const SGR = {
  reset: "\x1b[0m",
  dim: "\x1b[2m",
  // Not dim: that halves the contrast of whatever it is on.
  grey: "\x1b[90m",
  bold: "\x1b[1m",
  cyan: "\x1b[36m",
  red: "\x1b[31m",
  green: "\x1b[32m",
  yellow: "\x1b[33m",
};
/** Items of a plan that are shown each time it changes. */
export const PLAN_MOST = 100;
type Paint = Exclude<keyof typeof SGR, "reset">;

/** Turns chunks into what a terminal prints: output as it is, everything else on lines of its own, in its colour. */
export class TerminalWriter {
  #column = 0;
  #last = "";
  /** Tools whose output was printed as it ran: their result would print it again. */
  readonly #printed = new Set<string>();
  #running = "";
  readonly #guard = new Guard();

  render(chunk: Chunk): string {
    const detail = (chunk.detail ?? {}) as Record<string, unknown>;
    switch (chunk.type) {
      case "text":
        return this.#run("text", this.#said("text", chunk.data));
      case "reasoning":
        return this.#run("reasoning", paint("dim", this.#said("reasoning", chunk.data)));
      case "stdout":
      case "stderr":
        this.#printed.add(String(detail.call_id ?? this.#running));
        return this.#run("output", this.#output(chunk));
      case "tool_call":
        this.#running = String(detail.call_id ?? "");
        return this.#line(`${paint("cyan", "❯")} ${paint("bold", visible(chunk.data || String(detail.tool)))}`);
      case "tool_result":
        return this.#result(chunk, detail);
      case "file_change":
        return this.#line(paint("green", `± ${visible(chunk.data)}`));
      case "status":
        return this.#line(paint(detail.state === "failed" ? "red" : "grey", `● ${visible(chunk.data)}`));
      case "permission":
      case "question":
      case "gap":
        return this.#line(paint("yellow", `! ${visible(chunk.data)}`));
      case "todo":
        return this.#plan(detail.items as TodoItem[] | undefined);
      case "usage":
        return "";
    }
  }

  #plan(items: readonly TodoItem[] = []): string {
    const marks = { completed: paint("green", "✓"), in_progress: paint("cyan", "▸"), cancelled: "×", pending: "·" };
    const shown = items
      .slice(0, PLAN_MOST)
      .map((item) => this.#line(`  ${marks[item.status]} ${visible(item.content)}`));
    const more = items.length - shown.length;
    return shown.join("") + (more > 0 ? this.#line(paint("grey", `  … ${more.toLocaleString("en")} more`)) : "");
  }

  #result(chunk: Chunk, detail: Record<string, unknown>): string {
    // The plan itself follows, readable.
    if (/todo/i.test(String(detail.tool)) && detail.ok !== false) return "";
    const printed = this.#printed.has(String(detail.call_id ?? ""));
    const body =
      printed || chunk.data === "" ? "" : this.#run("result", `${this.#said("result", trimEnd(chunk.data))}\n`);
    if (detail.ok !== false) return body;
    const code = typeof detail.exit_code === "number" ? ` with exit code ${detail.exit_code}` : "";
    return body + this.#line(paint("red", `✗ ${visible(String(detail.tool))} failed${code}`));
  }

  #output(chunk: Chunk): string {
    const said = this.#said("output", chunk.data);
    return chunk.type === "stderr" && !said.includes("\x1b") ? paint("yellow", said) : said;
  }

  /** What others wrote, bounded. A sequence goes on in the next piece of the same kind and nowhere else. */
  #said(kind: string, text: string): string {
    if (kind !== this.#last) this.#guard.reset();
    return this.#guard.pass(text);
  }

  /** Pieces of one kind follow each other directly; another kind starts a line. */
  #run(kind: string, text: string): string {
    const start = kind !== this.#last && this.#column > 0 ? "\r\n" : "";
    this.#last = kind;
    if (text !== "") this.#column = text.replaceAll(SGR.reset, "").endsWith("\n") ? 0 : 1;
    return start + text;
  }

  #line(text: string): string {
    const start = this.#column > 0 ? "\r\n" : "";
    this.#column = 0;
    this.#last = "";
    return `${start}${text}\r\n`;
  }
}

function paint(how: Paint, text: string): string {
  return `${SGR[how]}${text}${SGR.reset}`;
}

/** Without the line ends at its end: `/\n*$/` looks at every run of them anew. */
function trimEnd(text: string): string {
  let end = text.length;
  while (text[end - 1] === "\n") end -= 1;
  return text.slice(0, end);
}
