import { readFileSync } from "node:fs";
import { afterEach, expect, test, vi } from "vitest";
import { Gateway } from "../../src/client/gateway";

interface Operation {
  readonly parameters?: readonly { readonly name: string; readonly in: string }[];
  readonly requestBody?: { readonly content: Record<string, { readonly schema: { readonly $ref?: string } }> };
}
interface Document {
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, { readonly properties?: object }> };
}
const document = JSON.parse(readFileSync("../schemas/openapi.json", "utf8")) as Document;

/** Every operation, and where it takes the project. */
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => {
    const schema = operation.requestBody?.content["application/json"]?.schema.$ref?.split("/").at(-1) ?? "";
    const inBody = "project_id" in (document.components.schemas[schema]?.properties ?? {});
    const inQuery = operation.parameters?.some((one) => one.in === "query" && one.name === "project_id") ?? false;
    return { method: method.toUpperCase(), path, inBody, inQuery };
  }),
);

interface Sent {
  readonly url: URL;
  readonly body: Record<string, unknown> | null;
}

/** What is sent from now on; `answer` answers it. */
function sent(answer: (url: URL) => unknown = () => ({})): Sent[] {
  const all: Sent[] = [];
  vi.stubGlobal("fetch", async (address: string, init: RequestInit) => {
    const url = new URL(address);
    all.push({ url, body: init.body ? (JSON.parse(String(init.body)) as Record<string, unknown>) : null });
    return new Response(JSON.stringify(answer(url)));
  });
  return all;
}
const gateway = new Gateway("http://gateway", { project: "web" });

afterEach(() => {
  vi.unstubAllGlobals();
});

test.each(operations)("$method $path gets the project where it takes one", async ({ method, path, ...takes }) => {
  const calls = sent();
  await gateway.call(method, path.replace(/\{\w+\}/g, "x"), takes.inBody ? { body: {} } : {});
  expect([calls[0]?.url.searchParams.get("project_id"), calls[0]?.body?.["project_id"]]).toEqual([
    takes.inQuery ? "web" : null,
    takes.inBody ? "web" : undefined,
  ]);
});

test("a project that the caller names is the one that is sent, once", async () => {
  const calls = sent();
  await gateway.call("POST", "/schedules", { body: { project_id: "shop" } });
  await gateway.call("GET", "/usage", { query: { project_id: "shop" } });
  expect(calls.map(({ url, body }) => [url.search, body])).toEqual([
    ["", { project_id: "shop" }],
    ["?project_id=shop", null],
  ]);
});

test("all sessions are listed, page by page, each once", async () => {
  const calls = sent((url) =>
    url.searchParams.has("cursor")
      ? { items: [{ session_id: "s-1" }, { session_id: "s-2" }], next: null }
      : { items: [{ session_id: "s-1" }], next: "c" },
  );
  expect((await gateway.listSessions()).map((one) => one.session_id)).toEqual(["s-1", "s-2"]);
  expect(calls.map(({ url }) => [url.searchParams.get("limit"), url.searchParams.get("cursor")])).toEqual([
    ["500", null],
    ["500", "c"],
  ]);
});

test("ids need no secure context", async () => {
  const { getRandomValues } = crypto;
  vi.stubGlobal("crypto", { getRandomValues: getRandomValues.bind(crypto) });
  const calls = sent(() => ({ execution_id: "e" }));
  await gateway.submit({ prompt: "Do it" });
  await gateway.submit({ prompt: "Do it" });
  const [one, other] = calls.map(({ body }) => body?.["execution_id"]);
  expect(one).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(one).not.toBe(other);
});

test("every call of a watch names the project", async () => {
  const asked: string[] = [];
  const note = (url: URL): void => {
    asked.push(`${url.pathname.split("/").at(-1)} ${url.searchParams.get("project_id")}`);
  };
  let opened = false;
  vi.stubGlobal("fetch", async (address: string) => {
    const url = new URL(address);
    note(url);
    if (url.pathname.endsWith("/output")) return new Response("");
    if (url.pathname.endsWith("/token")) return new Response("{}", { status: 503 }); // no NATS: the WebSocket is used
    return new Response(JSON.stringify({ status: opened ? "completed" : "running", last_sequence: 0 }));
  });
  class Socket {
    onopen = (): void => undefined;
    onclose = (_event: { code: number }): void => undefined;
    constructor(url: string) {
      note(new URL(url));
      opened = true;
      setTimeout(() => this.onopen());
      setTimeout(() => this.onclose({ code: 1000 }), 10);
    }
    close(): void {}
  }
  vi.stubGlobal("WebSocket", Socket);
  for await (const _ of gateway.watch("e-1"));
  expect([...new Set(asked)].sort()).toEqual(["output web", "status web", "stream web", "token web"]);
});

test.each([409, 422])("a watch that the gateway refuses with %d throws and does not ask again", async (status) => {
  const fetch = vi.fn(async () => new Response(JSON.stringify({ detail: "say which project" }), { status }));
  vi.stubGlobal("fetch", fetch);
  await expect(gateway.watch("e-1").next()).rejects.toMatchObject({ status, message: "say which project" });
  expect(fetch).toHaveBeenCalledTimes(1);
});
