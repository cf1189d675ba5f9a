import { type Chunk, watchExecution } from "../stream";
import { refusal } from "../stream/gateway-requests";
import type * as api from "./api-types";
import { chunksOf } from "./chunk-iterator";
import { randomId } from "./random-id";

/** Who calls, and for which project. */
export interface GatewayOptions {
  /** The caller's bearer token, or what returns it at each call; none for a gateway on this machine. */
  readonly token?: string | (() => string | null);
  /** Project of all calls; `default` unless given. */
  readonly project?: string;
}

export type Download = "output" | "diff" | "files" | "events";
type Query = Readonly<Record<string, string | number | boolean | undefined>>;
/** A rule as the gateway lists it, with its matches. */
export type ListedRule = api.Rule & Readonly<Record<string, unknown>>;
/** Record of a session. */
export type SessionRecord = Readonly<Record<string, unknown>> & { readonly session_id: string };

// Where operations take the project, other than in the query. tests/client/gateway.test.ts holds both against OpenAPI.
/** Nowhere: they have no project, or have it in their path. */
const WITHOUT_PROJECT = /^\/(models|health|ready|metrics|dlq)(\/|$)|^\/(events|hooks)\/./;
const PROJECT_IN_BODY = /^POST \/(tasks\/execute|sessions|credentials|hooks|triggers|schedules)$/;
/** The most sessions that the gateway gives at once. */
const MOST_SESSIONS = 500;

/**
 * Tasks, sessions and rules of one project over HTTP.
 *
 * Every method throws `Refused` with the gateway's message, and `TypeError` as `fetch` when no gateway answers.
 */
export class Gateway {
  readonly #base: string;
  readonly #project: string;
  readonly #token: () => string | null;

  /** @param url address of the gateway, `""` for the page's own origin */
  constructor(url: string, { token, project = "default" }: GatewayOptions = {}) {
    this.#base = url.replace(/\/+$/, "");
    this.#project = project;
    this.#token = typeof token === "function" ? token : () => token ?? null;
  }

