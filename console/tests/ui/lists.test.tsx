// @vitest-environment jsdom
import { act, fireEvent, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Task } from "../../src/api/types";
import { DeadLettersScreen } from "../../src/screens/dead-letters";
import { HistoryScreen } from "../../src/screens/history";
import { SessionsScreen } from "../../src/screens/sessions";
import { leave, page, settle, show, task } from "./page";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(leave);

/** The gateway's list, newest first, in parts. */
function list(tasks: Task[]) {
  return (url: URL) => {
    const [limit, after] = [Number(url.searchParams.get("limit")), Number(url.searchParams.get("cursor") ?? 0)];
    const sorted = [...tasks].sort((one, other) => other.submitted_at.localeCompare(one.submitted_at));
    const items = sorted.slice(after, after + limit);
    return { items, next: after + limit < sorted.length ? String(after + limit) : null };
  };
}

function titles(): (string | null)[] {
  return screen.getAllByRole("heading", { level: 3 }).map((one) => one.textContent);
}

function wanted(from: number, to: number): string[] {
  return Array.from({ length: from - to + 1 }, (_, at) => `execution ${from - at}`);
}

test("what is submitted while older ones are shown pushes none out of the list's middle", async () => {
  const tasks = Array.from({ length: 120 }, (_, at) => task(at + 1));
  page(list(tasks));
  show(<HistoryScreen />);
  await act(settle);
  expect(titles()).toEqual(wanted(120, 71));
  fireEvent.click(screen.getByText("Show older executions"));
  await act(settle);
  expect(titles()).toEqual(wanted(120, 21));
  for (let at = 121; at <= 130; at += 1) tasks.push(task(at));
  await act(() => settle(6_500));
  expect(titles()).toEqual(wanted(130, 31));
});

test("an older one that ends is seen to have ended", async () => {
  const tasks = Array.from({ length: 60 }, (_, at) => task(at + 1, at === 0 ? { status: "running" } : {}));
  page(list(tasks));
  show(<HistoryScreen />);
  await act(settle);
  fireEvent.click(screen.getByText("Show older executions"));
  await act(settle);
  expect(screen.getByText("60 executions, no older ones")).toBeTruthy();
  expect(document.querySelectorAll(".card .spinner")).toHaveLength(1);
  tasks[0] = task(1, { status: "completed" });
  await act(() => settle(6_500));
  expect(document.querySelectorAll(".card .spinner")).toHaveLength(0);
});

test("more than the gateway gives at once is read in parts", { timeout: 60_000 }, async () => {
  const asked = page(list(Array.from({ length: 600 }, (_, at) => task(at + 1))));
  show(<HistoryScreen />);
  await act(settle);
  for (let clicks = 0; clicks < 10; clicks += 1) {
    fireEvent.click(screen.getByText("Show older executions"));
    await act(settle);
  }
  expect(titles()).toEqual(wanted(600, 51));
  expect(asked.slice(-2).map((url) => url.search)).toEqual(["?limit=500", "?limit=50&cursor=500"]);
});

test("the filters are what is asked for, and what the address says", async () => {
  const asked = page(list([task(1)]));
  show(<HistoryScreen />);
  await act(settle);
  fireEvent.change(screen.getByLabelText("Label"), { target: { value: "team=shop" } });
  await act(() => settle(400));
  fireEvent.change(screen.getByLabelText("Time"), { target: { value: "hour" } });
  await act(settle);
  const since = asked.at(-1)?.searchParams.get("since") ?? "";
  expect(asked.at(-1)?.searchParams.get("label")).toBe("team=shop");
  expect(Math.abs(Date.now() - 3_600_000 - Date.parse(since))).toBeLessThan(61_000);
  expect(window.location.hash).toBe("#/?label=team%3Dshop&time=hour");
  fireEvent.change(screen.getByLabelText("Time"), { target: { value: "range" } });
  await act(settle);
  fireEvent.change(screen.getByLabelText("From"), { target: { value: "2026-01-01T00:00" } });
  await act(settle);
  fireEvent.change(screen.getByLabelText("Until"), { target: { value: "2026-01-02T00:00" } });
  await act(settle);
  expect(asked.at(-1)?.searchParams.get("since")).toBe(new Date("2026-01-01T00:00").toISOString());
  expect(asked.at(-1)?.searchParams.get("until")).toBe(new Date("2026-01-02T00:00").toISOString());
  fireEvent.click(screen.getByText("Clear"));
  await act(settle);
  expect(asked.at(-1)?.search).toBe("?limit=50");
});

