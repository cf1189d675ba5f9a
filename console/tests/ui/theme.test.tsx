// @vitest-environment jsdom
import { cleanup, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { leave, page } from "./page";

beforeEach(() => {
  page(() => "");
});
afterEach(leave);

/** The page as it is after a reload: what it kept is all it knows. */
async function load(): Promise<void> {
  cleanup();
  vi.resetModules();
  delete document.documentElement.dataset.theme;
  const { Rail } = await import("../../src/shell/rail");
  render(<Rail place="/" ready={null} offline={false} />);
}

const colours = (): string | undefined => document.documentElement.dataset.theme;

test("the colours are the system's until others are chosen, and those stay over a reload", async () => {
  await load();
  expect(colours()).toBeUndefined();
  fireEvent.click(screen.getAllByLabelText("Dark")[0] as Element);
  expect(colours()).toBe("dark");
  await load();
  expect(colours()).toBe("dark");
  expect(screen.getAllByLabelText<HTMLInputElement>("Dark")[0]?.checked).toBe(true);
  fireEvent.click(screen.getAllByLabelText("Light")[0] as Element);
  expect(colours()).toBe("light");
  fireEvent.click(screen.getAllByLabelText("Colours of the system")[0] as Element);
  expect(colours()).toBeUndefined();
  await load();
  expect(colours()).toBeUndefined();
});
