import { lazy, type ReactNode, Suspense, useCallback, useEffect, useRef, useState } from "react";
import { ApiError, api } from "../api/client";
import type { ChangedFile, Task, TodoItem } from "../api/types";
import { useAction, useKeys, useNow } from "../hooks";
import { save, saveChunks, saveText } from "../model/download";
import { cost, count, duration, words } from "../model/format";
import type { Severity, Summary } from "../model/rows";
import { asText } from "../model/transcript";
import { go, href, replace, useRoute } from "../router";
import { About, Attempts, ChangedFiles, Plan, UsageBlock } from "../run/sidebar";
import { StreamPill } from "../run/stream-pill";
import { SearchBox, SeverityFilter, useFiltered, useSearch } from "../run/toolbar";
import { type TranscriptHandle, TranscriptList } from "../run/transcript-list";
import { type Execution, useExecution } from "../run/use-execution";
import { WaitingCard } from "../run/waiting-card";
import { TERMINAL_STATES } from "../stream";
import { Icon } from "../ui/icons";
import { Confirm, CopyButton, Empty, Failure, Menu, Progress, Skeleton, StateBadge } from "../ui/parts";

const Terminal = lazy(() => import("../run/terminal"));
const DiffView = lazy(() => import("../run/diff-view"));

const VIEWS = ["transcript", "terminal", "changes", "details"] as const;
type View = (typeof VIEWS)[number];

/** TaskExecutionPanel: one execution, live or ended. */
export function TaskScreen({ id }: { id: string }): ReactNode {
  const execution = useExecution(id);
  const { task, error } = execution;
  useEffect(() => {
    if (task) document.title = `${task.title || words(task.status)} · OpenCode Functions`;
  }, [task]);
  if (!task) {
    if (error) return <Failure error={error} onRetry={execution.refresh} />;
    return (
      <div className="page">
        <Skeleton rows={9} />
      </div>
    );
  }
  return <Panel id={id} execution={execution} task={task} />;
}

function Panel({ id, execution, task }: { id: string; execution: Execution; task: Task }): ReactNode {
  const { query } = useRoute();
  const view = VIEWS.find((one) => one === query.get("view")) ?? "transcript";
  const ended = TERMINAL_STATES.has(task.status);
  const summary = execution.transcript.summary();
  const files = changedFiles(task, summary);
  const show = useCallback(
    (next: View, file?: string) =>
      replace(href(`/tasks/${id}`, { view: next === "transcript" ? undefined : next, file })),
    [id],
  );
  const onFile = useCallback((path: string) => show("changes", path), [show]);

  return (
    <div className="run">
      <RunHeader id={id} execution={execution} task={task} ended={ended} summary={summary} />
      <div className="run-body">
        <div className="run-main">
          <Tabs view={view} files={files.length} show={show} execution={execution} />
          {view === "transcript" && (
            <TranscriptView id={id} execution={execution} task={task} ended={ended} onFile={onFile} />
          )}
          {view === "terminal" && <TerminalView execution={execution} />}
          {view === "changes" && (
            <div className="run-scroll">
              <Suspense fallback={<Skeleton rows={12} />}>
                <DiffView id={id} final={ended} file={query.get("file")} />
              </Suspense>
            </div>
          )}
          {view === "details" && (
            <div className="run-scroll details">
              <Side task={task} summary={summary} files={files} onFile={onFile} ended={ended} />
            </div>
          )}
        </div>
        <aside className="run-side" aria-label="About this run">
          <Side task={task} summary={summary} files={files} onFile={onFile} ended={ended} />
        </aside>
      </div>
      <p className="sr" role="status">
        {announcement(task)}
      </p>
    </div>
  );
}

function announcement(task: Task): string {
  if (task.waiting_for) return `The agent waits for you: ${task.waiting_for.title}`;
  return `Run ${words(task.status)}${task.reason ? `: ${words(task.reason)}` : ""}`;
}

