import type { ReactNode } from "react";
import type { Task } from "../api/types";
import { Counts } from "../execution/row-view";
import { visible } from "../model/escape-controls";
import { ago, cost, count, duration, modelName, plural, words } from "../model/format";
import { href } from "../router";
import { TERMINAL_STATES } from "../stream";
import { Icon } from "./icons";
import { Progress, StateMark, tone } from "./parts";

/** One execution in a list: what it is, how it stands, what it cost. The whole card leads to it. */
export function ExecutionCard({ task, now }: { task: Task; now: number }): ReactNode {
  const ended = TERMINAL_STATES.has(task.status);
  const waiting = Boolean(task.waiting || task.waiting_for) && !ended;
  const from = Date.parse(task.started_at ?? task.submitted_at);
  const took = (task.ended_at ? Date.parse(task.ended_at) : now) - from;
  const usage = task.usage;
  const tokens = usage
    ? usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    : 0;
  const files = task.diff?.files ?? task.files_changed ?? 0;
  const offline = task.model?.includes("offline");
  return (
    <article className={`card tone-${waiting ? "amber" : tone(task.status)}`}>
      <span className="card-mark" title={waiting ? "Needs you" : words(task.status)}>
        <StateMark state={waiting ? "waiting" : task.status} />
      </span>
      <div className="card-main">
        <h3>
          <a href={href(`/tasks/${task.execution_id}`)}>{visible(task.title ?? "") || "Untitled execution"}</a>
        </h3>
        <p className="card-meta">
          <span className="card-state">
            {waiting ? "Needs you" : words(task.status)}
            {task.reason ? `: ${words(task.reason).toLowerCase()}` : ""}
          </span>
          <span>{task.project_id}</span>
          {task.model && <span className="mono">{offline ? "offline model" : modelName(task.model)}</span>}
          {Object.entries(task.labels ?? {}).map(([name, value]) => (
            <a className="chip" key={name} href={href("/", { label: `${name}=${value}` })}>
              {value ? `${name}=${value}` : name}
            </a>
          ))}
        </p>
        {task.status === "running" && (task.progress ?? 0) > 0 && (
          <Progress value={task.progress ?? 0} label="Progress" />
        )}
        {task.status === "failed" && task.message && <p className="card-message">{task.message}</p>}
      </div>
      <div className="card-facts">
        <span title={new Date(task.submitted_at).toLocaleString()}>{ago(task.submitted_at, now)}</span>
        <span className="card-numbers">
          {task.started_at && <span>{duration(took)}</span>}
          {task.status === "pending" && task.queue_position ? <span>place {task.queue_position}</span> : null}
          {tokens > 0 && <span title={usage ? cost(usage.cost_usd) : ""}>{count(tokens)} tok</span>}
          {files > 0 && <span>{task.diff ? <Counts {...task.diff} /> : plural(files, "file")}</span>}
        </span>
      </div>
      <a
        className="button quiet small card-again"
        href={href("/new", { from: task.execution_id })}
        aria-label={`Run again: ${task.title || "untitled execution"}`}
        title="Run again"
      >
        <Icon name="play" size={13} />
      </a>
    </article>
  );
}
