import { credsAuthenticator, wsconnect } from "@nats-io/nats-core";
import { natsSocket } from "../stream/connectors";
import type * as events from "./event-data-types";
import { randomId } from "./random-id";

/** The part of a NATS connection that commands need: any of `@nats-io/nats-core` or `@nats-io/transport-node`. */
export interface Connection {
  request(subject: string, payload: string, options: { timeout: number }): Promise<{ readonly data: Uint8Array }>;
}

export interface BackendOptions {
  /** Project of all commands; `default` unless given. */
  readonly project?: string;
  /** `source` of its events. */
  readonly source?: string;
  /** Milliseconds that connecting to NATS, and storing a command, may take; 60,000 unless given. */
  readonly timeoutMs?: number;
}

/** NATS did not store the command. */
export class NotStored extends Error {
  override name = "NotStored";
}

type Ids = "execution_id" | "session_id" | "project_id" | "requested_by";
type Given<T> = Omit<T, Ids>;
type Commands = events.EventData;

/** A loaded machine takes many seconds for a handshake; whoever is less patient says so with `timeoutMs`. */
const TIMEOUT_MS = 60_000;

/** Commands of one project over NATS, each a CloudEvent in structured mode. Each resolves once NATS has stored it. */
export class Backend {
  readonly #connection: Connection;
  readonly #project: string;
  readonly #source: string;
  readonly #timeout: number;

  constructor(connection: Connection, options: BackendOptions = {}) {
    const { project = "default", source = "/ocf/client", timeoutMs = TIMEOUT_MS } = options;
    this.#connection = connection;
    this.#timeout = timeoutMs;
    this.#project = checked("project", project);
    this.#source = source;
  }

  /** Submits a task; returns its execution id. The same id with the same task is one execution. */
  async submit(
    task: Omit<Commands["dev.ocf.task.submit.v1"], "execution_id" | "project_id">,
    execution: string = randomId(),
  ): Promise<string> {
    await this.#task("submit", execution, task);
    return execution;
  }

  cancel(execution: string, why: string | null = null): Promise<void> {
    return this.#task("cancel", execution, { why, requested_by: this.#source });
  }

  /** Cancels an execution if it runs, then removes every trace. */
  delete(execution: string): Promise<void> {
    return this.#task("cleanup", execution, { requested_by: this.#source });
  }

  /** Answers a permission or question of the agent. */
  reply(execution: string, requestId: string, answer: string): Promise<void> {
    return this.#task("reply", execution, { request_id: requestId, answer });
  }

  /** Creates a session; returns its id. A submit that is published after it waits until the session exists. */
  async createSession(
    session: Given<Commands["dev.ocf.session.create.v1"]> = {},
    id: string = randomId(),
  ): Promise<string> {
    await this.#session("create", id, { requested_by: this.#source, ...session });
    return id;
  }

  attachSession(session: string, clientId: string): Promise<void> {
    return this.#session("attach", session, { client_id: clientId });
  }

  detachSession(session: string, clientId: string): Promise<void> {
    return this.#session("detach", session, { client_id: clientId });
  }

  /** Cancels the executions of a session and removes all its data. */
  destroySession(session: string): Promise<void> {
    return this.#session("destroy", session, { requested_by: this.#source });
  }

  /** Publishes a CloudEvent of another system, for the rules of the project. `source` is one token of a subject. */
  publishEvent(source: string, event: Readonly<Record<string, unknown>>): Promise<void> {
    return this.#publish(`ocf.in.${this.#project}.${checked("source", source)}`, event);
  }

  #task(verb: string, execution: string, data: object): Promise<void> {
    const id = checked("execution", execution);
    const body = { ...data, execution_id: id, project_id: this.#project };
    return this.#publish(`ocf.cmd.${verb}.${this.#project}.${id}`, this.#event(`task.${verb}`, id, body));
  }

  #session(verb: string, session: string, data: object): Promise<void> {
    const id = checked("session", session);
    const body = { ...data, session_id: id, project_id: this.#project };
    return this.#publish(`ocf.cmd.session.${this.#project}.${id}`, this.#event(`session.${verb}`, id, body));
  }

  #event(what: string, subject: string, data: object): Readonly<Record<string, unknown>> {
    return {
      specversion: "1.0",
      id: randomId(),
      source: this.#source,
      type: `dev.ocf.${what}.v1`,
      subject,
      time: new Date().toISOString(),
      datacontenttype: "application/json",
      data,
    };
  }

  async #publish(subject: string, event: Readonly<Record<string, unknown>>): Promise<void> {
    const answer = await this.#connection.request(subject, JSON.stringify(event), { timeout: this.#timeout });
    const stored = JSON.parse(new TextDecoder().decode(answer.data)) as { error?: { description?: string } };
    if (stored.error) throw new NotStored(`${subject}: ${stored.error.description ?? "not stored"}`);
  }
}

/** A token of a NATS subject: anything else would publish elsewhere. */
function checked(what: string, token: string): string {
  if (!/^[A-Za-z0-9_-]{1,100}$/.test(token)) throw new RangeError(`${what}: ${JSON.stringify(token)} is no token`);
  return token;
}

/**
 * Connects to NATS over WebSocket (`nats_ws` of `ocf up --json`) and returns the backend and its `close`.
 *
 * @param creds content of a credentials file
 */
export async function connectBackend(
  url: string,
  { creds, ...options }: BackendOptions & { creds?: string } = {},
): Promise<{ backend: Backend; close: () => Promise<void> }> {
  const connection = await wsconnect({
    servers: url,
    name: "ocf-client",
    wsFactory: natsSocket,
    timeout: options.timeoutMs ?? TIMEOUT_MS,
    ...(creds === undefined ? {} : { authenticator: credsAuthenticator(new TextEncoder().encode(creds)) }),
  });
  return { backend: new Backend(connection, options), close: () => connection.drain() };
}
