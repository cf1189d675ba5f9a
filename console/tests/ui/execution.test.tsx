// @vitest-environment jsdom
import { act, renderHook } from "@testing-library/react";
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