test("a page of dead letters says that it is not all of them, and gets the rest", async () => {
  const letters = Array.from({ length: 130 }, (_, at) => ({ seq: at + 1, reason: `broken ${at + 1}` }));
  page((url) => {
    const after = Number(url.searchParams.get("after") ?? 0);
    const items = letters.filter((one) => one.seq > after).slice(0, Number(url.searchParams.get("limit")));
    const last = items.at(-1)?.seq ?? 0;
    return last < letters.length ? { items, next: last } : { items };
  });
  show(<DeadLettersScreen />);
  await act(settle);
  expect(document.querySelectorAll(".letter")).toHaveLength(100);
  expect(screen.getByText(/More than 100 events could not be handled/)).toBeTruthy();
  fireEvent.click(screen.getByText("Show later ones"));
  await act(settle);
  expect(document.querySelectorAll(".letter")).toHaveLength(130);
  expect(screen.getByText(/^130 events could not be handled/)).toBeTruthy();
});

test("a session leads to the turn that runs, to the next one, and says what destroying it removes", async () => {
  page(() => ({
    items: [{ session_id: "5e55", project_id: "shop", queue: ["e2", "e3"], executions: ["e1", "e2", "e3"] }],
  }));
  show(<SessionsScreen />);
  await act(settle);
  const address = (name: string) => screen.getByText(name).getAttribute("href");
  expect(address("watch what runs")).toBe("#/tasks/e2");
  expect(address("last execution")).toBe("#/tasks/e1");
  expect(address("Follow up")).toBe("#/new?session=5e55&project=shop");
  expect(screen.getByText("1 waiting")).toBeTruthy();
  fireEvent.click(screen.getByLabelText("Destroy this session"));
  expect(screen.getByText(/every execution that was made in it are removed for good/)).toBeTruthy();
});

test("what is typed keeps its spaces, and the address is written once", async () => {
  page(list([task(1)]));
  show(<HistoryScreen />);
  await act(settle);
  const written = vi.spyOn(window.history, "replaceState");
  const title = screen.getByLabelText("Title") as HTMLInputElement;
  fireEvent.change(title, { target: { value: "fix " } });
  await act(() => settle(400));
  expect(title.value).toBe("fix ");
  expect(window.location.hash).toBe("#/?q=fix");
  await act(() => settle(5_000));
  expect(written).toHaveBeenCalledOnce();
  fireEvent.click(screen.getByText("Clear"));
  await act(settle);
  expect(title.value).toBe("");
});

test("sessions beyond the newest hundred are shown", async () => {
  const sessions = Array.from({ length: 130 }, (_, at) => ({ session_id: `s-${at}`, project_id: "shop" }));
  page((url) => {
    const after = Number(url.searchParams.get("cursor") ?? 0);
    const end = after + Number(url.searchParams.get("limit") ?? 100);
    return { items: sessions.slice(after, end), next: end < sessions.length ? String(end) : null };
  });
  show(<SessionsScreen />);
  await act(settle);
  const shown = document.querySelectorAll(".card").length;
  expect(shown).toBeLessThan(130);
  for (let clicks = 0; screen.queryByText("Show older sessions") && clicks < 5; clicks += 1) {
    fireEvent.click(screen.getByText("Show older sessions"));
    await act(settle);
  }
  expect(document.querySelectorAll(".card")).toHaveLength(130);
});
