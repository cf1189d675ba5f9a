// @vitest-environment jsdom
import { act, cleanup, renderHook } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { usePolled } from "../../src/hooks";
import { leave, settle } from "./page";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(leave);

test("a tab that is shown while an answer is awaited asks no second time, and then in one rhythm", async () => {
  let calls = 0;
  let answer = (): void => undefined;
  renderHook(() =>
    usePolled("k", 1_000, () => {
      calls += 1;
      return calls > 1 ? Promise.resolve(calls) : new Promise<number>((resolve) => (answer = () => resolve(1)));
    }),
  );
  document.dispatchEvent(new Event("visibilitychange"));
  expect(calls).toBe(1);
  answer();
  await act(() => settle(10_050));
  expect(calls).toBe(11);
  document.dispatchEvent(new Event("visibilitychange"));
  expect(calls).toBe(12);
  cleanup();
});
