import type { TodoItem, Usage, Waiting } from "../api/types";

/** How much a row matters: the filter shows this and everything above. */
export const SEVERITIES = ["debug", "info", "warning", "error"] as const;
export type Severity = (typeof SEVERITIES)[number];

interface Base {
  readonly id: number;
  readonly seq: number;
  readonly at: number;
  readonly severity: Severity;
}

/** One paragraph, list or heading of what the model wrote, in Markdown; or one stretch of a code fence. */
export interface TextRow extends Base {
  readonly kind: "text";
  readonly format: "prose" | "code";
  readonly language: string;
  readonly source: string;
  /** It goes on where the row before stopped: no space between. */
  readonly continued: boolean;
}

export interface ReasoningRow extends Base {
  readonly kind: "reasoning";
  readonly source: string;
}

export interface ToolRow extends Base {
  readonly kind: "tool";
  readonly callId: string;
  readonly tool: string;
  readonly title: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly output: string;
  readonly state: "running" | "ok" | "failed";
  readonly durationMs: number | null;
  readonly exitCode: number | null;
  readonly truncated: boolean;
}

/** What a process wrote that belongs to no tool call. */
export interface OutputRow extends Base {
  readonly kind: "output";
  readonly stream: "stdout" | "stderr";
  readonly source: string;
}

export interface FileRow extends Base {
  readonly kind: "file";
  readonly path: string;
  readonly change: string;
  readonly additions: number | null;
  readonly deletions: number | null;
}

export interface StatusRow extends Base {
  readonly kind: "status";
  readonly source: string;
  readonly state: string | null;
  readonly phase: string | null;
}

export interface AttemptRow extends Base {
  readonly kind: "attempt";
  readonly number: number;
}

export interface WaitingRow extends Base {
  readonly kind: "waiting";
  readonly source: string;
  readonly waiting: Waiting;
}

export interface GapRow extends Base {
  readonly kind: "gap";
  readonly source: string;
}

export type Row = TextRow | ReasoningRow | ToolRow | OutputRow | FileRow | StatusRow | AttemptRow | WaitingRow | GapRow;

/** What the chunks so far add up to. */
export interface Summary {
  readonly usage: Usage | null;
  readonly todo: readonly TodoItem[];
  readonly state: string | null;
  readonly phase: string | null;
  readonly attempt: number;
  readonly files: ReadonlyMap<string, FileRow>;
  readonly tools: number;
  /** Unix milliseconds of the first and the last chunk; 0 before the first. */
  readonly first: number;
  readonly last: number;
  readonly chunks: number;
}

/** The words of a row, for search and copy. */
export function rowText(row: Row): string {
  switch (row.kind) {
    case "tool":
      return `${row.tool} ${row.title}\n${row.output}`;
    case "file":
      return `${row.change} ${row.path}`;
    case "attempt":
      return `attempt ${row.number}`;
    default:
      return row.source;
  }
}
