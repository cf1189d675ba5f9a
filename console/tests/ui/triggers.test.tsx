// @vitest-environment jsdom
import { act, fireEvent, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { AccessScreen } from "../../src/screens/credentials-and-hooks";
import { SchedulesScreen } from "../../src/screens/schedules";
import { TriggersScreen } from "../../src/screens/triggers";
import { leave, page, settle, show } from "./page";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(leave);

const RULE = { name: "fix", on: { type: "org.example.*" }, task: { prompt: "go" }, matched: 2, refused: [] };

/** What was sent, beside the answers to the page's own calls. */
function sending(lists: Record<string, unknown>, answer: (url: URL) => unknown = () => ({})) {
  const sent: { path: string; method: string; body: unknown }[] = [];
  page((url, init) => {
    const place = url.pathname.split("/")[1] ?? "";
    if (!init.method) return { [place]: lists[place] ?? [] };
    const body = init.body ? JSON.parse(String(init.body)) : undefined;
    sent.push({ path: url.pathname + url.search, method: init.method, body });
    return answer(url);
  });
  return sent;
}

test("a rule is edited without what the gateway adds to it, in the project of the address", async () => {
  const sent = sending({ triggers: [{ ...RULE, polled: null }] });
  show(<TriggersScreen />, "#/triggers?project=shop");
  await act(settle);
  fireEvent.click(screen.getByText("Edit"));
  fireEvent.click(screen.getByText("Apply"));
  await act(settle);
  const { matched: _, refused: __, ...stored } = RULE;
  expect(sent).toEqual([{ path: "/triggers", method: "POST", body: { project_id: "shop", ...stored } }]);
});

test("each wrong field of a rule is named, and what is no JSON is not sent", async () => {
  const errors = [{ field: "on.where", message: "uses all()" }];
  const sent = sending({}, () => [422, { detail: "1 field is wrong", errors }]);
  show(<TriggersScreen />);
  await act(settle);
  fireEvent.click(screen.getByText("New rule"));
  fireEvent.change(screen.getByLabelText("Rule"), { target: { value: "name: fix" } });
  fireEvent.click(screen.getByText("Apply"));
  await act(settle);
  expect(screen.getByText(/This is no JSON/)).toBeTruthy();
  expect(sent).toEqual([]);
  fireEvent.change(screen.getByLabelText("Rule"), { target: { value: '{"name": "fix"}' } });
  fireEvent.click(screen.getByText("Apply"));
  await act(settle);
  expect(screen.getByText("on.where: uses all()")).toBeTruthy();
});

test("an event says what each rule decided, and a test why a rule does not match", async () => {
  const rules = [
    { rule: "fix", mismatch: null, execution_id: "e1", started: true },
    { rule: "other", mismatch: "type is a, not b" },
  ];
  const sent = sending({ triggers: [RULE], events: [{ id: "1", type: "a", source: "s", rules }] }, () => ({
    submits: [],
    mismatch: "where is false",
  }));
  show(<TriggersScreen />);
  await act(settle);
  expect(screen.getByText("fix started").getAttribute("href")).toBe("#/tasks/e1");
  fireEvent.click(screen.getByText("a"));
  expect(screen.getByText(/type is a, not b/)).toBeTruthy();
  fireEvent.click(screen.getByText("Test"));
  fireEvent.click(screen.getByText("Test it"));
  await act(settle);
  expect(sent[0]?.path).toBe("/triggers/fix/test");
  expect(screen.getByText(/where is false/)).toBeTruthy();
});

test("a schedule shows its next runs by its own clock, is paused and created", async () => {
  const upcoming = ["2026-01-05T05:00:00+00:00"];
  const schedule = { name: "nightly", cron: "0 6 * * *", timezone: "Europe/Berlin", overlap: "skip", upcoming };
  const sent = sending({ schedules: [schedule] });
  show(<SchedulesScreen />);
  await act(settle);
  expect(screen.getByText(/Next: Mon, Jan 5, 06:00/)).toBeTruthy();
  fireEvent.click(screen.getByText("Pause"));
  await act(settle);
  fireEvent.click(screen.getByText("New schedule"));
  fireEvent.change(screen.getByLabelText("Name"), { target: { value: "weekly" } });
  fireEvent.change(screen.getByLabelText("What is to be done?"), { target: { value: "tidy up" } });
  fireEvent.click(screen.getByText("Create"));
  await act(settle);
  const body = { name: "weekly", cron: "0 6 * * 1-5", overlap: "skip", task: { prompt: "tidy up" } };
  expect(sent).toEqual([
    { path: "/schedules/nightly/pause", method: "POST", body: undefined },
    { path: "/schedules", method: "POST", body },
  ]);
});

test("a secret is shown once, and nothing of it stays on the page", async () => {
  const made = { url: "https://ocf.example/hooks/default/github", secret: "s3cr3t" };
  const sent = sending({}, () => made);
  show(<AccessScreen />);
  await act(settle);
  fireEvent.click(screen.getByText("New hook"));
  fireEvent.click(screen.getByText("Create"));
  await act(settle);
  expect(sent).toEqual([{ path: "/hooks", method: "POST", body: { kind: "github" } }]);
  expect(screen.getByText("s3cr3t")).toBeTruthy();
  fireEvent.click(screen.getByText("I have it"));
  expect(document.body.textContent).not.toContain("s3cr3t");
});

test("a token goes to the gateway and leaves the page", async () => {
  const sent = sending({});
  show(<AccessScreen />);
  await act(settle);
  fireEvent.click(screen.getByText("New credential"));
  fireEvent.change(screen.getByLabelText("Name"), { target: { value: "bot" } });
  fireEvent.change(screen.getByLabelText("Token"), { target: { value: "ghp_0123456789" } });
  fireEvent.click(screen.getByText("Create"));
  await act(settle);
  expect(sent[0]?.body).toEqual({ name: "bot", forge: "github", token: "ghp_0123456789" });
  expect(screen.queryByLabelText("Token")).toBeNull();
});
