import type { UsageRow } from "../api/types";

export const GROUPS = ["day", "model", "project", "label"] as const;
export type Group = (typeof GROUPS)[number];

/** The first moment of the UTC day so many days before that of `now`, as the gateway takes it. */
export function firstDay(now: number, days: number): string {
  return new Date(Math.floor(now / 86_400_000) * 86_400_000 - (days - 1) * 86_400_000).toISOString();
}

/** A row for every day from `first` on, in order: a day without executions has none in the answer. */
export function byDay(rows: readonly UsageRow[], first: string, days: number): { day: string; row: UsageRow | null }[] {
  const found = new Map(rows.map((row) => [row.day, row]));
  return Array.from({ length: days }, (_, at) => {
    const day = new Date(Date.parse(first) + at * 86_400_000).toISOString().slice(0, 10);
    return { day, row: found.get(day) ?? null };
  });
}

/** The sums of all rows, and the mean time to the first output. */
export function total(rows: readonly UsageRow[]): UsageRow {
  const sum = (name: Exclude<keyof UsageRow, Group>): number => rows.reduce((all, row) => all + (row[name] ?? 0), 0);
  const outputs = sum("first_outputs");
  const waited = rows.reduce((all, row) => all + (row.first_output_ms ?? 0) * row.first_outputs, 0);
  return {
    runs: sum("runs"),
    completed: sum("completed"),
    failed: sum("failed"),
    cancelled: sum("cancelled"),
    timed_out: sum("timed_out"),
    rejected: sum("rejected"),
    input_tokens: sum("input_tokens"),
    output_tokens: sum("output_tokens"),
    cost_usd: sum("cost_usd"),
    first_outputs: outputs,
    ...(outputs > 0 ? { first_output_ms: waited / outputs } : {}),
  };
}

/** Of the executions that ended by themselves, the share that completed; null without any. */
export function successRate(row: UsageRow): number | null {
  const ended = row.completed + row.failed + row.timed_out;
  return ended > 0 ? row.completed / ended : null;
}
