import type { ReactNode } from "react";
import type { Attempt, ChangedFile, Task, TodoItem, Usage } from "../api/types";
import { visible } from "../model/escape-controls";
import { cost, count, duration, modelName, plural, timeOfDay, words } from "../model/format";
import { href } from "../router";
import { Icon } from "../ui/icons";
import { CopyButton, Progress } from "../ui/parts";
import { Counts, FileMark } from "./row-view";

/** Items of a plan, and changed files, that are listed; how many there are stands above. */
const LISTED = 200;
/** Characters of a run's JSON value that are shown; a copy has all of it. */
const MAX_OUTPUT = 100_000;

/** The agent's own plan and how far it is. */
export function Plan({ todo, running }: { todo: readonly TodoItem[]; running: boolean }): ReactNode {
  if (todo.length === 0) return null;
  const done = todo.filter((item) => item.status === "completed" || item.status === "cancelled").length;
  return (
    <section className="side-block">
      <h2>
        Plan <span className="side-count">{`${done} of ${todo.length}`}</span>
      </h2>
      <Progress value={Math.round((100 * done) / todo.length)} label="Plan" />
      <ol className="todo">
        {todo.slice(0, LISTED).map((item, at) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: the list has no other identity
          <li key={at} className={item.status}>
            <TodoMark status={item.status} running={running} />
            <span>{visible(item.content)}</span>
            <span className="sr">({words(item.status)})</span>
          </li>
        ))}
      </ol>
      <More of={todo.length} what="item" />
    </section>
  );
}

function More({ of, what }: { of: number; what: string }): ReactNode {
  return of > LISTED ? <p className="hint">{`and ${plural(of - LISTED, `more ${what}`)}`}</p> : null;
}

function TodoMark({ status, running }: { status: TodoItem["status"]; running: boolean }): ReactNode {
  if (status === "completed") return <Icon name="check" size={14} />;
  if (status === "cancelled") return <Icon name="cross" size={14} />;
  if (status === "in_progress" && running) return <span className="spinner" aria-hidden="true" />;
  return <span className="ring" aria-hidden="true" />;
}

export function ChangedFiles(props: {
  files: readonly ChangedFile[];
  additions?: number | undefined;
  deletions?: number | undefined;
  onFile?: ((path: string) => void) | undefined;
}): ReactNode {
  if (props.files.length === 0) return null;
  return (
    <section className="side-block">
      <h2>
        Changes <Counts additions={props.additions} deletions={props.deletions} />
      </h2>
      <ul className="side-files">
        {props.files.slice(0, LISTED).map((file) => (
          <li key={file.path}>
            <button
              type="button"
              onClick={() => props.onFile?.(file.path)}
              disabled={!props.onFile}
              title={visible(file.path)}
            >
              <FileMark change={file.change} />
              <span className="path mono">
                <bdi>{visible(file.path)}</bdi>
              </span>
              <Counts additions={file.additions} deletions={file.deletions} />
            </button>
          </li>
        ))}
      </ul>
      <More of={props.files.length} what="file" />
    </section>
  );
}

export function UsageBlock({
  usage,
  model,
}: {
  usage: Usage | null | undefined;
  model?: string | null | undefined;
}): ReactNode {
  if (!usage?.requests && !model) return null;
  const cached = usage ? usage.cache_read_tokens + usage.cache_write_tokens : 0;
  return (
    <section className="side-block">
      <h2>Model {usage?.requests ? <span className="side-count">{cost(usage.cost_usd)}</span> : null}</h2>
      {model && <p className="mono model-name">{modelName(model)}</p>}
      {usage && usage.requests > 0 && (
        <dl className="facts">
          <Fact name="Input">{count(usage.input_tokens)}</Fact>
          <Fact name="Output">{count(usage.output_tokens)}</Fact>
          {usage.reasoning_tokens > 0 && <Fact name="Thinking, of it">{count(usage.reasoning_tokens)}</Fact>}
          {cached > 0 && <Fact name="Cached">{count(cached)}</Fact>}
          <Fact name="Calls">{usage.requests}</Fact>
        </dl>
      )}
    </section>
  );
}

