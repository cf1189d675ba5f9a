import { cleanup, render, renderHook } from "@testing-library/react";
import type { ReactNode } from "react";
import { vi } from "vitest";
import type { Task } from "../../src/api/types";
import { useRoute } from "../../src/router";

/** Answers the page's calls. A string or stream is sent as it is, everything else as JSON; `[status, body]` is an answer of that status. */
export type Answer = (url: URL, init: RequestInit) => unknown;

/** A page without a layout: what jsdom has not got, it is given. */
export function page(answer: Answer): URL[] {
  const asked: URL[] = [];
  vi.stubGlobal("fetch", async (address: string, init: RequestInit = {}) => {
    const url = new URL(address);
    asked.push(url);
    const found = await answer(url, init);
    const [status, body] = Array.isArray(found) ? (found as [number, unknown]) : [200, found];
    const asIs = typeof body === "string" || body instanceof ReadableStream;
    return new Response(asIs ? body : JSON.stringify(body), { status });
  });
  vi.stubGlobal("ResizeObserver", Observer);
  vi.stubGlobal("CSS", {});
  vi.stubGlobal("matchMedia", () => ({ matches: false, addEventListener: () => undefined }));
  // Sizes: the transcript draws only what is in view.
  vi.spyOn(Element.prototype, "clientHeight", "get").mockReturnValue(600);
  vi.spyOn(Element.prototype, "clientWidth", "get").mockReturnValue(800);
  HTMLElement.prototype.scrollTo = () => undefined;
  HTMLDialogElement.prototype.showModal = function open(): void {
    this.open = true;
  };
  return asked;
}

export function show(screen: ReactNode, hash = "#/"): void {
  // The router hears of another address while somebody uses it.
  const { unmount } = renderHook(useRoute);
  window.location.hash = hash;
  window.dispatchEvent(new HashChangeEvent("hashchange"));
  unmount();
  render(screen);
}

export function leave(): void {
  cleanup();
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
}

/** Lets go on what waits: answers, and `ms` milliseconds of timers that are faked. */
export async function settle(ms = 0): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

export function task(at: number, change: Partial<Task> = {}): Task {
  return {
    execution_id: `00000000-0000-4000-8000-${String(at).padStart(12, "0")}`,
    project_id: "default",
    status: "completed",
    title: `execution ${at}`,
    submitted_at: new Date(Date.UTC(2026, 0, 1) + at * 60_000).toISOString(),
    last_sequence: 0,
    ...change,
  };
}

class Observer {
  observe(): void {}
  unobserve(): void {}
  disconnect(): void {}
}
