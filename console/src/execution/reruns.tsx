import { type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { Rerun, Task } from "../api/types";
import { visible } from "../model/escape-controls";
import { plural, words } from "../model/format";
import { href } from "../router";

/** Differences and reruns that are listed. */
const LISTED = 50;

/** Of a rerun: what it repeats, and where it differs. Of an original: its reruns. */
export function Reruns({ task, ended }: { task: Task; ended: boolean }): ReactNode {
  const again = useReruns(task, ended);
  if (!task.rerun_of && again.length === 0) return null;
  return (
    <section className="side-block reruns">
      <h2>
        Reruns{" "}
        {again.length > 0 && (
          <span className="side-count">{again.length < LISTED ? again.length : `newest ${LISTED}`}</span>
        )}
      </h2>
      {task.rerun_of && (
        <p className="rerun-of">
          Runs <Execution id={task.rerun_of} /> again{" "}
          {ended && (
            <a href={href(`/tasks/${task.rerun_of}/compare`, { with: task.execution_id })} className="faint">
              compare
            </a>
          )}
        </p>
      )}
      {task.rerun && <Differences rerun={task.rerun} />}
      {again.length > 0 && (
        <ul className="rerun-list">
          {again.map((one) => (
            <li key={one.execution_id}>
              <Execution id={one.execution_id} /> <span className="faint">{words(one.status)}</span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function Differences({ rerun }: { rerun: Rerun }): ReactNode {
  const found = rerun.divergences ?? [];
  const all = found.length + (rerun.more ?? 0);
  const live = rerun.live_calls ? `, ${plural(rerun.live_calls, "call")} of the model` : "";
  return (
    <>
      <p className="hint">
        {`${plural(rerun.calls, "recorded call")}${live}, ${all === 0 ? "no difference" : plural(all, "difference")}`}
      </p>
      {found.length > 0 && (
        <ol className="divergences">
          {found.slice(0, LISTED).map((one, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: the list has no other identity
            <li key={at}>
              <strong>{`Call ${one.call}, ${visible(one.part)}`}</strong>
              {one.text && <code className="mono">{visible(one.text, 500)}</code>}
            </li>
          ))}
        </ol>
      )}
      {all > Math.min(found.length, LISTED) && (
        <p className="hint">{`and ${plural(all - Math.min(found.length, LISTED), "more difference")}`}</p>
      )}
    </>
  );
}

function Execution({ id }: { id: string }): ReactNode {
  return (
    <a href={href(`/tasks/${id}`)} className="mono" title={id}>
      {id.slice(0, 8)}
    </a>
  );
}

/** The executions that run an ended one again; none while the gateway has not answered. */
function useReruns(task: Task, ended: boolean): readonly Task[] {
  const [found, setFound] = useState<readonly Task[]>([]);
  const { execution_id, project_id } = task;
  useEffect(() => {
    setFound([]);
    if (!ended) return;
    const leaving = new AbortController();
    api.tasks({ project_id, rerun_of: execution_id, limit: LISTED }, leaving.signal).then(
      (page) => setFound(page.items.filter((one) => one.rerun_of === execution_id)),
      () => undefined,
    );
    return () => leaving.abort();
  }, [execution_id, project_id, ended]);
  return found;
}
