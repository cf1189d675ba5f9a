// @vitest-environment jsdom
import { screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Reruns } from "../../src/execution/reruns";
import { About, Output } from "../../src/execution/sidebar";
import { leave, page, show, task } from "./page";

beforeEach(() => {
  page(() => "");
});
afterEach(leave);

test.each(["lost", "pending"] as const)("a workspace that is %s is said, with the reason as text", (artifacts) => {
  show(<About task={task(1, { artifacts, artifacts_message: "S3 did not take it\u202e" })} />);
  expect(screen.getByText(/S3 did not take it/).textContent).toMatch(new RegExp(`^${artifacts}: S3 did not take it`));
  expect(screen.getByText(/S3 did not take it/).textContent).not.toContain("\u202e");
});

test.each(["stored", null] as const)("of a workspace that is %s nothing is said", (artifacts) => {
  show(<About task={task(1, { artifacts })} />);
  expect(screen.queryByText("Workspace")).toBeNull();
});

test("a pushed result is shown with a link to its pull request", () => {
  const url = "https://git.example/team/app/pulls/7";
  show(<About task={task(1, { branch: "ocf/fix", commit: "a".repeat(40), pull_request: { number: 7, url } })} />);
  expect(screen.getByRole("link", { name: "#7" }).getAttribute("href")).toBe(url);
  expect(screen.getByText("ocf/fix")).toBeTruthy();
  expect(screen.getByText("aaaaaaaa").getAttribute("title")).toBe("a".repeat(40));
});

test("a pull request whose address is no web page is no link, and the reason of a refusal is text", () => {
  const url = "javascript:alert(1)";
  show(<About task={task(1, { pull_request: { number: 7, url }, result_message: "branch is protected\u202e" })} />);
  expect(screen.queryByRole("link", { name: "#7" })).toBeNull();
  expect(screen.getByText("#7")).toBeTruthy();
  expect(screen.getByText(/branch is protected/).textContent).not.toContain("\u202e");
});

test("the JSON value of a run is shown, and what would turn it around as its code", () => {
  show(<Output value={{ answer: 42, name: "a\u202eb" }} />);
  const text = document.querySelector("pre")?.textContent ?? "";
  expect(text).toContain('"answer": 42');
  expect(text.split("\n")).toHaveLength(4);
  expect(text).not.toContain("\u202e");
});

test("a run without one shows none", () => {
  show(<Output value={undefined} />);
  expect(screen.queryByText("Output")).toBeNull();
});

test("a rerun names its original, and each difference as text", () => {
  const divergences = [
    { call: 12, part: "message 9", text: "was …1 failed\u202e…" },
    { call: 13, part: "tools" },
  ];
  const rerun = { of: "b".repeat(36), calls: 47, divergences, more: 3 };
  show(<Reruns task={task(1, { rerun_of: "b".repeat(36), rerun })} ended />);
  expect(screen.getByRole("link", { name: "bbbbbbbb" }).getAttribute("href")).toContain("b".repeat(36));
  expect(screen.getByText("47 recorded calls, 5 differences")).toBeTruthy();
  expect(screen.getByText("Call 12, message 9")).toBeTruthy();
  expect(screen.getByText(/1 failed/).textContent).not.toContain("\u202e");
  expect(screen.getByText("and 3 more differences")).toBeTruthy();
});

test("an original lists its reruns; an older gateway's list of something else is not taken for them", async () => {
  const original = task(1);
  page((url) =>
    url.pathname.endsWith("/tasks")
      ? { items: [task(2, { rerun_of: original.execution_id, status: "failed" }), task(3)], next: null }
      : "",
  );
  show(<Reruns task={original} ended />);
  const id = task(2).execution_id;
  expect(await screen.findByRole("link", { name: id.slice(0, 8) })).toBeTruthy();
  expect(screen.getAllByRole("link")).toHaveLength(1);
});
