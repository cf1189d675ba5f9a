// @vitest-environment jsdom
import { act, cleanup, renderHook } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { useExecution } from "../../src/execution/use-execution";
import { leave, page, settle, task } from "./page";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(leave);

test.each([401, 403])("an execution that one may not see (%d) is asked for once, not for ever", async (status) => {
  const asked = page(() => [status, { detail: "not yours" }]);
  const { result } = renderHook(() => useExecution("e1"));
  await act(() => settle(60_000));
  expect(result.current.stream).toMatchObject({ state: "disconnected", error: "not yours", retryAt: null });
  expect(result.current.error?.status).toBe(status);
  // Once by the stream, once by the page to say why.
  expect(asked).toHaveLength(2);
});

test("one that is not there is given up after the seconds in which it may yet come", async () => {
  const asked = page(() => [404, { detail: "no execution e1" }]);
  const { result } = renderHook(() => useExecution("e1"));
  await act(() => settle(30_000));
  expect(result.current.stream.retryAt).toBeNull();
  const before = asked.length;
  await act(() => settle(60_000));
  expect(asked).toHaveLength(before);
});

test("a gateway that cannot be reached is tried again", async () => {
  let reached = false;
  page((url) => {
    if (!reached) throw new TypeError("failed to fetch");
    return url.pathname.endsWith("/status") ? task(1) : "";
  });
  const { result } = renderHook(() => useExecution("e1"));
  await act(() => settle(5_000));
  expect(result.current.stream.state).toBe("disconnected");
  expect(result.current.stream.retryAt).not.toBeNull();
  reached = true;
  await act(() => settle(12_000));
  expect(result.current.stream.state).toBe("ended");
});

const follow = () => renderHook(() => useExecution("e1"));
const shown = (one: ReturnType<typeof follow>) => one.result.current.task;

test("what comes after the end is shown without a reload, and one that is never archived is given up", async () => {
  let record = task(1, { archived: false, artifacts: "pending" });
  const asked = page((url) => (url.pathname.endsWith("/status") ? record : ""));
  const one = follow();
  await act(() => settle(4_000));
  expect(shown(one)?.artifacts).toBe("pending");
  record = task(1, { archived: true, artifacts: "stored" });
  await act(() => settle(10_000));
  expect(shown(one)).toMatchObject({ archived: true, artifacts: "stored" });
  const before = asked.length;
  await act(() => settle(60_000));
  expect(asked).toHaveLength(before);
  cleanup();
  record = task(1, { archived: false });
  const other = follow();
  await act(() => settle(100));
  await act(() => settle(600_000));
  const tries = asked.length;
  await act(() => settle(600_000));
  expect(shown(other)?.archived).toBe(false);
  expect(asked).toHaveLength(tries);
});

test("an answer that is overtaken by a later one does not replace it", async () => {
  const answers: ((record: unknown) => void)[] = [];
  let held = false;
  page((url) => {
    if (!url.pathname.endsWith("/status")) return "";
    if (held) return new Promise((resolve) => answers.push(resolve));
    return task(1, { status: "running" });
  });
  const one = follow();
  await act(() => settle(100));
  held = true;
  act(() => one.result.current.refresh());
  act(() => one.result.current.refresh());
  answers[1]?.(task(1, { status: "completed", archived: true }));
  await act(() => settle(0));
  answers[0]?.(task(1, { status: "running" }));
  await act(() => settle(0));
  expect(shown(one)?.status).toBe("completed");
});