/** While it runs the chunks know first; once it has ended the record is the last word. */
function changedFiles(task: Task, summary: Summary): readonly ChangedFile[] {
  if (task.diff && task.diff.changed.length > 0) return task.diff.changed;
  return [...summary.files.values()];
}

function Side(props: {
  task: Task;
  summary: Summary;
  files: readonly ChangedFile[];
  onFile: (path: string) => void;
  ended: boolean;
}): ReactNode {
  const { task, summary, files } = props;
  const now = useNow(props.ended ? 0 : 1_000);
  const todo = summary.todo.length > 0 ? summary.todo : (task.todo ?? []);
  const usage = props.ended ? (task.usage ?? summary.usage) : (summary.usage ?? task.usage);
  return (
    <>
      <Plan todo={todo} running={!props.ended} />
      <ChangedFiles
        files={files}
        additions={task.diff?.additions}
        deletions={task.diff?.deletions}
        onFile={props.onFile}
      />
      <UsageBlock usage={usage} model={task.model} />
      <Attempts attempts={task.attempts ?? []} most={task.max_attempts ?? 1} now={now} />
      <About task={task} />
    </>
  );
}

function RunHeader(props: {
  id: string;
  execution: Execution;
  task: Task;
  ended: boolean;
  summary: Summary;
}): ReactNode {
  const { id, execution, task, ended, summary } = props;
  const [asking, setAsking] = useState<"cancel" | "delete" | null>(null);
  const action = useAction();
  const said = ended ? (task.usage ?? summary.usage) : (summary.usage ?? task.usage);
  const usage = said && said.requests > 0 ? said : null;
  const progress = progressOf(summary.todo);

  const confirmed = async (): Promise<void> => {
    const done = await action.run(() =>
      asking === "cancel" ? api.cancel(id, "cancelled in the console") : api.remove(id),
    );
    if (!done) return;
    if (asking === "delete") go(href("/"));
    setAsking(null);
    execution.refresh();
  };

  return (
    <header className="run-head">
      <div className="run-title">
        <a className="crumb" href={href("/")}>
          Runs
        </a>
        <h1 title={task.title}>{task.title || "Untitled run"}</h1>
      </div>
      <div className="run-meta">
        <StateBadge state={task.status} waiting={Boolean(task.waiting_for)} />
        {task.cancel_requested && !ended && <span className="faint">cancelling…</span>}
        {task.status === "pending" && task.queue_position ? (
          <span>Place {task.queue_position} in the queue</span>
        ) : null}
        <Elapsed task={task} ended={ended} />
        {usage && (
          <span title={`${usage.input_tokens} in, ${usage.output_tokens} out`}>
            {count(usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens)}{" "}
            tokens
          </span>
        )}
        {usage && <span>{cost(usage.cost_usd)}</span>}
        {task.status === "running" && summary.todo.length > 0 && (
          <span className="head-progress">
            <Progress value={progress} label="Progress" /> {progress}%
          </span>
        )}
      </div>
      <div className="run-actions">
        {!ended && (
          <button
            type="button"
            className="button danger-quiet"
            disabled={task.cancel_requested}
            onClick={() => setAsking("cancel")}
          >
            <Icon name="stop" size={13} /> Cancel
          </button>
        )}
        <a className="button" href={href(`/tasks/${id}/replay`)}>
          <Icon name="replay" size={14} /> Replay
        </a>
        <RunMenu id={id} execution={execution} task={task} ended={ended} onDelete={() => setAsking("delete")} />
      </div>
      {task.model?.includes("offline") && (
        <p className="scripted">
          <Icon name="info" size={14} />
          <span>
            <strong>Offline scripted model.</strong> These answers come from a script, not from a language model.
          </span>
        </p>
      )}
      {(task.status === "failed" || task.status === "timed_out" || task.status === "rejected") && (
        <Outcome task={task} />
      )}
      {asking && (
        <Confirm
          title={asking === "cancel" ? "Cancel this run?" : "Delete this run?"}
          action={asking === "cancel" ? "Cancel the run" : "Delete everything"}
          danger
          busy={action.busy}
          error={action.error}
          onConfirm={() => void confirmed()}
          onClose={() => {
            setAsking(null);
            action.clear();
          }}
        >
          {asking === "cancel"
            ? "The agent and everything it started are ended at once. What it did so far stays in the archive."
            : "Its output, archive, workspace and record are removed for good."}
        </Confirm>
      )}
    </header>
  );
}

