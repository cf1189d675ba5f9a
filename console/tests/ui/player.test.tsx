// @vitest-environment jsdom
import { act, fireEvent, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { ReplayScreen } from "../../src/screens/replay";
import { chunk } from "../stream/helpers";
import { leave, page, settle, show, task } from "./page";

const SECONDS = 60;
const start = Date.UTC(2026, 0, 1);
const said = Array.from({ length: SECONDS + 1 }, (_, at) =>
  chunk(at + 1, {
    type: "stdout",
    data: `second ${at}\n`,
    timestamp: new Date(start + at * 1_000).toISOString(),
  }),
);

beforeEach(() => {
  vi.useFakeTimers();
  page((url) =>
    url.pathname.endsWith("/status")
      ? task(1, { last_sequence: said.length })
      : said.map((one) => `${JSON.stringify(one)}\n`).join(""),
  );
});
afterEach(leave);

const position = (): number => Number((screen.getByLabelText("Position") as HTMLInputElement).value);

/** How far it gets in a second of its reader's time. */
async function second(): Promise<number> {
  const before = position();
  await act(() => settle(1_000));
  return position() - before;
}

test("it plays at the speed that is chosen, and stands still when it pauses", async () => {
  show(<ReplayScreen id="e1" />, "#/tasks/e1/replay");
  await act(() => settle(300));
  const speed = screen.getByLabelText("Speed") as HTMLSelectElement;
  expect([...speed.options].map((one) => one.value)).toEqual(["0.5", "1", "2", "4", "8", "16"]);
  for (const times of ["0.5", "1", "4", "16"]) {
    fireEvent.change(speed, { target: { value: times } });
    const played = await second();
    expect(Math.abs(played - Number(times) * 1_000)).toBeLessThan(Number(times) * 50 + 60);
  }
  fireEvent.click(screen.getByLabelText("Pause"));
  expect(await second()).toBe(0);
  fireEvent.keyDown(document.body, { key: "End" });
  expect(position()).toBeGreaterThanOrEqual(SECONDS * 1_000);
  expect(document.querySelector(".transcript")?.textContent).toContain(`second ${SECONDS}`);
  fireEvent.keyDown(document.body, { key: "Home" });
  expect(position()).toBe(0);
  expect(document.querySelector(".transcript")?.textContent).not.toContain("second 1\n");
  fireEvent.keyDown(document.body, { key: "ArrowRight" });
  expect(position()).toBe(5_000);
});

test("it starts at the second that the address names, though that arrives in a later piece", async () => {
  const whole = said.map((one) => `${JSON.stringify(one)}\n`);
  let rest = (): void => undefined;
  page((url) => {
    if (url.pathname.endsWith("/status")) return task(1, { last_sequence: said.length });
    return new ReadableStream({
      start(controller) {
        const put = (lines: string[]) => controller.enqueue(new TextEncoder().encode(lines.join("")));
        put(whole.slice(0, 5));
        rest = () => {
          put(whole.slice(5));
          controller.close();
        };
      },
    });
  });
  show(<ReplayScreen id="e1" />, "#/tasks/e1/replay?t=40");
  await act(() => settle(300));
  expect(position()).toBe(4_000);
  rest();
  await act(() => settle(300));
  expect(position()).toBe(40_000);
});
