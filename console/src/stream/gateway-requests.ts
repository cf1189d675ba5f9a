import { TERMINAL_STATES } from "./lifecycle-states";
import { readChunks } from "./ndjson";
import type { Chunk, Probe, Viewer } from "./types";

/** The gateway refused; `status` is the HTTP status, `errors` names each wrong field. */
export class Refused extends Error {
  override name = "Refused";

  constructor(
    message: string,
    readonly status: number,
    readonly errors: readonly FieldError[] = [],
  ) {
    super(message);
  }

  /** Whether asking again cannot help: not allowed, not there, in several projects (409), or not valid (422). */
  get final(): boolean {
    return [400, 401, 403, 404, 409, 410, 422].includes(this.status);
  }
}

/** What is wrong with one field of a request. */
export interface FieldError {
  readonly field: string;
  readonly message: string;
}

/** The three calls that the stream needs. `signal` is aborted when one takes too long or nobody wants its answer. */
export interface Gateway {
  viewer(signal: AbortSignal): Promise<Viewer>;
  history(from: number, signal: AbortSignal): AsyncIterable<Chunk[]>;
  probe(signal: AbortSignal): Promise<Probe>;
}

/**
 * The calls over HTTP.
 *
 * @param base without a final slash, `""` for the page's own origin
 * @param token the caller's own bearer token, if the gateway asks for one
 * @param project the execution's project; an id that several projects have is refused without it
 */
export function httpGateway(
  base: string,
  execution: string,
  token: () => string | null = () => null,
  project?: string,
): Gateway {
  const task = `${base}/tasks/${encodeURIComponent(execution)}`;

  async function call(path: string, init: RequestInit = {}, query: Record<string, string> = {}): Promise<Response> {
    const bearer = token();
    const headers = bearer ? { Authorization: `Bearer ${bearer}` } : undefined;
    const search = new URLSearchParams(project === undefined ? query : { ...query, project_id: project }).toString();
    const response = await fetch(task + path + (search && `?${search}`), { ...init, headers, cache: "no-store" });
    if (!response.ok) throw await refusal(response);
    return response;
  }

  return {
    async viewer(signal) {
      return (await (await call("/token", { method: "POST", signal })).json()) as Viewer;
    },
    async *history(from, signal) {
      const response = await call("/output", { signal }, { format: "ndjson", from: String(from) });
      if (response.body) yield* readChunks(response.body);
    },
    async probe(signal) {
      const record = (await (await call("/status", { signal })).json()) as { status: string; last_sequence?: number };
      return { ended: TERMINAL_STATES.has(record.status), lastSequence: record.last_sequence ?? 0 };
    },
  };
}

/** What a problem document (RFC 9457) says, or the status in words. */
export async function refusal(response: Response): Promise<Refused> {
  const { status } = response;
  const text = await response.text().catch(() => "");
  try {
    const body = JSON.parse(text) as { detail?: string; title?: string; errors?: FieldError[] };
    return new Refused(body.detail ?? body.title ?? inWords(response), status, body.errors);
  } catch {
    return new Refused(inWords(response), status);
  }
}

function inWords(response: Response): string {
  return `${response.status} ${response.statusText}`;
}
