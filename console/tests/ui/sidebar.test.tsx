// @vitest-environment jsdom
import { screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test } from "vitest";
import { About } from "../../src/execution/sidebar";
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
