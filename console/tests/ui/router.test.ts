// @vitest-environment jsdom
import { expect, test, vi } from "vitest";

test.each([
  ["#/tasks/%zz", ["tasks", "%zz"]],
  ["#/tasks/a%20b/replay?t=3", ["tasks", "a b", "replay"]],
  ["#/%", ["%"]],
])("the address %s, however broken, leads somewhere", async (hash, path) => {
  window.location.hash = hash;
  vi.resetModules();
  const { useRoute } = await import("../../src/router");
  const { renderHook } = await import("@testing-library/react");
  expect(renderHook(() => useRoute()).result.current.path).toEqual(path);
});