/** As the record counts it (`Record.progress`), but from the chunks, which know first. */
function progressOf(todo: readonly TodoItem[]): number {
  const done = todo.filter((item) => item.status === "completed" || item.status === "cancelled").length;
  return todo.length === 0 ? 0 : Math.min(99, Math.round((100 * done) / todo.length));
}

function Outcome({ task }: { task: Task }): ReactNode {
  return (
    <div className="outcome" role="alert">
      <strong>{task.reason ? words(task.reason) : words(task.status)}</strong>
      {task.message && <span>{task.message}</span>}
      {(task.errors ?? []).map((error) => (
        <span key={error.field}>
          <code>{error.field}</code> {error.message}
        </span>
      ))}
    </div>
  );
}

function Elapsed({ task, ended }: { task: Task; ended: boolean }): ReactNode {
  const now = useNow(ended ? 0 : 1_000);
  const from = task.started_at ?? task.submitted_at;
  const until = task.ended_at ? Date.parse(task.ended_at) : now;
  const title = task.started_at ? "since it was started" : "waiting since it was submitted";
  return <span title={title}>{duration(until - Date.parse(from))}</span>;
}

function RunMenu(props: {
  id: string;
  execution: Execution;
  task: Task;
  ended: boolean;
  onDelete: () => void;
}): ReactNode {
  const { id, execution, task } = props;
  const action = useAction();
  const patch = (): Promise<boolean> =>
    action.run(async () => {
      const text = await api.diff(id);
      if (!text) throw new ApiError("Nothing was changed: there is no patch.", 404);
      save(`${id}.patch`, "text/x-diff", text);
    });
  return (
    <>
      <Menu label="Download" icon="download">
        <button type="button" onClick={() => saveText(id, execution.transcript.rows)}>
          Output as text
        </button>
        <button type="button" onClick={() => saveChunks(id, execution.chunks)}>
          Output as NDJSON
        </button>
        <button type="button" onClick={() => void patch()} disabled={!props.ended}>
          Patch{props.ended ? "" : " (when it has ended)"}
        </button>
      </Menu>
      <Menu label="More" icon="more">
        <a href={href("/new", { from: id })}>Run again…</a>
        <a href={href("/new", { snapshot: props.ended ? id : undefined })} aria-disabled={!props.ended}>
          Continue in its workspace…
        </a>
        {task.session_id && <a href={href("/new", { session: task.session_id })}>Follow up in its session…</a>}
        <button type="button" className="danger" onClick={props.onDelete}>
          Delete…
        </button>
      </Menu>
      {action.error && (
        <span className="error" role="alert">
          {action.error.message}
        </span>
      )}
    </>
  );
}

function Tabs(props: { view: View; files: number; show: (view: View) => void; execution: Execution }): ReactNode {
  const { view, files, show, execution } = props;
  return (
    <div className="run-tabs">
      <nav aria-label="Views of this run">
        {VIEWS.map((one) => (
          <button
            key={one}
            type="button"
            className={one === "details" ? "tab only-narrow" : "tab"}
            aria-current={one === view ? "page" : undefined}
            onClick={() => show(one)}
          >
            {words(one)}
            {one === "changes" && files > 0 && <span className="tab-count">{files}</span>}
          </button>
        ))}
      </nav>
      <StreamPill stream={execution.stream} onRetry={execution.reconnect} />
    </div>
  );
}

