import type {
  Comparison,
  Credential,
  DeadLetter,
  FieldError,
  Hook,
  InboxEvent,
  ModelFacts,
  NewHook,
  Page,
  Problem,
  Readiness,
  Rule,
  Schedule,
  Session,
  Task,
  UsageReport,
} from "./types";

const TOKEN_KEY = "ocf.token";

/** A call that failed. `status` 0: the gateway could not be reached. */
export class ApiError extends Error {
  override name = "ApiError";

  constructor(
    message: string,
    readonly status: number,
    readonly errors: readonly FieldError[] = [],
  ) {
    super(message);
  }

  get offline(): boolean {
    return this.status === 0;
  }
}

/** The bearer token lives as long as the tab: a token in longer storage outlives its owner's attention. */
export function bearer(): string | null {
  return sessionStorage.getItem(TOKEN_KEY);
}

export function setBearer(token: string | null): void {
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
  else sessionStorage.removeItem(TOKEN_KEY);
  for (const listener of bearerListeners) listener();
}

const bearerListeners = new Set<() => void>();

/** Calls `changed` whenever another token is set, until the returned function is called. */
export function onBearer(changed: () => void): () => void {
  bearerListeners.add(changed);
  return () => bearerListeners.delete(changed);
}

/** Where the gateway is: the folder the page came from, so that it works below any path of a proxy. */
export const BASE = new URL(".", globalThis.location?.href ?? "http://127.0.0.1/").href.replace(/\/$/, "");

/** Who wants to know how calls fare: `refused` when the gateway asks for a token, `reached` after every call. */
export const listening = {
  refused: (_why: string): void => undefined,
  reached: (_whether: boolean): void => undefined,
};

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = bearer();
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (typeof init.body === "string") headers.set("Content-Type", "application/json");
  headers.set("Accept", headers.get("Accept") ?? "application/json");
  let response: Response;
  try {
    response = await fetch(BASE + path, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if ((error as Error).name === "AbortError") throw error;
    listening.reached(false);
    throw new ApiError("The gateway cannot be reached.", 0);
  }
  listening.reached(true);
  if (response.ok) return response;
  const problem = (await response.json().catch(() => ({}))) as Problem;
  const message = problem.detail ?? problem.title ?? `The gateway answered ${response.status}.`;
  // One that was sent before the present token was set says nothing about it.
  if (response.status === 401 && token === bearer()) listening.refused(message);
  throw new ApiError(message, response.status, problem.errors ?? []);
}

async function json<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await request(path, init)).json()) as T;
}

const post = (body?: unknown): RequestInit => ({
  method: "POST",
  ...(body === undefined ? {} : { body: JSON.stringify(body) }),
});

function query(values: Record<string, string | number | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== "") search.append(name, String(value));
  }
  const text = search.toString();
  return text ? `?${text}` : "";
}

export interface TaskFilter {
  readonly project_id?: string;
  readonly q?: string;
  readonly status?: string;
  readonly label?: string;
  readonly since?: string;
  readonly until?: string;
  readonly rerun_of?: string;
  readonly limit?: number;
  readonly cursor?: string | number;
}