/** The JSON value that the task asked for by a schema. */
export function Output({ value }: { value: unknown }): ReactNode {
  if (value === undefined || value === null) return null;
  const lines = JSON.stringify(value, null, 2).slice(0, MAX_OUTPUT).split("\n");
  return (
    <section className="side-block">
      <h2>
        Output <CopyButton label="Copy the output as JSON" text={() => JSON.stringify(value, null, 2)} />
      </h2>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a long value is scrolled with the keyboard. */}
      <pre className="output-value mono" tabIndex={0}>
        {lines.map((line) => visible(line, MAX_OUTPUT)).join("\n")}
      </pre>
    </section>
  );
}

/** Every try, and how it ended. */
export function Attempts({
  attempts,
  most,
  now,
}: {
  attempts: readonly Attempt[];
  most: number;
  now: number;
}): ReactNode {
  if (attempts.length === 0) return null;
  return (
    <section className="side-block">
      <h2>
        Attempts <span className="side-count">{most > 1 ? `${attempts.length} of ${most} at most` : ""}</span>
      </h2>
      <ol className="attempts">
        {attempts.map((one) => (
          <li key={one.number}>
            <span className="attempt-number">{one.number}</span>
            <span>
              {one.ended ? words(one.ended) : "Running"}
              <span className="faint">
                {" "}
                {duration((one.ended_at ? Date.parse(one.ended_at) : now) - Date.parse(one.started_at))} · from{" "}
                {timeOfDay(one.started_at)}
              </span>
              <span className="worker mono" title={one.worker}>
                {one.worker}
              </span>
            </span>
          </li>
        ))}
      </ol>
    </section>
  );
}

export function About({ task }: { task: Task }): ReactNode {
  const labels = Object.entries(task.labels ?? {});
  return (
    <section className="side-block">
      <h2>About</h2>
      <dl className="facts">
        <Fact name="Execution">
          <span className="mono id" title={task.execution_id}>
            {task.execution_id.slice(0, 8)}
          </span>
          <CopyButton label="Copy execution id" text={() => task.execution_id} />
        </Fact>
        <Fact name="Project">
          <a href={href("/", { project: task.project_id })}>{task.project_id}</a>
        </Fact>
        {task.session_id && (
          <Fact name="Session">
            <a href={href("/sessions")} className="mono">
              {task.session_id.slice(0, 8)}
            </a>
          </Fact>
        )}
        {task.task_id && <Fact name="Task">{task.task_id}</Fact>}
        <Fact name="Submitted">
          {new Date(task.submitted_at).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}
        </Fact>
        {task.timeout_seconds ? <Fact name="Time limit">{duration(task.timeout_seconds * 1_000)}</Fact> : null}
        {task.last_sequence ? <Fact name="Output">{plural(task.last_sequence, "chunk")}</Fact> : null}
        {task.artifacts && task.artifacts !== "stored" ? (
          <Fact name="Workspace">
            {task.artifacts_message ? `${task.artifacts}: ${visible(task.artifacts_message)}` : task.artifacts}
          </Fact>
        ) : null}
        {task.branch ? (
          <Fact name="Branch">
            <span className="mono">{visible(task.branch)}</span>
          </Fact>
        ) : null}
        {task.commit ? (
          <Fact name="Commit">
            <span className="mono id" title={task.commit}>
              {task.commit.slice(0, 8)}
            </span>
            <CopyButton label="Copy commit id" text={() => task.commit ?? ""} />
          </Fact>
        ) : null}
        {task.pull_request ? (
          <Fact name="Pull request">
            <Page url={task.pull_request.url}>{`#${task.pull_request.number}`}</Page>
          </Fact>
        ) : null}
        {task.comment_url ? (
          <Fact name="Comment">
            <Page url={task.comment_url}>posted</Page>
          </Fact>
        ) : null}
        {task.result_message ? <Fact name="Result">{visible(task.result_message)}</Fact> : null}
        <Fact name="Archive">{task.archived ? "verified" : "not yet"}</Fact>
      </dl>
      {labels.length > 0 && (
        <ul className="labels">
          {labels.map(([name, value]) => (
            <li key={name}>
              <a href={href("/", { label: `${name}=${value}` })}>{`${name}=${value}`}</a>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

/** A link to the forge's page; plain text where its address is no web page's. */
function Page({ url, children }: { url: string; children: ReactNode }): ReactNode {
  return /^https?:\/\//.test(url) ? (
    <a href={url} target="_blank" rel="noreferrer noopener">
      {children}
    </a>
  ) : (
    children
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }): ReactNode {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
