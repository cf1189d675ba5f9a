import { lazy, type ReactNode, Suspense, useCallback, useEffect } from "react";
import type { ChangedFile, Task } from "../api/types";
import { ExecutionHeader } from "../execution/header";
import { Reruns } from "../execution/reruns";
import { About, Attempts, ChangedFiles, Output, Plan, UsageBlock } from "../execution/sidebar";
import { StreamPill } from "../execution/stream-pill";
import { TerminalView } from "../execution/terminal-view";
import { TranscriptView } from "../execution/transcript-view";
import { type Execution, useExecution } from "../execution/use-execution";
import { useNow } from "../hooks";
import { visible } from "../model/escape-controls";
import { words } from "../model/format";
import type { Summary } from "../model/transcript-rows";
import { href, replace, useRoute } from "../router";
import { TERMINAL_STATES } from "../stream";
import { ErrorBoundary } from "../ui/error-boundary";
import { Failure, Skeleton } from "../ui/parts";

const DiffView = lazy(() => import("../execution/diff-view"));

const VIEWS = ["transcript", "terminal", "changes", "details"] as const;
type View = (typeof VIEWS)[number];

/** TaskExecutionPanel: one execution, live or ended. */
export function ExecutionScreen({ id }: { id: string }): ReactNode {
  const execution = useExecution(id);
  const { task, error, stream } = execution;
  // The stream gives up at a 404 only after the seconds in which a new record may yet come.
  const removed = error?.status === 404 && stream.state === "disconnected" && stream.retryAt === null;
  useEffect(() => {
    if (!task) return;
    const title = visible(task.title ?? "", 80) || words(task.status);
    document.title = `${removed ? "Removed" : title} · OpenCode Functions`;
  }, [task, removed]);
  if (!task) {
    if (error) return <Failure error={error} onRetry={execution.refresh} alone />;
    return (
      <div className="page">
        <Skeleton rows={9} />
      </div>
    );
  }
  if (removed) return <Removed id={id} execution={execution} task={task} />;
  return <Panel id={id} execution={execution} task={task} />;
}

/** One that was deleted elsewhere while it was watched: nothing can be done with it, but what it said stays. */
function Removed({ id, execution, task }: { id: string; execution: Execution; task: Task }): ReactNode {
  const said = execution.chunks.length > 0;
  return (
    <div className="execution">
      <header className="execution-head">
        <div className="execution-title">
          <a className="crumb" href={href("/")}>
            Executions
          </a>
          <h1>{visible(task.title ?? "") || "Untitled execution"}</h1>
        </div>
        <div className="outcome" role="alert">
          <strong>This execution was removed</strong>
          <span>It was deleted{said ? "; what it said until then is below" : ""}.</span>
        </div>
      </header>
      {said && (
        <div className="execution-body">
          <div className="execution-main" style={{ gridColumn: "1 / -1" }}>
            {/* It no longer runs, whatever the last record said. */}
            <TranscriptView
              id={id}
              execution={execution}
              task={{ ...task, status: "cancelled" }}
              ended
              onFile={() => undefined}
            />
          </div>
        </div>
      )}
    </div>
  );
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
    <div className="execution" data-view={view}>
      <ExecutionHeader id={id} execution={execution} task={task} ended={ended} summary={summary} />
      <div className="execution-body">
        <div className="execution-main">
          <Tabs view={view} files={files.length} show={show} execution={execution} />
          {view === "transcript" && (
            <TranscriptView id={id} execution={execution} task={task} ended={ended} onFile={onFile} />
          )}
          {view === "terminal" && <TerminalView execution={execution} />}
          {view === "changes" && (
            <div className="execution-scroll">
              <ErrorBoundary>
                <Suspense fallback={<Skeleton rows={12} />}>
                  <DiffView id={id} final={ended} file={query.get("file")} />
                </Suspense>
              </ErrorBoundary>
            </div>
          )}
          {view === "details" && (
            <div className="execution-scroll details">
              <Side task={task} summary={summary} files={files} onFile={onFile} ended={ended} />
            </div>
          )}
        </div>
        <aside className="execution-side" aria-label="About this execution">
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
  return `Execution ${words(task.status)}${task.reason ? `: ${words(task.reason)}` : ""}`;
}

function Tabs(props: { view: View; files: number; show: (view: View) => void; execution: Execution }): ReactNode {
  const { view, files, show, execution } = props;
  return (
    <div className="execution-tabs">
      <nav aria-label="Views of this execution">
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

/** While it runs the chunks know first; once it has ended the record is the last word. */
function changedFiles(task: Task, summary: Summary): readonly ChangedFile[] {
  const said = [...summary.files.values()];
  const kept = task.diff?.changed ?? [];
  return kept.length > 0 && (said.length === 0 || TERMINAL_STATES.has(task.status)) ? kept : said;
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
      <Output value={task.output} />
      <Plan todo={todo} running={!props.ended} />
      <ChangedFiles
        files={files}
        additions={task.diff?.additions}
        deletions={task.diff?.deletions}
        onFile={props.onFile}
      />
      <UsageBlock usage={usage} model={task.model} />
      <Attempts attempts={task.attempts ?? []} most={task.max_attempts ?? 1} now={now} />
      <Reruns task={task} ended={props.ended} />
      <About task={task} />
    </>
  );
}
