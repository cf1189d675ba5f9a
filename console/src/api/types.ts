/**
 * Answers of the gateway, by the console's names. Their types are generated from the schemas (`../client/api-types`);
 * declared here are only those that the OpenAPI document leaves open.
 */

import type * as api from "../client/api-types";
import type { SessionState } from "../stream";

export type {
  Attempt,
  ChangedFile,
  DeadLetter,
  FieldError,
  FileDifference,
  NewHook,
  Step,
  TodoItem,
} from "../client/api-types";
export type Credential = api.CredentialView;
export type Hook = api.HookView;
export type Schedule = api.ScheduleView;
export type Problem = Partial<api.ProblemDocument>;
export type Readiness = Partial<api.Readiness>;
export type Waiting = api.PendingRequest;
export type ModelFacts = Pick<
  api.ModelView,
  "provider" | "model" | "name" | "context" | "output" | "input" | "variants"
> & { readonly price: Pick<api.Price, "input" | "output"> | null };

// Fields with a default are optional in the schemas; an answer has them.
export type Usage = Required<api.Usage>;
export type DiffSummary = Required<api.DiffSummary>;
export type Rerun = api.RerunResult & { readonly calls: number };
export type Row = Required<api.Row>;
export type Compared = Required<Omit<api.Compared, "usage">> & { readonly usage: Usage };
export type Comparison = Required<Omit<api.Comparison, "a" | "b" | "rows">> & {
  readonly a: Compared;
  readonly b: Compared;
  readonly rows: readonly Row[];
};
export type UsageRow = Omit<
  api.UsageRow,
  "requests" | "reasoning_tokens" | "cache_read_tokens" | "cache_write_tokens" | "first_outputs"
> & { readonly first_outputs: number };
export type UsageReport = Omit<api.UsageReport, "usage"> & { readonly usage: readonly UsageRow[] };

/** Answer of `GET /tasks/{id}/status`; an item of `GET /tasks`, and an older gateway's answer, have less. */
export type Task = Pick<api.TaskStatus, "execution_id" | "project_id" | "status" | "submitted_at"> &
  Partial<Omit<api.TaskStatus, "usage" | "diff" | "rerun">> & {
    readonly usage?: Usage;
    readonly diff?: DiffSummary;
    readonly rerun?: Rerun | null;
  };

export interface Page<T> {
  readonly items: readonly T[];
  /** What the next page is asked for with: `cursor`, or `after` for dead letters. */
  readonly next?: string | number | null;
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
  readonly last_event?: api.EventRef | null;
  readonly refused?: readonly api.EventRef[];
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
