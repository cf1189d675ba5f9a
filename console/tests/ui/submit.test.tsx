// @vitest-environment jsdom
import { fireEvent, screen, waitFor } from "@testing-library/react";
import { afterEach, beforeEach, expect, test } from "vitest";
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
