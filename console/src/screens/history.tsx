import { Fragment, type ReactNode, useEffect, useState } from "react";
import { type ApiError, api, type TaskFilter } from "../api/client";
import type { Task } from "../api/types";
import { useNow, useRows } from "../hooks";
import { day, plural, words } from "../model/format";
import { href, replace, useRoute } from "../router";
import { STATES, TERMINAL_STATES } from "../stream";
import { ExecutionCard } from "../ui/execution-card";
import { Icon } from "../ui/icons";
import { CardSkeletons, Empty, Failure } from "../ui/parts";

const PAGE = 50;
const TIMES: Readonly<Record<string, [string, number]>> = {
  hour: ["Last hour", 3_600_000],
  day: ["Last 24 hours", 86_400_000],
  week: ["Last 7 days", 7 * 86_400_000],
  month: ["Last 30 days", 30 * 86_400_000],
};
const NAMES = ["status", "project", "label", "q", "time", "since", "until"] as const;
type Filters = Record<(typeof NAMES)[number], string>;

/** History: every execution one may see, newest first. The filters are in the address, so a view can be sent on. */
export function HistoryScreen(): ReactNode {
  const { query } = useRoute();
  const filters = Object.fromEntries(NAMES.map((name) => [name, query.get(name) ?? ""])) as Filters;
  const [busyInterval, setInterval] = useState(3_000);
  const key = JSON.stringify(filters);
  const { data, error, refresh, rows, more } = useRows(key, busyInterval, PAGE, (part, signal) =>
    api.tasks({ ...asked(filters), ...part }, signal),
  );
  const now = useNow(5_000);
  const tasks = data?.items ?? [];
  const soon = rows <= 2 * PAGE && tasks.some((task) => !TERMINAL_STATES.has(task.status));
  useEffect(() => setInterval(soon ? 2_000 : 6_000), [soon]);
  useEffect(() => {
    document.title = "Executions · OpenCode Functions";
  }, []);
  const set = (change: Partial<Filters>): void => replace(href("/", { ...filters, ...change }));
  const filtered = Object.values(filters).some(Boolean);

  return (
    <div className="page">
      <header className="page-head">
        <h1>Executions</h1>
        {error && data && !error.offline && <span className="stale">{error.message}</span>}
        <a className="button primary" href={href("/new")}>
          <Icon name="plus" size={14} /> New execution
        </a>
      </header>
      <FilterBar filters={filters} set={set} filtered={filtered} />
      <List
        tasks={tasks}
        loading={!data && !error}
        error={data ? null : error}
        filtered={filtered}
        now={now}
        onRetry={refresh}
        onClear={() => replace(href("/"))}
      />
      {data?.next && (
        <div className="page-more">
          <button type="button" className="button" disabled={tasks.length < rows} onClick={more}>
            Show older executions
          </button>
        </div>
      )}
      {tasks.length > 0 && !data?.next && (
        <p className="page-end">{plural(tasks.length, "execution")}, no older ones</p>
      )}
    </div>
  );
}

function asked(filters: Filters): TaskFilter {
  const span = TIMES[filters.time];
  // Whole minutes: the same question gets the same answer for a while.
  const since = span
    ? new Date(Math.floor((Date.now() - span[1]) / 60_000) * 60_000).toISOString()
    : instant(filters.since);
  return {
    project_id: filters.project,
    status: filters.status,
    label: filters.label,
    q: filters.q,
    since,
    until: span ? "" : instant(filters.until),
  };
}

function instant(local: string): string {
  return local && !Number.isNaN(Date.parse(local)) ? new Date(local).toISOString() : "";
}

function FilterBar({
  filters,
  set,
  filtered,
}: {
  filters: Filters;
  set: (change: Partial<Filters>) => void;
  filtered: boolean;
}): ReactNode {
  return (
    <search className="filters" aria-label="Filter executions">
      <div className="filter-states">
        <button type="button" aria-pressed={filters.status === ""} onClick={() => set({ status: "" })}>
          All
        </button>
        {STATES.map((state) => (
          <button
            key={state}
            type="button"
            aria-pressed={filters.status === state}
            onClick={() => set({ status: state })}
          >
            {words(state)}
          </button>
        ))}
      </div>
      <div className="filter-fields">
        <FilterInput name="q" label="Title" placeholder="Search titles" value={filters.q} set={set} />
        <FilterInput name="project" label="Project" placeholder="Project" value={filters.project} set={set} />
        <FilterInput name="label" label="Label" placeholder="Label: key=value" value={filters.label} set={set} />
        <select
          aria-label="Time"
          value={filters.time}
          onChange={(event) => set({ time: event.target.value, since: "", until: "" })}
        >
          <option value="">Any time</option>
          {Object.entries(TIMES).map(([name, [label]]) => (
            <option key={name} value={name}>
              {label}
            </option>
          ))}
          <option value="range">Between…</option>
        </select>
        {filters.time === "range" && (
          <>
            <input
              type="datetime-local"
              aria-label="From"
              value={filters.since}
              onChange={(event) => set({ since: event.target.value })}
            />
            <input
              type="datetime-local"
              aria-label="Until"
              value={filters.until}
              onChange={(event) => set({ until: event.target.value })}
            />
          </>
        )}
        {filtered && (
          <button type="button" className="link" onClick={() => replace(href("/"))}>
            Clear
          </button>
        )}
      </div>
    </search>
  );
}

/** Asks when typing pauses, not at every key. */
function FilterInput(props: {
  name: keyof Filters;
  label: string;
  placeholder: string;
  value: string;
  set: (change: Partial<Filters>) => void;
}): ReactNode {
  const { name, value, set } = props;
  const [text, setText] = useState(value);
  // What is being typed may end with a space, which the address has not: that is no other value.
  useEffect(() => setText((before) => (before.trim() === value.trim() ? before : value)), [value]);
  useEffect(() => {
    if (text.trim() === value.trim()) return;
    const timer = setTimeout(() => set({ [name]: text.trim() }), 300);
    return () => clearTimeout(timer);
  }, [text, value, name, set]);
  return (
    <input
      type="search"
      aria-label={props.label}
      placeholder={props.placeholder}
      value={text}
      onChange={(event) => setText(event.target.value)}
    />
  );
}

function List(props: {
  tasks: readonly Task[];
  loading: boolean;
  error: ApiError | null;
  filtered: boolean;
  now: number;
  onRetry: () => void;
  onClear: () => void;
}): ReactNode {
  const { tasks, now } = props;
  if (props.error) return <Failure error={props.error} onRetry={props.onRetry} />;
  if (props.loading) return <CardSkeletons cards={7} />;
  if (tasks.length === 0) {
    return props.filtered ? (
      <Empty
        icon="search"
        title="No execution matches"
        action={
          <button type="button" className="button" onClick={props.onClear}>
            Clear the filters
          </button>
        }
      />
    ) : (
      <Empty
        icon="terminal"
        title="No executions yet"
        action={
          <a className="button primary" href={href("/new")}>
            Start the first one
          </a>
        }
      >
        Say what is to be done; an agent does it in a workspace of its own, and you watch it here.
      </Empty>
    );
  }
  return (
    <div className="cards">
      {tasks.map((task, at) => {
        const title = day(task.submitted_at, now);
        const before = tasks[at - 1];
        return (
          <Fragment key={task.execution_id}>
            {(!before || day(before.submitted_at, now) !== title) && <h2 className="cards-day">{title}</h2>}
            <ExecutionCard task={task} now={now} />
          </Fragment>
        );
      })}
    </div>
  );
}
