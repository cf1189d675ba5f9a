/** Names of the states. Generated from `events/lifecycle.py` by `make generate`. */

export const STATES = ["pending", "running", "completed", "failed", "cancelled", "timed_out", "rejected"] as const;
export type State = (typeof STATES)[number];

/** States of an execution that no step leaves. */
export const TERMINAL_STATES: ReadonlySet<string> = new Set([
  "completed",
  "failed",
  "cancelled",
  "timed_out",
  "rejected",
]);

/** Values of `attempts[].ended`. */
export const ATTEMPT_ENDS = [
  "completed",
  "failed",
  "cancelled",
  "timed_out",
  "worker_lost",
  "handed_on",
  "not_ready",
] as const;
export type AttemptEnd = (typeof ATTEMPT_ENDS)[number];

/** Values of `state` in a session's record. */
export const SESSION_STATES = ["open", "destroying"] as const;
export type SessionState = (typeof SESSION_STATES)[number];
