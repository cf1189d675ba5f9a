// @vitest-environment jsdom
import { fireEvent, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { SubmitScreen } from "../../src/screens/submit";
import { leave, page, show } from "./page";

const sent: Record<string, unknown>[] = [];

beforeEach(() => {
  sent.length = 0;
  page((url, init) => {
    if (url.pathname.endsWith("/models")) return { models: [] };
    sent.push(JSON.parse(String(init.body)) as Record<string, unknown>);
    const errors = [{ field: "secrets.TRACKER.url", message: "must be a URL" }];
    return [422, { title: "Invalid", status: 422, errors }];
  });
});
afterEach(leave);

test("a secret is typed, sent, refused at its place, and its value is remembered nowhere", async () => {
  show(<SubmitScreen />, "#/new");
  fireEvent.change(screen.getByLabelText("What is to be done?"), { target: { value: "Look" } });
  fireEvent.change(screen.getByLabelText("Setup script"), { target: { value: "npm ci" } });
  fireEvent.click(screen.getByText("Add a secret"));
  fireEvent.change(screen.getByLabelText("Name"), { target: { value: "TRACKER" } });
  fireEvent.change(screen.getByLabelText("Value"), { target: { value: "tok-0123456789" } });
  expect(screen.getByLabelText("Value").getAttribute("type")).toBe("password");
  fireEvent.click(screen.getByText("Run"));
  await waitFor(() => expect(screen.getByText("must be a URL")).toBeTruthy());
  expect(sent[0]?.["setup"]).toEqual({ run: "npm ci" });
  expect(Object.keys(sent[0]?.["secrets"] as object)).toEqual(["TRACKER"]);
  expect(JSON.stringify({ ...sessionStorage, ...localStorage })).not.toContain("tok-");
  fireEvent.click(screen.getByLabelText("Remove secret TRACKER"));
  expect(screen.queryByLabelText("Value")).toBeNull();
});

test("what is typed, and what is attached, while a file is read stays", async () => {
  show(<SubmitScreen />, "#/new");
  const prompt = screen.getByLabelText("What is to be done?") as HTMLTextAreaElement;
  const reads: (() => void)[] = [];
  const file = (name: string): File => {
    const one = new File(["x"], name, { type: "text/plain" });
    const bytes = new Uint8Array([120]).buffer;
    one.arrayBuffer = () => new Promise((resolve) => reads.push(() => resolve(bytes)));
    return one;
  };
  const choose = (...files: File[]) =>
    fireEvent.change(document.querySelector("input[type=file]") as Element, { target: { files } });
  choose(file("first.txt"));
  choose(file("second.txt"));
  fireEvent.change(prompt, { target: { value: "typed meanwhile" } });
  for (const read of reads) read();
  await waitFor(() => expect(screen.getByLabelText("Remove second.txt")).toBeTruthy());
  expect(screen.getByLabelText("Remove first.txt")).toBeTruthy();
  expect(prompt.value).toBe("typed meanwhile");
  const gone = new File(["x"], "gone.txt");
  gone.arrayBuffer = () => Promise.reject(new DOMException("gone", "NotFoundError"));
  choose(gone);
  await waitFor(() => expect(screen.getByRole("alert").textContent).toBe("gone.txt: cannot be read."));
});

test("what was submitted is opened even if this browser's storage is full", async () => {
  const posted: string[] = [];
  page((url) => {
    if (url.pathname.endsWith("/models")) return { models: [] };
    posted.push(url.pathname);
    return [202, { execution_id: "e-1" }];
  });
  show(<SubmitScreen />, "#/new");
  fireEvent.change(screen.getByLabelText("What is to be done?"), { target: { value: "Look" } });
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  fireEvent.click(screen.getByText("Run"));
  await waitFor(() => expect(window.location.hash).toBe("#/tasks/e-1"));
  await waitFor(() => expect(screen.getByText("Run")).toBeTruthy()); // no longer busy: a failure would show by now
  expect(screen.queryByRole("alert")).toBeNull();
  expect(posted).toHaveLength(1);
});