export const api = {
  submit: (body: unknown, key: string) =>
    json<{ execution_id: string }>("/tasks/execute", { ...post(body), headers: { "Idempotency-Key": key } }),
  tasks: (filter: TaskFilter, signal?: AbortSignal) => json<Page<Task>>(`/tasks${query({ ...filter })}`, { signal }),
  task: (id: string, signal?: AbortSignal) => json<Task>(`/tasks/${id}/status`, { signal }),
  rerun: (id: string) => json<{ execution_id: string }>(`/tasks/${id}/rerun`, post({})),
  cancel: (id: string, why: string) => request(`/tasks/${id}/cancel`, post({ why })),
  remove: (id: string) => request(`/tasks/${id}`, { method: "DELETE" }),
  reply: (id: string, requestId: string, answer: string) =>
    request(`/tasks/${id}/replies/${encodeURIComponent(requestId)}`, post({ answer })),
  diff: async (id: string, signal?: AbortSignal) =>
    (await request(`/tasks/${id}/diff`, { signal, headers: { Accept: "text/x-diff, text/plain, */*" } })).text(),
  compare: (id: string, other: string, signal?: AbortSignal) =>
    json<Comparison>(`/tasks/${id}/compare/${encodeURIComponent(other)}`, { signal }),
  usage: (group_by: string, from: string, project_id?: string, signal?: AbortSignal) =>
    json<UsageReport>(`/usage${query({ group_by, from, project_id })}`, { signal: signal ?? null }),
  usageCsv: async (group_by: string, from: string, project_id?: string) =>
    (
      await request(`/usage${query({ group_by, from, project_id, format: "csv" })}`, {
        headers: { Accept: "text/csv" },
      })
    ).text(),
  sessions: (limit: number, cursor?: string | number, signal?: AbortSignal) =>
    json<Page<Session>>(`/sessions${query({ limit, cursor })}`, { signal }),
  createSession: (body: unknown) => json<Session>("/sessions", post(body)),
  destroySession: (id: string) => request(`/sessions/${id}`, { method: "DELETE" }),
  deadLetters: (limit: number, after?: string | number, signal?: AbortSignal) =>
    json<Page<DeadLetter>>(`/dlq${query({ limit, after })}`, { signal }),
  deadLetter: (seq: number, signal?: AbortSignal) => json<DeadLetter>(`/dlq/${seq}`, { signal }),
  redrive: (seq: number) => request(`/dlq/${seq}/redrive`, post()),
  drop: (seq: number) => request(`/dlq/${seq}`, { method: "DELETE" }),
  rules: async (project_id?: string, signal?: AbortSignal) =>
    (await json<{ triggers: Rule[] }>(`/triggers${query({ project_id })}`, { signal: signal ?? null })).triggers,
  applyRule: (rule: unknown) => request("/triggers", post(rule)),
  testRule: (name: string, event: unknown, project_id?: string) =>
    json<{ submits: unknown[]; mismatch: string | null }>(
      `/triggers/${name}/test${query({ project_id })}`,
      post(event),
    ),
  removeRule: (name: string, project_id?: string) =>
    request(`/triggers/${name}${query({ project_id })}`, { method: "DELETE" }),
  inbox: async (project_id?: string, signal?: AbortSignal) =>
    (await json<{ events: InboxEvent[] }>(`/events${query({ project_id })}`, { signal: signal ?? null })).events,
  schedules: async (project_id?: string, signal?: AbortSignal) =>
    (await json<{ schedules: Schedule[] }>(`/schedules${query({ project_id })}`, { signal: signal ?? null })).schedules,
  createSchedule: (body: unknown) => request("/schedules", post(body)),
  pauseSchedule: (name: string, paused: boolean, project_id?: string) =>
    request(`/schedules/${name}/${paused ? "pause" : "resume"}${query({ project_id })}`, post()),
  removeSchedule: (name: string, project_id?: string) =>
    request(`/schedules/${name}${query({ project_id })}`, { method: "DELETE" }),
  credentials: async (project_id?: string, signal?: AbortSignal) =>
    (await json<{ credentials: Credential[] }>(`/credentials${query({ project_id })}`, { signal: signal ?? null }))
      .credentials,
  createCredential: (body: unknown) => request("/credentials", post(body)),
  removeCredential: (name: string, project_id?: string) =>
    request(`/credentials/${name}${query({ project_id })}`, { method: "DELETE" }),
  hooks: async (project_id?: string, signal?: AbortSignal) =>
    (await json<{ hooks: Hook[] }>(`/hooks${query({ project_id })}`, { signal: signal ?? null })).hooks,
  createHook: (body: unknown) => json<NewHook>("/hooks", post(body)),
  rotateHook: (hook: Hook) => json<NewHook>(`/hooks/${hook.project_id}/${hook.source}/rotate`, post()),
  removeHook: (hook: Hook) => request(`/hooks/${hook.project_id}/${hook.source}`, { method: "DELETE" }),
  /** 503 is an answer too: it names what is not ready. */
  models: (signal?: AbortSignal): Promise<{ models: ModelFacts[] }> => json("/models", { signal: signal ?? null }),
  ready: async (signal?: AbortSignal): Promise<Readiness> => {
    const response = await fetch(`${BASE}/ready`, { cache: "no-store", signal }).catch(() => null);
    if (!response) throw new ApiError("The gateway cannot be reached.", 0);
    return (await response.json().catch(() => ({}))) as Readiness;
  },
};