function TranscriptView(props: {
  id: string;
  execution: Execution;
  task: Task;
  ended: boolean;
  onFile: (path: string) => void;
}): ReactNode {
  const { execution, task, ended } = props;
  const [severity, setSeverity] = useState<Severity>("debug");
  const list = useRef<TranscriptHandle>(null);
  const input = useRef<HTMLInputElement>(null);
  const rows = useFiltered(execution.transcript.rows, execution.version, severity);
  const search = useSearch(rows, execution.version, (index) => list.current?.reveal(index));
  useKeys((event) => {
    if (event.key !== "/") return;
    event.preventDefault();
    input.current?.focus();
  });
  return (
    <>
      <div className="run-tools">
        <SeverityFilter value={severity} onChange={setSeverity} />
        <SearchBox search={search} input={input} />
        <CopyButton label="Copy the transcript" text={() => asText(rows)} />
      </div>
      {rows.length === 0 ? (
        <NothingYet execution={execution} task={task} filtered={severity !== "debug"} />
      ) : (
        <TranscriptList
          rows={rows}
          start={execution.transcript.summary().first}
          query={search.query}
          follow={!ended && search.query === ""}
          live={!ended}
          onFile={props.onFile}
          handle={list}
          footer={
            task.status === "running" && !task.waiting_for && <Working summary={execution.transcript.summary()} />
          }
        />
      )}
      {task.waiting_for && !ended && (
        <WaitingCard id={props.id} waiting={task.waiting_for} onAnswered={execution.refresh} />
      )}
    </>
  );
}

const PHASES: Readonly<Record<string, string>> = {
  workspace: "Preparing the workspace",
  agent: "Starting the agent",
  model: "Waiting for the model",
  artifacts: "Storing the results",
  retry: "Waiting to ask the model again",
};
/** A silence longer than this is worth counting, in milliseconds. */
const SILENCE_MS = 3_000;

/** That it goes on, and how long it has been silent. */
function Working({ summary }: { summary: Summary }): ReactNode {
  const now = useNow(1_000);
  const silence = now - summary.last;
  return (
    <div className="working">
      <span className="spinner" aria-hidden="true" />
      {(summary.phase && PHASES[summary.phase]) ?? "Working"}
      {summary.last > 0 && silence > SILENCE_MS && <span className="faint">{duration(silence)}</span>}
    </div>
  );
}

function NothingYet({ execution, task, filtered }: { execution: Execution; task: Task; filtered: boolean }): ReactNode {
  if (filtered && execution.chunks.length > 0) return <Empty icon="search" title="Nothing of that severity" />;
  if (execution.stream.state === "catching-up") return <Skeleton rows={8} />;
  if (task.status === "pending") {
    return (
      <Empty icon="clock" title="Waiting for a worker">
        {task.queue_position ? `Place ${task.queue_position} in the queue. ` : ""}It appears here as soon as it starts.
      </Empty>
    );
  }
  if (task.status === "rejected") return <Empty icon="cross" title="It never started" />;
  return <Empty icon="terminal" title={task.status === "running" ? "Nothing said yet" : "It said nothing"} />;
}

function TerminalView({ execution }: { execution: Execution }): ReactNode {
  const input = useRef<HTMLInputElement>(null);
  const search = useSearch(execution.transcript.rows, execution.version, () => undefined);
  return (
    <>
      <div className="run-tools">
        <span className="faint tools-note">Everything, in the order it was said</span>
        <SearchBox search={search} input={input} />
        <CopyButton label="Copy the output" text={() => asText(execution.transcript.rows)} />
      </div>
      <Suspense fallback={<Skeleton rows={10} />}>
        <Terminal chunks={execution.chunks} count={execution.chunks.length} query={search.query} turn={search.turn} />
      </Suspense>
    </>
  );
}
