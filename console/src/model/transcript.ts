import type { TodoItem, Usage, Waiting } from "../api/types";
import type { Chunk } from "../stream";
import type { FileRow, OutputRow, Row, Severity, StatusRow, Summary, ToolRow } from "./transcript-rows";

/** Rows are kept short, so that a list that draws only what is visible has something to leave out. */
const MAX_CODE_LINES = 80;
const MAX_OUTPUT_LINES = 80;
/** A row is no longer than this either, whatever its lines are: the list measures and the reader parses each anew. */
const MAX_ROW = 20_000;
/** A tool's output beyond this is kept from its end; the download has all of it. */
const MAX_TOOL_OUTPUT = 400_000;

const FENCE = /^\s*(?:```|~~~)\s*([\w+#.-]*)/;
const MAY_BE_FENCE = /^\s*(?:[`~]{1,2}$|```|~~~)/;
const SEVERITY_OF_STATE: Readonly<Record<string, Severity>> = {
  failed: "error",
  rejected: "error",
  cancelled: "warning",
  timed_out: "error",
};

type RowWithoutId = Row extends infer R ? (R extends Row ? Omit<R, "id"> : never) : never;

/** The text part that is being written: complete lines are settled, the last one may still grow. */
interface OpenText {
  part: string;
  index: number | null;
  mode: "prose" | "code";
  language: string;
  settled: string;
  lines: number;
  partial: string;
  continued: boolean;
}

/**
 * Turns chunks into rows, one at a time and in any amount. A row that changes is replaced by a new object,
 * so that a list can compare by identity. Pure: the same chunks always give the same rows.
 */
export class Transcript {
  readonly rows: Row[] = [];
  #text: OpenText | null = null;
  readonly #calls = new Map<string, number>();
  #running: number[] = [];
  #usage: Usage | null = null;
  #todo: readonly TodoItem[] = [];
  #state: string | null = null;
  #phase: string | null = null;
  #attempt = 1;
  readonly #files = new Map<string, FileRow>();
  #first = 0;
  #last = 0;
  #chunks = 0;

  push(chunks: readonly Chunk[]): void {
    for (const chunk of chunks) this.#take(chunk);
  }

  summary(): Summary {
    return {
      usage: this.#usage,
      todo: this.#todo,
      state: this.#state,
      phase: this.#phase,
      attempt: this.#attempt,
      files: new Map(this.#files),
      tools: this.#calls.size,
      first: this.#first,
      last: this.#last,
      chunks: this.#chunks,
    };
  }

  #take(chunk: Chunk): void {
    const at = Date.parse(chunk.timestamp) || this.#last;
    this.#first ||= at;
    this.#last = Math.max(at, this.#last);
    this.#chunks += 1;
    if (chunk.attempt > this.#attempt) this.#nextAttempt(chunk, at);
    // A phase is over as soon as anything but bookkeeping follows.
    if (chunk.type !== "status" && chunk.type !== "usage" && chunk.type !== "todo") this.#phase = null;
    const detail = (chunk.detail ?? {}) as Record<string, unknown>;
    switch (chunk.type) {
      case "text":
        return this.#write(chunk, at, String(detail.part_id ?? ""));
      case "reasoning":
        return this.#reason(chunk, at);
      case "tool_call":
        return this.#call(chunk, at, detail);
      case "tool_result":
        return this.#result(chunk, at, detail);
      case "stdout":
      case "stderr":
        return this.#output(chunk, at, detail);
      case "usage":
        this.#usage = detail as unknown as Usage;
        return;
      case "todo":
        this.#todo = (detail.items as TodoItem[] | undefined) ?? [];
        return;
      case "file_change":
        return this.#file(chunk, at, detail);
      case "status":
        return this.#status(chunk, at, detail);
      case "permission":
      case "question":
        this.#add({
          kind: "waiting",
          seq: chunk.seq,
          at,
          severity: "warning",
          source: chunk.data,
          waiting: { kind: chunk.type, request_id: "", title: chunk.data, ...(detail as Partial<Waiting>) },
        });
        return;
      case "gap":
        this.#add({ kind: "gap", seq: chunk.seq, at, severity: "warning", source: chunk.data });
    }
  }

  #add(row: RowWithoutId): number {
    this.#text = null;
    return this.#append(row);
  }

  #append(row: RowWithoutId): number {
    this.rows.push({ ...row, id: this.rows.length } as Row);
    return this.rows.length - 1;
  }

  #nextAttempt(chunk: Chunk, at: number): void {
    this.#attempt = chunk.attempt;
    // What the lost worker's tools were doing will never be reported.
    for (const index of this.#running) this.#change(index, { state: "failed" });
    this.#running = [];
    this.#add({ kind: "attempt", seq: chunk.seq, at, severity: "warning", number: chunk.attempt });
  }

  #change(index: number, change: Partial<ToolRow>): void {
    const row = this.rows[index];
    if (row?.kind === "tool") this.rows[index] = { ...row, ...change };
  }

  #write(chunk: Chunk, at: number, part: string): void {
    if (this.#text?.part !== part) {
      this.#text = {
        part,
        index: null,
        mode: "prose",
        language: "",
        settled: "",
        lines: 0,
        partial: "",
        continued: false,
      };
    }
    const open = this.#text;
    const lines = (open.partial + chunk.data).split("\n");
    open.partial = lines.pop() ?? "";
    for (const line of lines) this.#line(open, line, chunk, at);
    this.#cut(open, chunk, at);
    this.#show(open, chunk, at);
  }

  #line(open: OpenText, line: string, chunk: Chunk, at: number): void {
    const fence = FENCE.exec(line);
    if (open.mode === "code") {
      if (fence && fence[1] === "") return this.#settle(open, chunk, at, "prose");
      open.settled += `${line}\n`;
      open.lines += 1;
      if (open.lines >= MAX_CODE_LINES) {
        this.#settle(open, chunk, at, "code", open.language);
        open.continued = true;
      }
    } else if (fence) this.#settle(open, chunk, at, "code", fence[1] ?? "");
    else if (line.trim() === "") this.#settle(open, chunk, at, "prose");
    else open.settled += `${line}\n`;
  }

  /** A text without ends of lines or paragraphs goes on in further rows. */
  #cut(open: OpenText, chunk: Chunk, at: number): void {
    while (open.settled.length + open.partial.length > MAX_ROW) {
      const whole = open.settled + open.partial;
      const rest = whole.slice(MAX_ROW);
      // What is left of a line is no line of its own: it is settled with the piece that comes before its end.
      open.settled = whole.slice(0, MAX_ROW);
      open.partial = "";
      this.#settle(open, chunk, at, open.mode, open.language);
      open.continued = true;
      open.partial = rest;
    }
  }

  /** Closes the present row; what follows becomes a new one. */
  #settle(open: OpenText, chunk: Chunk, at: number, mode: "prose" | "code", language = ""): void {
    const partial = open.partial;
    open.partial = "";
    this.#show(open, chunk, at);
    Object.assign(open, { index: null, mode, language, settled: "", lines: 0, partial, continued: false });
  }

  #show(open: OpenText, chunk: Chunk, at: number): void {
    // A line that may become a fence is shown once it is known to be none.
    const source = MAY_BE_FENCE.test(open.partial) ? open.settled : open.settled + open.partial;
    if (source.trim() === "" && open.index === null) return;
    const row = {
      kind: "text",
      seq: chunk.seq,
      at,
      severity: "info",
      format: open.mode,
      language: open.language,
      source,
      continued: open.continued,
    } as const;
    if (open.index === null) open.index = this.#append(row);
    else this.rows[open.index] = { ...row, id: open.index, seq: this.rows[open.index]?.seq ?? chunk.seq };
  }

  #reason(chunk: Chunk, at: number): void {
    const last = this.rows.at(-1);
    if (last?.kind === "reasoning") {
      this.rows[last.id] = { ...last, source: last.source + chunk.data };
    } else if (chunk.data.trim() !== "") {
      this.#add({ kind: "reasoning", seq: chunk.seq, at, severity: "debug", source: chunk.data });
    }
  }

  #call(chunk: Chunk, at: number, detail: Record<string, unknown>): void {
    const callId = String(detail.call_id ?? `seq-${chunk.seq}`);
    const known = this.#calls.get(callId);
    const change = {
      tool: String(detail.tool ?? "tool"),
      title: String(detail.title ?? withoutName(chunk.data, detail.tool)),
      input: (detail.input ?? {}) as Record<string, unknown>,
    };
    if (known !== undefined) return this.#change(known, change);
    const index = this.#add({
      kind: "tool",
      seq: chunk.seq,
      at,
      // The plan stands beside the transcript: keeping it is bookkeeping.
      severity: /todo/i.test(change.tool) ? "debug" : "info",
      callId,
      ...change,
      output: "",
      state: "running",
      durationMs: null,
      exitCode: null,
      truncated: false,
    });
    this.#calls.set(callId, index);
    this.#running.push(index);
  }

  #result(chunk: Chunk, at: number, detail: Record<string, unknown>): void {
    const callId = String(detail.call_id ?? "");
    if (!this.#calls.has(callId)) this.#call({ ...chunk, data: "" }, at, detail);
    const index = this.#calls.get(callId) ?? this.rows.length - 1;
    const row = this.rows[index];
    const failed = detail.ok === false || (typeof detail.exit_code === "number" && detail.exit_code !== 0);
    this.#running = this.#running.filter((one) => one !== index);
    this.#change(index, {
      state: failed ? "failed" : "ok",
      severity: failed ? "error" : (row?.severity ?? "info"),
      // The result has all of it; what came as it ran may be longer when the result was cut.
      output: chunk.data || (row?.kind === "tool" ? row.output : ""),
      durationMs: typeof detail.duration_ms === "number" ? detail.duration_ms : row ? at - row.at : null,
      exitCode: typeof detail.exit_code === "number" ? detail.exit_code : null,
      truncated: detail.output_truncated === true,
      ...(detail.title ? { title: String(detail.title) } : {}),
    });
  }

  #output(chunk: Chunk, at: number, detail: Record<string, unknown>): void {
    const call = detail.call_id === undefined ? this.#running.at(-1) : this.#calls.get(String(detail.call_id));
    const owner = call === undefined ? undefined : this.rows[call];
    if (call !== undefined && owner?.kind === "tool") {
      return this.#change(call, { output: (owner.output + chunk.data).slice(-MAX_TOOL_OUTPUT) });
    }
    const stream = chunk.type as OutputRow["stream"];
    const last = this.rows.at(-1);
    if (last?.kind === "output" && last.stream === stream && isShort(last.source)) {
      this.rows[last.id] = { ...last, source: last.source + chunk.data };
    } else {
      const severity = stream === "stderr" ? "warning" : "info";
      this.#add({ kind: "output", seq: chunk.seq, at, severity, stream, source: chunk.data });
    }
  }

  #file(chunk: Chunk, at: number, detail: Record<string, unknown>): void {
    const path = String(detail.path ?? chunk.data);
    const index = this.#add({
      kind: "file",
      seq: chunk.seq,
      at,
      severity: "info",
      path,
      change: String(detail.change ?? "modified"),
      additions: (detail.additions as number | null | undefined) ?? null,
      deletions: (detail.deletions as number | null | undefined) ?? null,
    });
    this.#files.set(path, this.rows[index] as FileRow);
  }

  #status(chunk: Chunk, at: number, detail: Record<string, unknown>): void {
    const state = (detail.state as string | null | undefined) ?? null;
    const phase = (detail.phase as string | null | undefined) ?? null;
    if (state) this.#state = state;
    this.#phase = phase;
    const severity = SEVERITY_OF_STATE[state ?? ""] ?? (phase === "retry" ? "warning" : "info");
    const row: Omit<StatusRow, "id"> = {
      kind: "status",
      seq: chunk.seq,
      at,
      severity,
      source: chunk.data,
      state,
      phase,
    };
    this.#add(row);
  }
}

function isShort(source: string): boolean {
  return source.length < MAX_ROW && source.split("\n").length < MAX_OUTPUT_LINES;
}

/** `bash pytest -q` is shown beside the tool's name: without it. */
function withoutName(data: string, tool: unknown): string {
  return data === tool ? "" : data.startsWith(`${tool} `) ? data.slice(`${tool} `.length) : data;
}
