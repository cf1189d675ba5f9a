// @vitest-environment jsdom
import { act, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { TranscriptView } from "../../src/execution/transcript-view";
import type { Execution } from "../../src/execution/use-execution";
import { Transcript } from "../../src/model/transcript";
import { asText } from "../../src/model/transcript-as-text";
import type { Chunk } from "../../src/stream";
import { chunk } from "../stream/helpers";
import { leave, page, settle, task } from "./page";

const written: string[] = [];

beforeEach(() => {
  vi.useFakeTimers();
  page(() => "");
  written.length = 0;
  vi.stubGlobal("navigator", { clipboard: { writeText: async (text: string) => written.push(text) } });
});
afterEach(leave);

const tool = (call_id: string, command: string, output: string, exit_code: number): Partial<Chunk>[] => [
  { type: "tool_call", data: command, detail: { call_id, tool: "bash", title: command, input: { command } } },
  { type: "tool_result", data: output, detail: { call_id, tool: "bash", ok: exit_code === 0, exit_code } },
];

const SAID: Partial<Chunk>[] = [
  { type: "text", data: "I look at the needle first.\n\n", detail: { part_id: "a" } },
  ...tool("c1", "ls", "one file of hay", 0),
  ...tool("c2", "make", "broken needle", 2),
  { type: "stderr", data: "a warning\n" },
  { type: "text", data: "The last NEEDLE.\n\n", detail: { part_id: "b" } },
];

function show(): Transcript {
  const chunks = SAID.map((one, at) => chunk(at + 1, one));
  const transcript = new Transcript();
  transcript.push(chunks);
  const stream = { state: "ended", transport: null, error: null, retryAt: null, sequence: chunks.length } as const;
  const execution: Execution = {
    task: task(1),
    error: null,
    stream,
    chunks,
    transcript,
    version: 1,
    refresh: () => undefined,
    reconnect: () => undefined,
  };
  render(<TranscriptView id="e1" execution={execution} task={task(1)} ended={true} onFile={() => undefined} />);
  return transcript;
}

const rows = (): string[] => [...document.querySelectorAll(".row > *")].map((one) => one.className);
const folds = (): (string | null)[] =>
  [...document.querySelectorAll(".row-tool .fold")].map((one) => one.getAttribute("aria-expanded"));

test("a tool call is folded to its line; one that failed is open; both open and close", () => {
  show();
  expect(folds()).toEqual(["false", "true"]);
  expect(screen.queryByText("one file of hay")).toBeNull();
  expect(screen.getByText("broken needle")).toBeTruthy();
  const [first, second] = document.querySelectorAll(".row-tool .fold");
  fireEvent.click(first as Element);
  fireEvent.click(second as Element);
  expect(folds()).toEqual(["true", "false"]);
  expect(screen.getByText("one file of hay")).toBeTruthy();
  expect(screen.queryByText("broken needle")).toBeNull();
});

test("the filter shows a severity and everything above", () => {
  show();
  expect(rows()).toEqual(["row-text", "row-tool ok", "row-tool failed", "row-output stderr", "row-text"]);
  fireEvent.click(screen.getByLabelText("Warnings"));
  expect(rows()).toEqual(["row-tool failed", "row-output stderr"]);
  fireEvent.click(screen.getByLabelText("Errors"));
  expect(rows()).toEqual(["row-tool failed"]);
  fireEvent.click(screen.getByLabelText("All"));
  expect(rows()).toHaveLength(5);
});

test("search counts what has the words, goes from match to match and round, and opens what was folded", () => {
  show();
  const input = screen.getByLabelText("Search the output");
  const count = (): string | null => document.querySelector(".search-count")?.textContent ?? null;
  fireEvent.change(input, { target: { value: "needle" } });
  expect(count()).toBe("1/3");
  fireEvent.keyDown(input, { key: "Enter" });
  expect(count()).toBe("2/3");
  fireEvent.keyDown(input, { key: "Enter" });
  fireEvent.keyDown(input, { key: "Enter" });
  expect(count()).toBe("1/3");
  fireEvent.keyDown(input, { key: "Enter", shiftKey: true });
  expect(count()).toBe("3/3");
  fireEvent.change(input, { target: { value: "hay" } });
  expect(count()).toBe("1/1");
  expect(screen.getByText("one file of hay")).toBeTruthy();
  fireEvent.change(input, { target: { value: "camel" } });
  expect(count()).toBe("none");
  fireEvent.keyDown(input, { key: "Escape" });
  expect(count()).toBeNull();
  fireEvent.keyDown(document.body, { key: "/" });
  expect(document.activeElement).toBe(input);
});

test("copy takes what is shown, and says that it did", async () => {
  const transcript = show();
  const copy = screen.getByLabelText("Copy the transcript");
  fireEvent.click(copy);
  await act(settle);
  expect(written).toEqual([asText(transcript.rows)]);
  expect(copy.textContent).toBe("Copied");
  fireEvent.click(screen.getByLabelText("Errors"));
  fireEvent.click(copy);
  await act(settle);
  expect(written[1]).toBe("> bash make [failed with 2]\nbroken needle\n");
  fireEvent.click(screen.getByLabelText("Copy output"));
  await act(settle);
  expect(written[2]).toBe("broken needle");
  await act(() => settle(2_000));
  expect(copy.textContent).toBe("");
});
