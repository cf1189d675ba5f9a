// @vitest-environment jsdom
import { act, fireEvent, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { UsageRow } from "../../src/api/types";
import { byDay, firstDay, successRate, total } from "../../src/model/usage";
import { UsageScreen } from "../../src/screens/usage";
import { leave, page, settle, show } from "./page";

// A canvas is not what these tests are about, and jsdom has none.
vi.mock("../../src/ui/chart", () => ({ default: () => null }));
beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(leave);

const row = (more: Partial<UsageRow>): UsageRow => ({
  runs: 4,
  completed: 2,
  failed: 1,
  cancelled: 1,
  timed_out: 0,
  rejected: 0,
  input_tokens: 100,
  output_tokens: 10,
  cost_usd: 0.5,
  first_outputs: 0,
  ...more,
});

test("sums, rates and means are those of the rows; a day without executions is a gap", () => {
  const rows = [
    row({ first_output_ms: 1_000, first_outputs: 3 }),
    row({ first_output_ms: 5_000, first_outputs: 1 }),
    row({}),
  ];
  expect(total(rows)).toMatchObject({ runs: 12, cost_usd: 1.5, first_output_ms: 2_000 });
  expect(total([row({})]).first_output_ms).toBeUndefined();
  expect(successRate(row({}))).toBeCloseTo(2 / 3);
  expect(successRate(row({ completed: 0, failed: 0 }))).toBeNull();
  const first = firstDay(Date.parse("2026-03-01T23:59:00Z"), 3);
  expect(first).toBe("2026-02-27T00:00:00.000Z");
  const days = byDay([row({ day: "2026-02-28" })], first, 3);
  expect(days.map((one) => [one.day, one.row?.runs])).toEqual([
    ["2026-02-27", undefined],
    ["2026-02-28", 4],
    ["2026-03-01", undefined],
  ]);
});

test("the table is grouped as the reader chooses, and the address says how", { timeout: 60_000 }, async () => {
  const asked = page((url) => {
    const by = url.searchParams.get("group_by") as "day" | "model";
    return { usage: [row({ [by]: by === "day" ? "2026-01-01" : "a/b" })], reasons: { model_error: 7 } };
  });
  show(<UsageScreen />);
  await act(settle);
  expect(screen.getByText("model error")).toBeTruthy();
  expect(screen.getAllByText("67%")).toHaveLength(2);
  fireEvent.click(screen.getByText("Model"));
  await act(settle);
  expect(screen.getByRole("rowheader", { name: "a/b" })).toBeTruthy();
  expect(globalThis.location.hash).toContain("by=model");
  expect(asked.map((url) => url.searchParams.get("group_by"))).toContain("model");
});
