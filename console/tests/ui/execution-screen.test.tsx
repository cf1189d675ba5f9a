// @vitest-environment jsdom
import { act, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ExecutionScreen } from "../../src/screens/execution";
import { chunk } from "../stream/helpers";
import { leave, page, settle, show, task } from "./page";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(leave);

/** Its record is there once, as `status`, with this output; then it is deleted elsewhere. */
async function removed(status: "pending" | "running", output: string): Promise<void> {
  let looks = 0;
  page((url) => {
    if (url.pathname.endsWith("/output") && looks === 1) return output;
    if (url.pathname.endsWith("/status") && ++looks === 1) return task(1, { status });
    return [404, { detail: "no execution e1" }];
  });
  show(<ExecutionScreen id="e1" />, "#/tasks/e1");
  await act(() => settle(100));
  expect(screen.getByText("Cancel")).toBeTruthy();
  await act(() => settle(60_000));
  expect(screen.getByText("This execution was removed")).toBeTruthy();
  expect(screen.queryByText("Cancel")).toBeNull();
  expect(document.querySelector(".spinner, .execution-meta")).toBeNull();
}

test("one that was deleted elsewhere waits for no worker any more", async () => {
  await removed("pending", "");
  expect(screen.queryByText("Waiting for a worker")).toBeNull();
  expect(document.title).toContain("Removed");
});

test("what a deleted one had said until then stays to be read", async () => {
  await removed("running", `${JSON.stringify(chunk(1, { type: "text", data: "I look first." }))}\n`);
  expect(screen.getByText("I look first.")).toBeTruthy();
});
