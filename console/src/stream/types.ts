/**
 * What an execution says while it runs. One wire form everywhere: the `data` of the event
 * `dev.ocf.task.output.v1`, a line of the history and a message of the WebSocket are this object.
 */

export const CHUNK_TYPES = [
  "text",
  "reasoning",
  "tool_call",
  "tool_result",
  "stdout",
  "stderr",
  "file_change",
  "status",
  "usage",
  "todo",
  "permission",
  "question",
  "gap",
] as const;

export type ChunkType = (typeof CHUNK_TYPES)[number];

/** One piece of output. `seq` is gapless per execution from 1, over all attempts. */
export interface Chunk {
  readonly seq: number;
  readonly type: ChunkType;
  /** Always readable text; may carry ANSI escape sequences. */
  readonly data: string;
  /** RFC 3339. */
  readonly timestamp: string;
  /** From 1. */
  readonly attempt: number;
  readonly detail?: Readonly<Record<string, unknown>> | null;
}

/** Answer of `POST /tasks/{execution_id}/token`: short-lived, may listen to one execution and nothing else. */
export interface Viewer {
  /** `ws://` or `wss://` address of the NATS server; null or empty where none is offered. */
  readonly nats_ws: string | null;
  readonly jwt: string;
  readonly seed: string;
  /** `ocf.live.<project>.<execution>` */
  readonly subject: string;
  readonly history_url?: string;
  /** RFC 3339. */
  readonly expires_at: string;
}

/**
 * - `catching-up`: history is being read; what is shown is true but not complete
 * - `connected`: everything said so far has been delivered, and what comes next arrives as it is said
 * - `disconnected`: nothing arrives at the moment; `retryAt` says when the next try is made, if one is
 * - `ended`: the execution has ended and every chunk of it has been delivered
 */
export type StreamState = "catching-up" | "connected" | "disconnected" | "ended";

export type Transport = "nats" | "websocket";

/** What is true of the stream right now. */
export interface StreamStatus {
  readonly state: StreamState;
  /** The way live chunks arrive; null while nothing is open. */
  readonly transport: Transport | null;
  /** Why it is disconnected, in words. */
  readonly error: string | null;
  /** Unix milliseconds of the next try; null when there will be none. */
  readonly retryAt: number | null;
  /** Sequence of the last chunk delivered; 0 before the first. */
  readonly sequence: number;
}

/** Where the execution stands according to its record. */
export interface Probe {
  readonly ended: boolean;
  readonly lastSequence: number;
}

/** An open way for live chunks. */
export interface Live {
  /** Resolves once it is closed: null after `close()` and after a regular end, else the reason. */
  readonly closed: Promise<string | null>;
  close(): void;
}

/** Opens a way for live chunks. */
export interface Connector {
  readonly transport: Transport;
  /**
   * `subscribe-first`: delivers only what is said after `open` resolved, so history is read afterwards.
   * `history-first`: itself starts at `from`, so history is read before and it is opened behind it.
   */
  readonly order: "subscribe-first" | "history-first";
  /** Resolves once nothing said from now on can be missed. Rejects where it cannot be reached. */
  open(viewer: Viewer, from: number, onChunk: (chunk: Chunk) => void): Promise<Live>;
}
