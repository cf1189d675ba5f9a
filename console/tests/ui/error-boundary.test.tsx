// @vitest-environment jsdom
import { act, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { UsageScreen } from "../../src/screens/usage";
import { ErrorBoundary } from "../../src/ui/error-boundary";
import { leave, page, settle, show } from "./page";

// As a browser refuses a module that an upgrade has removed.
vi.mock("../../src/ui/chart", () => {
  throw new TypeError("Failed to fetch dynamically imported module");
});
vi.mock("../../src/screens/sessions", () => ({
  SessionsScreen: () => {
    throw new Error("broken");
  },
}));

const usage = { day: new Date().toISOString().slice(0, 10), runs: 1, completed: 1, cost_usd: 0 };
const counts = { failed: 0, timed_out: 0, input_tokens: 0, output_tokens: 0 };

beforeEach(() => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  // React says there what a boundary has caught.
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  page((url) => (url.pathname.endsWith("/usage") ? { usage: [{ ...usage, ...counts }], reasons: {} } : {}));
});
afterEach(leave);

test("a part that cannot be loaded says so in its place, and offers to load the page again", async () => {
  show(<UsageScreen />, "#/usage");
  await act(() => settle(100));
  await vi.waitFor(() => expect(screen.getByRole("alert").textContent).toContain("could not be loaded"));
  expect(screen.getByRole("heading", { level: 1 }).textContent).toBe("Usage");
  expect(screen.getByText("Failures by reason")).toBeTruthy();
  const reload = vi.fn();
  vi.stubGlobal("location", { ...window.location, reload });
  screen.getByText("Reload").click();
  expect(reload).toHaveBeenCalledOnce();
});

test("a screen that breaks leaves the rail, and the next screen works", async () => {
  // Its theme asks for the page's media at once.
  const { App } = await import("../../src/app");
  show(<App />, "#/sessions");
  await act(() => settle(100));
  expect(screen.getByRole("alert").textContent).toContain("broken");
  expect(screen.getByRole("navigation", { name: "Main" })).toBeTruthy();
  window.location.hash = "#/no-such-page";
  await act(async () => void window.dispatchEvent(new HashChangeEvent("hashchange")));
  expect(screen.queryByRole("alert")).toBeNull();
  expect(screen.getByText("There is no such page")).toBeTruthy();
});

test("what works is shown as it is", () => {
  show(<ErrorBoundary>all of it</ErrorBoundary>);
  expect(screen.getByText("all of it")).toBeTruthy();
});
