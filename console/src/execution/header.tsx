import { type ReactNode, useState } from "react";
import { api } from "../api/client";
import type { Task, TodoItem } from "../api/types";
import { useAction, useNow } from "../hooks";
import { visible } from "../model/escape-controls";
import { cost, count, duration, words } from "../model/format";
import type { Summary } from "../model/transcript-rows";
import { go, href } from "../router";
import { Icon } from "../ui/icons";
import { Confirm, Progress, StateBadge } from "../ui/parts";
import { ExecutionMenu } from "./menu";
import type { Execution } from "./use-execution";

/** What it is, how it stands, and what can be done with it. */
export function ExecutionHeader(props: {
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
    <header className="execution-head">
      <div className="execution-title">
        <a className="crumb" href={href("/")}>
          Executions
        </a>
        <h1 title={visible(task.title ?? "")}>{visible(task.title ?? "") || "Untitled execution"}</h1>
      </div>
      <div className="execution-meta">
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
      <div className="execution-actions">
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
        <ExecutionMenu id={id} execution={execution} task={task} ended={ended} onDelete={() => setAsking("delete")} />
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
          title={asking === "cancel" ? "Cancel this execution?" : "Delete this execution?"}
          action={asking === "cancel" ? "Cancel the execution" : "Delete everything"}
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
      {task.message && <span>{visible(task.message, 4_000)}</span>}
      {(task.errors ?? []).slice(0, 20).map((error) => (
        <span key={error.field}>
          <code>{visible(error.field)}</code> {visible(error.message, 1_000)}
        </span>
      ))}
    </div>
  );
}

function Elapsed({ task, ended }: { task: Task; ended: boolean }): ReactNode {
  const now = useNow(ended ? 0 : 1_000);
  // What never started took no time.
  if (ended && !(task.started_at && task.ended_at)) return null;
  const from = task.started_at ?? task.submitted_at;
  const until = task.ended_at ? Date.parse(task.ended_at) : now;
  const title = task.started_at ? "since it was started" : "waiting since it was submitted";
  return <span title={title}>{duration(until - Date.parse(from))}</span>;
}
