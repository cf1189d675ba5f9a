import { natsConnector, websocketConnector } from "./connectors";
import { type Gateway, httpGateway } from "./gateway-requests";
import type { Chunk, Connector, StreamStatus } from "./types";
import { Watcher } from "./watcher";

export interface WatchOptions {
  readonly gateway: Gateway;
  /** Ways to get live chunks, the preferred one first. */
  readonly connectors: readonly Connector[];
  /** Sequence of the first chunk wanted; 1 by default. */
  readonly from?: number;
  /** In order, each once, without a hole; what could not be had is a chunk of type `gap`. */
  readonly onChunks: (chunks: Chunk[]) => void;
  readonly onStatus?: (status: StreamStatus) => void;
}

export interface WatchExecutionOptions extends Omit<WatchOptions, "gateway" | "connectors"> {
  /** The caller's own bearer token, if the gateway asks for one. */
  readonly token?: () => string | null;
  /** The execution's project; an id that several projects have is refused without it. */
  readonly project?: string;
}

export interface Watch {
  readonly status: StreamStatus;
  /** Resolves once it has ended, was closed, or cannot go on. */
  readonly done: Promise<void>;
  /** Why it cannot go on; null as long as it can. */
  readonly failure: Error | null;
  /** Tries again now instead of at `retryAt`. */
  retry(): void;
  close(): void;
}

/** Watches an execution of the gateway at `base`: NATS first, the gateway's WebSocket where that cannot be reached. */
export function watchExecution(
  base: string,
  execution: string,
  { token, project, ...options }: WatchExecutionOptions,
): Watch {
  return watch({
    ...options,
    gateway: httpGateway(base, execution, token, project),
    connectors: defaultConnectors(base, execution, token, project),
  });
}

/** Both ways to one execution of the gateway at `base`, NATS first. */
export function defaultConnectors(
  base: string,
  execution: string,
  token: () => string | null = () => null,
  project?: string,
): Connector[] {
  const url = (from: number): string => {
    const address = new URL(`${base}/tasks/${encodeURIComponent(execution)}/stream`, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("from", String(from));
    if (project !== undefined) address.searchParams.set("project_id", project);
    return address.href;
  };
  // A browser cannot set headers on a WebSocket: the token goes as a subprotocol, never into the address.
  const protocols = (): string[] => (token() ? ["ocf.v1", `bearer.${token()}`] : []);
  return [natsConnector(), websocketConnector(url, protocols)];
}

/** Subscribes, reads history, splices both, and keeps doing so until the execution has ended. */
export function watch(options: WatchOptions): Watch {
  const watcher = new Watcher(options);
  const done = watcher.run();
  return {
    get status() {
      return watcher.status;
    },
    done,
    get failure() {
      return watcher.failure;
    },
    retry: () => watcher.wake(),
    close: () => watcher.close(),
  };
}