  /** Submits a task; returns its execution id. The same `execution_id` with the same task is one execution. */
  async submit(task: api.ExecuteTask): Promise<string> {
    const body = { execution_id: randomId(), ...task };
    return (await this.#json<api.Submitted>("POST", "/tasks/execute", { body })).execution_id;
  }

  /** The state of an execution, without its output. */
  status(execution: string): Promise<api.TaskStatus> {
    return this.#json("GET", this.#task(execution, "/status"));
  }

  /** A page of the history, newest first; the filters are those of `GET /tasks`. */
  listTasks(filters: Query = {}): Promise<api.TaskPage> {
    return this.#json("GET", "/tasks", { query: filters });
  }

  /**
   * The output from sequence `from` until the execution ends, each chunk once, over lost connections.
   *
   * @param options `signal` gives up, with its reason: a gateway that is away is waited for
   */
  watch(execution: string, options: { from?: number; signal?: AbortSignal } = {}): AsyncGenerator<Chunk> {
    const { from = 1, signal } = options;
    const access = { token: this.#token, project: this.#project };
    return chunksOf((onChunks) => watchExecution(this.#base, execution, { from, onChunks, ...access }), signal);
  }

  /** The output (NDJSON), the patch, the list of files, or the events of an execution, as an answer to read. */
  download(execution: string, what: Download, query: Query = {}): Promise<Response> {
    return this.#call("GET", this.#task(execution, `/${what}`), { query, accept: "*/*" });
  }

  /** Cancels an execution in any state. It is cancelled when `status` says so. */
  async cancel(execution: string, why?: string): Promise<void> {
    await this.#call("POST", this.#task(execution, "/cancel"), why === undefined ? {} : { body: { why } });
  }

  /** Runs an ended execution again from its recording; returns the new execution id. */
  async rerun(execution: string, options: api.RunAgain = {}): Promise<string> {
    const path = this.#task(execution, "/rerun");
    return (await this.#json<api.RerunSubmitted>("POST", path, { body: options })).execution_id;
  }

  /** Cancels an execution if it runs, then removes every trace. */
  async delete(execution: string): Promise<void> {
    await this.#call("DELETE", this.#task(execution));
  }

  /** Answers a permission or question of the agent. */
  async reply(execution: string, requestId: string, answer: string): Promise<void> {
    await this.#call("POST", this.#task(execution, `/replies/${encodeURIComponent(requestId)}`), { body: { answer } });
  }

  /** Creates a session; returns its id. Tasks join it with `session_id`. */
  async createSession(session: api.CreateSession = {}): Promise<string> {
    return (await this.#json<SessionRecord>("POST", "/sessions", { body: session })).session_id;
  }

  getSession(session: string): Promise<SessionRecord> {
    return this.#json("GET", this.#session(session));
  }

  /** All sessions of the project, newest first. */
  async listSessions(): Promise<readonly SessionRecord[]> {
    const all = new Map<string, SessionRecord>(); // the newest may be in two pages
    let cursor: string | undefined;
    do {
      const query = { limit: MOST_SESSIONS, cursor };
      const page = await this.#json<{ items: SessionRecord[]; next?: string | null }>("GET", "/sessions", { query });
      for (const session of page.items) all.set(session.session_id, all.get(session.session_id) ?? session);
      cursor = page.next ?? undefined;
    } while (cursor !== undefined);
    return [...all.values()];
  }

  /** Attaches a client, which prevents expiry of the session. */
  async attachSession(session: string, clientId: string | null = null): Promise<void> {
    await this.#call("POST", this.#session(session, "/attach"), { body: { client_id: clientId } });
  }

  /** Detaches a client; the session stays. */
  async detachSession(session: string, clientId: string | null = null): Promise<void> {
    await this.#call("POST", this.#session(session, "/detach"), { body: { client_id: clientId } });
  }

  /** Cancels the executions of a session and removes all its data. */
  async destroySession(session: string): Promise<void> {
    await this.#call("DELETE", this.#session(session));
  }

  /** Stores a rule, or replaces the one of its name. */
  async putTrigger(rule: api.Rule): Promise<void> {
    await this.#call("POST", "/triggers", { body: rule });
  }

  async listTriggers(): Promise<readonly ListedRule[]> {
    return (await this.#json<{ triggers: ListedRule[] }>("GET", "/triggers")).triggers;
  }

  /** The submits that a rule would publish for a CloudEvent; nothing is published. */
  testTrigger(name: string, event: Readonly<Record<string, unknown>>): Promise<api.Submits> {
    return this.#json("POST", `/triggers/${encodeURIComponent(name)}/test`, { body: event });
  }

  /** Removes a rule. Executions that it started go on. */
  async deleteTrigger(name: string): Promise<void> {
    await this.#call("DELETE", `/triggers/${encodeURIComponent(name)}`);
  }

  /** Publishes a CloudEvent of another system, for the rules of the project. */
  publishEvent(event: Readonly<Record<string, unknown>>): Promise<api.Published> {
    return this.#json("POST", "/events", { body: event, type: "application/cloudevents+json" });
  }

  /** Any other call of the REST API, with the project where it takes one; `body` is sent as JSON. */
  async call<T>(method: string, path: string, given: { body?: unknown; query?: Query } = {}): Promise<T> {
    return this.#json<T>(method, path, given);
  }

  #task(execution: string, rest = ""): string {
    return `/tasks/${encodeURIComponent(execution)}${rest}`;
  }

  #session(session: string, rest = ""): string {
    return `/sessions/${encodeURIComponent(session)}${rest}`;
  }

  async #json<T>(method: string, path: string, given: Given = {}): Promise<T> {
    const text = await (await this.#call(method, path, given)).text();
    return (text === "" ? undefined : JSON.parse(text)) as T;
  }

  async #call(method: string, path: string, given: Given = {}): Promise<Response> {
    const search = new URLSearchParams();
    const project = { project_id: this.#project };
    const inBody = PROJECT_IN_BODY.test(`${method} ${path}`);
    const content = inBody ? { ...project, ...(given.body as object | undefined) } : given.body;
    const query = inBody || WITHOUT_PROJECT.test(path) ? given.query : { ...project, ...given.query };
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) search.append(name, String(value));
    }
    const headers = new Headers({ Accept: given.accept ?? "application/json" });
    const token = this.#token();
    if (token) headers.set("Authorization", `Bearer ${token}`);
    if (content !== undefined) headers.set("Content-Type", given.type ?? "application/json");
    const body = content === undefined ? null : JSON.stringify(content);
    const response = await fetch(`${this.#base}${path}?${search}`, { method, headers, body, cache: "no-store" });
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

interface Given {
  readonly body?: unknown;
  readonly query?: Query;
  readonly accept?: string;
  readonly type?: string;
}
