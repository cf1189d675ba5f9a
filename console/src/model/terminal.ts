import type { TodoItem } from "../api/types";
import type { Chunk } from "../stream";

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
type Paint = Exclude<keyof typeof SGR, "reset">;

/** Turns chunks into what a terminal prints: output as it is, everything else on lines of its own, in its colour. */
export class TerminalWriter {
  #column = 0;
  #last = "";
  /** Tools whose output was printed as it ran: their result would print it again. */
  readonly #printed = new Set<string>();
  #running = "";

  render(chunk: Chunk): string {
    const detail = (chunk.detail ?? {}) as Record<string, unknown>;
    switch (chunk.type) {
      case "text":
        return this.#run("text", chunk.data);
      case "reasoning":
        return this.#run("reasoning", paint("dim", chunk.data));
      case "stdout":
      case "stderr":
        this.#printed.add(String(detail.call_id ?? this.#running));
        return this.#run(
          "output",
          chunk.type === "stderr" && !chunk.data.includes("\x1b") ? paint("yellow", chunk.data) : chunk.data,
        );
      case "tool_call":
        this.#running = String(detail.call_id ?? "");
        return this.#line(`${paint("cyan", "❯")} ${paint("bold", chunk.data || String(detail.tool))}`);
      case "tool_result":
        return this.#result(chunk, detail);
      case "file_change":
        return this.#line(paint("green", `± ${chunk.data}`));
      case "status":
        return this.#line(paint(detail.state === "failed" ? "red" : "grey", `● ${chunk.data}`));
      case "permission":
      case "question":
      case "gap":
        return this.#line(paint("yellow", `! ${chunk.data}`));
      case "todo":
        return this.#plan(detail.items as TodoItem[] | undefined);
      case "usage":
        return "";
    }
  }

  #plan(items: readonly TodoItem[] = []): string {
    const marks = { completed: paint("green", "✓"), in_progress: paint("cyan", "▸"), cancelled: "×", pending: "·" };
    return items.map((item) => this.#line(`  ${marks[item.status]} ${item.content}`)).join("");
  }

  #result(chunk: Chunk, detail: Record<string, unknown>): string {
    // The plan itself follows, readable.
    if (/todo/i.test(String(detail.tool)) && detail.ok !== false) return "";
    const printed = this.#printed.has(String(detail.call_id ?? ""));
    const body = printed || chunk.data === "" ? "" : this.#run("result", `${chunk.data.replace(/\n*$/, "")}\n`);
    if (detail.ok !== false) return body;
    const code = typeof detail.exit_code === "number" ? ` with exit code ${detail.exit_code}` : "";
    return body + this.#line(paint("red", `✗ ${String(detail.tool)} failed${code}`));
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
