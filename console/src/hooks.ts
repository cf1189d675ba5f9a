import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { ApiError, bearer, onBearer } from "./api/client";
import type { Page } from "./api/types";

/** A gateway that has not answered by then counts as one that cannot be reached, in milliseconds. */
const ANSWER_MS = 15_000;

export interface Loaded<T> {
  readonly data: T | null;
  /** Of the last try; `data` of an earlier one stays. */
  readonly error: ApiError | null;
  readonly refresh: () => void;
}

/** The bearer token in use; null without one. */
export function useBearer(): string | null {
  return useSyncExternalStore(onBearer, bearer);
}

/**
 * Calls `load` now, every `interval` milliseconds while the page is visible, and when it becomes visible again.
 * `key` says what is loaded: when it changes, what was loaded before is dropped. Another token asks again at once.
 */
export function usePolled<T>(key: string, interval: number, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string; data: T | null; error: ApiError | null }>({
    key,
    data: null,
    error: null,
  });
  const latest = useRef(load);
  latest.current = load;
  const [tick, setTick] = useState(0);
  const token = useBearer();

  // biome-ignore lint/correctness/useExhaustiveDependencies: `tick` and `token` ask for a further call
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let awaited = false;
    const run = async (): Promise<void> => {
      // What a tab that is shown again would ask for is on its way.
      if (awaited) return;
      awaited = true;
      if (!document.hidden) {
        try {
          const data = await latest.current(AbortSignal.any([abort.signal, AbortSignal.timeout(ANSWER_MS)]));
          if (!abort.signal.aborted) setState({ key, data, error: null });
        } catch (error) {
          if (abort.signal.aborted) return;
          const failure = error instanceof ApiError ? error : new ApiError(String(error), -1);
          setState((before) => ({ key, data: before.key === key ? before.data : null, error: failure }));
        }
      }
      awaited = false;
      if (!abort.signal.aborted) timer = setTimeout(run, interval);
    };
    const visible = (): void => {
      if (document.hidden) return;
      clearTimeout(timer);
      void run();
    };
    void run();
    document.addEventListener("visibilitychange", visible);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", visible);
    };
  }, [key, interval, tick, token]);

  const refresh = useCallback(() => setTick((value) => value + 1), []);
  const current = state.key === key;
  return { data: current ? state.data : null, error: current ? state.error : null, refresh };
}

/** The most rows that the gateway gives at once. */
const MOST_ROWS = 500;

/** Which part of a list is asked for. `cursor` is the `next` of the part before. */
export interface Part {
  readonly limit: number;
  readonly cursor?: string | number;
}

/**
 * The first `rows` of a list, polled; `more` asks for `step` further ones.
 *
 * All of them are read anew each time: a part that was kept would stand still, and what is new would push rows out of
 * the parts before it that no part has.
 */
export function useRows<T>(
  key: string,
  interval: number,
  step: number,
  read: (part: Part, signal: AbortSignal) => Promise<Page<T>>,
): Loaded<Page<T>> & { readonly rows: number; readonly more: () => void } {
  const [wanted, setWanted] = useState({ key, rows: step });
  const rows = wanted.key === key ? wanted.rows : step;
  const loaded = usePolled(key, interval, async (signal) => {
    const items: T[] = [];
    let next: Page<T>["next"] = null;
    do {
      const limit = Math.min(MOST_ROWS, rows - items.length);
      const page: Page<T> = await read(next ? { limit, cursor: next } : { limit }, signal);
      items.push(...page.items);
      next = page.next ?? null;
    } while (next && items.length < rows);
    return { items, next };
  });
  const { refresh } = loaded;
  const more = useCallback(() => {
    setWanted({ key, rows: rows + step });
    refresh();
  }, [key, rows, step, refresh]);
  return { ...loaded, rows, more };
}

/** The time, again every `interval` milliseconds; stands still when `interval` is 0. */
export function useNow(interval: number): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (interval === 0) return;
    const timer = setInterval(() => setNow(Date.now()), interval);
    return () => clearInterval(timer);
  }, [interval]);
  return now;
}

/** Calls `handle` for keys pressed where nothing is being typed. */
export function useKeys(handle: (event: KeyboardEvent) => void): void {
  const latest = useRef(handle);
  latest.current = handle;
  useEffect(() => {
    const listen = (event: KeyboardEvent): void => {
      const target = event.target as HTMLElement | null;
      const typing = target?.closest("input, textarea, select, [contenteditable], dialog");
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      latest.current(event);
    };
    window.addEventListener("keydown", listen);
    return () => window.removeEventListener("keydown", listen);
  }, []);
}

/** Runs one thing at a time; says whether it runs and how the last one failed. */
export function useAction(): {
  busy: boolean;
  error: ApiError | null;
  run: (action: () => Promise<unknown>) => Promise<boolean>;
  clear: () => void;
} {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const run = useCallback(async (action: () => Promise<unknown>) => {
    setBusy(true);
    setError(null);
    try {
      await action();
      return true;
    } catch (failure) {
      setError(failure instanceof ApiError ? failure : new ApiError(String(failure), -1));
      return false;
    } finally {
      setBusy(false);
    }
  }, []);
  return { busy, error, run, clear: () => setError(null) };
}
