import { useCallback, useEffect, useRef, useState } from "react";
import { ApiError, api, BASE, bearer } from "../api/client";
import type { Task } from "../api/types";
import { useBearer } from "../hooks";
import { Transcript } from "../model/transcript";
import {
  type Chunk,
  defaultConnectors,
  frameBatch,
  httpGateway,
  Refused,
  type StreamStatus,
  TERMINAL_STATES,
  type Watch,
  watch,
} from "../stream";

/** Chunks after which the record has something new that no chunk tells. */
const TELLING = new Set(["permission", "question", "status"]);

export interface Execution {
  readonly task: Task | null;
  readonly error: ApiError | null;
  readonly stream: StreamStatus;
  /** Grows in place; `version` says when. */
  readonly chunks: readonly Chunk[];
  readonly transcript: Transcript;
  readonly version: number;
  readonly refresh: () => void;
  readonly reconnect: () => void;
}

/** What follows the end (artifacts, comment, archive) is waited for so long, in milliseconds, ever more slowly. */
const SETTLE_MS = 300_000;
const SETTLE_STEP_MS = { first: 1_000, most: 30_000 } as const;

const STARTING: StreamStatus = { state: "catching-up", transport: null, error: null, retryAt: null, sequence: 0 };

/** One execution: its record and everything it says, as it says it. */
export function useExecution(id: string): Execution {
  const [task, setTask] = useState<Task | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [stream, setStream] = useState(STARTING);
  const [version, setVersion] = useState(0);
  const said = useRef<{ chunks: Chunk[]; transcript: Transcript }>({ chunks: [], transcript: new Transcript() });
  const watching = useRef<Watch | null>(null);
  // Answers may overtake each other: one that was asked for before the one that is shown is dropped.
  const calls = useRef({ asked: 0, shown: 0 });
  const token = useBearer();

  const load = useCallback(
    async (signal?: AbortSignal): Promise<Task> => {
      calls.current.asked += 1;
      const call = calls.current.asked;
      const show = (change: () => void): void => {
        if (call <= calls.current.shown) return;
        calls.current.shown = call;
        change();
      };
      try {
        const loaded = await api.task(id, signal);
        show(() => {
          setTask(loaded);
          setError(null);
        });
        return loaded;
      } catch (failure) {
        if (failure instanceof ApiError) show(() => setError(failure));
        throw failure;
      }
    },
    [id],
  );
  const refresh = useCallback(() => void load().catch(() => undefined), [load]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: another token is another look
  useEffect(() => {
    const chunks: Chunk[] = [];
    const transcript = new Transcript();
    said.current = { chunks, transcript };
    calls.current.shown = calls.current.asked;
    setTask(null);
    setError(null);
    setStream(STARTING);
    setVersion((before) => before + 1);
    const batch = frameBatch<Chunk>((items) => {
      for (const item of items) chunks.push(item);
      transcript.push(items);
      setVersion((before) => before + 1);
      if (items.some((item) => TELLING.has(item.type))) refresh();
    });
    const following = watch({
      gateway: {
        ...httpGateway(BASE, id, bearer),
        // The stream asks for the record anyway: the page takes it from there.
        probe: async (signal) => {
          const record = await load(signal).catch(asRefusal);
          return { ended: TERMINAL_STATES.has(record.status), lastSequence: record.last_sequence ?? 0 };
        },
      },
      connectors: defaultConnectors(BASE, id, bearer),
      onChunks: (items) => batch.add(items),
      onStatus: (status) => {
        if (status.state === "ended") batch.flush();
        // It will not try again: asking for the record tells why, and asks for a token if that is it.
        if (status.state === "disconnected" && status.retryAt === null) refresh();
        setStream(status);
      },
    });
    watching.current = following;
    return () => {
      following.close();
      batch.close();
    };
  }, [id, load, refresh, token]);

  const settling = task !== null && TERMINAL_STATES.has(task.status) && !task.archived;
  useEffect(() => {
    if (!settling) return;
    let timer: ReturnType<typeof setTimeout>;
    const look = (wait: number, waited: number): void => {
      if (waited >= SETTLE_MS) return;
      timer = setTimeout(() => {
        refresh();
        look(Math.min(SETTLE_STEP_MS.most, 2 * wait), waited + wait);
      }, wait);
    };
    look(SETTLE_STEP_MS.first, 0);
    return () => clearTimeout(timer);
  }, [settling, refresh]);

  const reconnect = useCallback(() => watching.current?.retry(), []);
  return { task, error, stream, ...said.current, version, refresh, reconnect };
}

/** What the gateway refuses is the stream's own error: it knows by it when asking again cannot help. */
function asRefusal(error: unknown): never {
  throw error instanceof ApiError && error.status > 0 ? new Refused(error.message, error.status) : error;
}
