import { type ReactNode, useRef, useState } from "react";
import type { Task } from "../api/types";
import { useKeys, useNow } from "../hooks";
import { duration } from "../model/format";
import { asText } from "../model/transcript-as-text";
import type { Severity, Summary } from "../model/transcript-rows";
import { href } from "../router";
import { CopyButton, Empty, Skeleton } from "../ui/parts";
import { SearchBox, SeverityFilter, useFiltered, useSearch } from "./search-filter";
import { type TranscriptHandle, TranscriptList } from "./transcript-list";
import type { Execution } from "./use-execution";
import { WaitingCard } from "./waiting-card";

/** What was written and done, with a filter and a search. */
export function TranscriptView(props: {
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
      <div className="execution-tools">
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
  if (task.status === "rejected") {
    return (
      <Empty
        icon="cross"
        title="It never started"
        action={
          <a className="button" href={href("/new", { from: task.execution_id })}>
            Mend it and run it again
          </a>
        }
      >
        The request was refused before anything ran; what was wrong with it stands above.
      </Empty>
    );
  }
  return <Empty icon="terminal" title={task.status === "running" ? "Nothing said yet" : "It said nothing"} />;
}
