/** What the gateway answers, as far as the console reads it. Absent fields are possible: older gateways answer too. */

import type { AttemptEnd, SessionState, State } from "../stream";

export interface Usage {
  readonly requests: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly reasoning_tokens: number;
  readonly cache_read_tokens: number;
  readonly cache_write_tokens: number;
  readonly cost_usd: number;
}

export interface TodoItem {
  readonly content: string;
  readonly status: "pending" | "in_progress" | "completed" | "cancelled";
}

export interface Waiting {
  readonly request_id: string;
  readonly kind: "permission" | "question";
  readonly title: string;
  readonly options?: readonly string[];
  readonly deadline?: string | null;
}

export interface ChangedFile {
  readonly path: string;
  readonly change: string;
  readonly additions?: number | null;
  readonly deletions?: number | null;
}

export interface DiffSummary {
  readonly files: number;
  readonly additions: number;
  readonly deletions: number;
  readonly changed: readonly ChangedFile[];
  readonly truncated?: boolean;
}

export interface Attempt {
  readonly number: number;
  readonly worker: string;
  readonly started_at: string;
  readonly ended_at?: string | null;
  readonly ended?: AttemptEnd | null;
}

export interface FieldError {
  readonly field: string;
  readonly message: string;
}

/** Answer of `GET /tasks/{id}/status` and an item of `GET /tasks`. */
export interface Task {
  readonly execution_id: string;
  readonly project_id: string;
  readonly status: State;
  readonly progress?: number;
  readonly title?: string;
  readonly reason?: string | null;
  readonly message?: string | null;
  readonly errors?: readonly FieldError[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly model?: string | null;
  readonly task_id?: string | null;
  readonly session_id?: string | null;
  readonly submitted_at: string;
  readonly started_at?: string | null;
  readonly ended_at?: string | null;
  readonly timeout_seconds?: number;
  readonly max_attempts?: number;
  readonly attempts?: readonly Attempt[];
  readonly cancel_requested?: boolean;
  readonly waiting_for?: Waiting | null;
  readonly todo?: readonly TodoItem[];
  readonly usage?: Usage;
  readonly diff?: DiffSummary;
  /** In lists, where `diff` and `waiting_for` are left out. */
  readonly files_changed?: number;
  readonly waiting?: boolean;
  readonly cancel_why?: string | null;
  readonly result?: string;
  /** The JSON value that fits the task's `output_schema`. */
  readonly output?: unknown;
  /** Bytes of the whole result, when `result` is shortened. */
  readonly result_bytes?: number | null;
  readonly artifacts?: "stored" | "pending" | "lost" | null;
  readonly artifacts_message?: string | null;
  /** The task's `result`: the pushed branch and its pull request, or the reason why nothing was pushed. */
  readonly commit?: string | null;
  readonly branch?: string | null;
  readonly pull_request?: { readonly number: number; readonly url: string } | null;
  readonly result_message?: string | null;
  readonly comment_url?: string | null;
  readonly queue_position?: number | null;
  readonly last_sequence?: number;
  readonly archived?: boolean;
  /** The execution that this one runs again, and how that went. */
  readonly rerun_of?: string | null;
  readonly rerun?: Rerun | null;
}

/** The model calls of a rerun: how many the recording answered, and which requests differed. */
export interface Rerun {
  readonly of: string;
  readonly calls: number;
  readonly live_calls?: number;
  readonly divergences?: readonly { readonly call: number; readonly part: string; readonly text?: string | null }[];
  /** Further divergences, which are not listed. */
  readonly more?: number;
}

/** A text or action of an execution; `seq` is the sequence of its first chunk. */
export interface Step {
  readonly seq: number;
  readonly type: string;
  readonly text: string;
}

export interface Row {
  readonly same: boolean;
  readonly a: Step | null;
  readonly b: Step | null;
}

export interface FileDifference {
  readonly path: string;
  readonly change: "only_a" | "only_b" | "differs";
  readonly lines: readonly string[];
}

/** One side of a comparison; `missing` names what could not be compared. */
export interface Compared {
  readonly execution_id: string;
  readonly status: State;
  readonly reason?: string | null;
  readonly model?: string | null;
  readonly duration_ms?: number | null;
  readonly usage: Usage;
  readonly steps: number;
  readonly tool_calls: number;
  readonly missing: readonly string[];
}

/** Answer of `GET /tasks/{id}/compare/{other}`. */
export interface Comparison {
  readonly same: boolean;
  readonly differs: readonly string[];
  readonly common_steps: number;
  readonly a: Compared;
  readonly b: Compared;
  readonly rows: readonly Row[];
  readonly steps_left_out: number;
  readonly files: readonly FileDifference[];
  readonly files_left_out: number;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** What the next page is asked for with: `cursor`, or `after` for dead letters. */
  readonly next?: string | number | null;
}

/** A row of `GET /usage`; of the first four only those that were asked for. */
export interface UsageRow {
  readonly project?: string;
  readonly model?: string;
  readonly day?: string;
  readonly label?: string;
  readonly runs: number;
  readonly completed: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly timed_out: number;
  readonly rejected: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly cost_usd: number;
  /** The mean of the runs that said something, and their number. */
  readonly first_output_ms?: number;
  readonly first_outputs: number;
}

export interface Usage {
  readonly usage: readonly UsageRow[];
  /** Failures by reason. */
  readonly reasons: Readonly<Record<string, number>>;
}

/** `events/session_record.py`: a conversation and its workspace. */
export interface Session {
  readonly session_id: string;
  readonly project_id: string;
  readonly state?: SessionState;
  readonly created_at?: string;
  readonly expires_at?: string | null;
  readonly from_execution_id?: string | null;
  readonly labels?: Readonly<Record<string, string>>;
  readonly clients?: readonly { readonly client_id: string }[];
  /** Executions that want it; the first one has it. */
  readonly queue?: readonly string[];
  /** Every execution that was made in it, oldest first. */
  readonly executions?: readonly string[];
}

/** What could not be handled, and why. */
export interface DeadLetter {
  readonly seq: number;
  readonly consumer?: string;
  readonly subject?: string;
  readonly type?: string | null;
  readonly deliveries?: number;
  readonly reason?: string;
  readonly status?: number | null;
  readonly failed_at?: string;
  readonly project_id?: string | null;
  readonly event_id?: string | null;
  readonly data?: string | null;
  /** Bytes and SHA-256 of data that was not kept: the event could not be read. */
  readonly size?: number | null;
  readonly sha256?: string | null;
}

/** An event that a limit of a rule or schedule held back. */
export interface Refusal {
  readonly id: string;
  readonly time: string;
  readonly reason?: string;
}

/** A rule as stored, with what it did. */
export interface Rule {
  readonly name: string;
  readonly on: { readonly type?: string; readonly source?: string; readonly subject?: string; readonly where?: string };
  readonly task: Readonly<Record<string, unknown>>;
  readonly poll?: {
    readonly forge: string;
    readonly repository: string;
    readonly what: string;
    readonly every?: string;
  };
  readonly matched?: number;
  readonly last_event?: Refusal | null;
  readonly refused?: readonly Refusal[];
  readonly polled?: { readonly polled_at?: string | null; readonly problem?: string } | null;
  readonly problem?: string;
}

/** What a rule decided about an event; `mismatch` null: it matches. */
export interface Decision {
  readonly rule: string;
  readonly mismatch?: string | null;
  readonly problem?: string;
  readonly execution_id?: string;
  readonly started?: boolean;
}

export interface InboxEvent {
  readonly id: string;
  readonly type?: string;
  readonly source?: string;
  readonly subject?: string | null;
  readonly time?: string;
  readonly problem?: string;
  readonly rules: readonly Decision[];
}

export interface Schedule {
  readonly name: string;
  readonly cron: string;
  readonly timezone: string;
  readonly overlap: string;
  readonly paused?: boolean;
  readonly upcoming?: readonly string[];
  readonly last?: Refusal | null;
  readonly refused?: readonly Refusal[];
}

export interface Credential {
  readonly name: string;
  readonly forge: string;
  readonly api_url: string;
  readonly kind: "token" | "app";
  readonly created_at: string;
}

export interface Hook {
  readonly kind: string;
  readonly source: string;
  readonly project_id: string;
  readonly secrets: readonly { readonly created_at: string; readonly expires_at?: string | null }[];
}

/** A hook's secret, which is not shown again; a Knative hook has it in the URL. */
export interface NewHook {
  readonly url: string;
  readonly secret?: string | null;
}

/** A model that a task may ask for; null is not known. */
export interface ModelFacts {
  readonly provider: string;
  readonly model: string;
  readonly name: string;
  readonly context: number | null;
  readonly output: number | null;
  readonly input: readonly string[] | null;
  readonly variants: readonly string[] | null;
  readonly price: { readonly input: number; readonly output: number } | null;
}

/** Answer of `GET /ready`. */
export interface Readiness {
  readonly ready?: boolean;
  /** Without `model_config` a script answers, not a language model. */
  readonly offline_model?: boolean;
  readonly checks?: Readonly<Record<string, { readonly ok: boolean; readonly detail?: string }>>;
}

/** RFC 9457. */
export interface Problem {
  readonly title?: string;
  readonly detail?: string;
  readonly status?: number;
  readonly errors?: readonly FieldError[];
}
