import type { ReactNode } from "react";
import { ApiError, api } from "../api/client";
import type { Task } from "../api/types";
import { useAction } from "../hooks";
import { save, saveChunks, saveText } from "../model/download";
import { go, href } from "../router";
import { Menu } from "../ui/parts";
import type { Execution } from "./use-execution";

/** Downloads, and what else one does with an execution. */
export function ExecutionMenu(props: {
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
  const rerun = (): Promise<boolean> =>
    action.run(async () => {
      go(href(`/tasks/${(await api.rerun(id)).execution_id}`));
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
        <button type="button" onClick={() => void rerun()} disabled={!task.archived}>
          Rerun its recording
        </button>
        <a href={href("/new", { snapshot: props.ended ? id : undefined })} aria-disabled={!props.ended}>
          Continue in its workspace…
        </a>
        <a href={href(`/tasks/${id}/compare`)} aria-disabled={!props.ended}>
          Compare with…
        </a>
        {task.session_id && (
          <a href={href("/new", { session: task.session_id, project: task.project_id })}>Follow up in its session…</a>
        )}
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
