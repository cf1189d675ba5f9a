import { type FormEvent, type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { Session } from "../api/types";
import { useAction, useNow, useRows } from "../hooks";
import { ago, plural, until, words } from "../model/format";
import { href } from "../router";
import { Icon } from "../ui/icons";
import { CardSkeletons, Confirm, CopyButton, Empty, ErrorText, Failure, Field } from "../ui/parts";

const PAGE = 50;

/** Sessions: conversations that keep their workspace between executions. */
export function SessionsScreen(): ReactNode {
  const { data, error, refresh, rows, more } = useRows("sessions", 4_000, PAGE, (part, signal) =>
    api.sessions(part.limit, part.cursor, signal),
  );
  const [creating, setCreating] = useState(false);
  const [destroying, setDestroying] = useState<Session | null>(null);
  const action = useAction();
  const now = useNow(10_000);
  useEffect(() => {
    document.title = "Sessions · OpenCode Functions";
  }, []);
  const destroy = async (): Promise<void> => {
    if (destroying && (await action.run(() => api.destroySession(destroying.session_id)))) {
      setDestroying(null);
      refresh();
    }
  };
  return (
    <div className="page">
      <header className="page-head">
        <h1>Sessions</h1>
        {error && data && !error.offline && <span className="stale">{error.message}</span>}
        <button
          type="button"
          className="button primary"
          onClick={() => setCreating(!creating)}
          aria-expanded={creating}
        >
          <Icon name="plus" size={14} /> New session
        </button>
      </header>
      {creating && (
        <CreateSession
          onDone={() => {
            setCreating(false);
            refresh();
          }}
        />
      )}
      {!data && error && <Failure error={error} onRetry={refresh} />}
      {!data && !error && <CardSkeletons cards={3} />}
      {data?.items.length === 0 && !creating && (
        <Empty icon="sessions" title="No sessions">
          A session keeps its workspace and its conversation from one execution to the next, until its time is over.
        </Empty>
      )}
      {data && data.items.length > 0 && (
        <div className="cards">
          {data.items.map((session) => (
            <SessionCard
              key={session.session_id}
              session={session}
              now={now}
              onDestroy={() => setDestroying(session)}
            />
          ))}
        </div>
      )}
      {data?.next && (
        <div className="page-more">
          <button type="button" className="button" disabled={data.items.length < rows} onClick={more}>
            Show older sessions
          </button>
        </div>
      )}
      {destroying && (
        <Confirm
          title="Destroy this session?"
          action="Destroy it"
          danger
          busy={action.busy}
          error={action.error}
          onConfirm={() => void destroy()}
          onClose={() => {
            setDestroying(null);
            action.clear();
          }}
        >
          Its workspace, its conversation and every execution that was made in it are removed for good: record, output
          and files. What runs in it is cancelled.
        </Confirm>
      )}
    </div>
  );
}

function SessionCard({ session, now, onDestroy }: { session: Session; now: number; onDestroy: () => void }): ReactNode {
  const queue = session.queue ?? [];
  const clients = session.clients ?? [];
  const [turn, ...waiting] = queue;
  const last = session.executions?.findLast((one) => !queue.includes(one));
  const state = session.state === "destroying" ? "destroying" : queue.length > 0 ? "in_use" : "open";
  return (
    <article className={`card ${state === "in_use" ? "tone-blue" : ""}`}>
      <span className="card-mark">
        <Icon name="sessions" size={14} />
      </span>
      <div className="card-main">
        <h2 className="mono">
          {session.session_id.slice(0, 8)} <CopyButton label="Copy session id" text={() => session.session_id} />
        </h2>
        <p className="card-meta">
          <span className="card-state">{words(state)}</span>
          <span>{session.project_id}</span>
          {session.executions && session.executions.length > 0 && (
            <span>{plural(session.executions.length, "execution")}</span>
          )}
          {turn && <a href={href(`/tasks/${turn}`)}>watch what runs</a>}
          {last && <a href={href(`/tasks/${last}`)}>last execution</a>}
          {waiting.length > 0 && <span>{waiting.length} waiting</span>}
          {session.from_execution_id && (
            <a href={href(`/tasks/${session.from_execution_id}`)}>forked from an execution</a>
          )}
          {clients.length > 0 && (
            <span title={clients.map((client) => client.client_id).join(", ")}>
              {plural(clients.length, "client")} attached
            </span>
          )}
          {Object.entries(session.labels ?? {}).map(([name, value]) => (
            <span className="chip" key={name}>
              {value ? `${name}=${value}` : name}
            </span>
          ))}
        </p>
      </div>
      <div className="card-facts">
        {session.created_at && (
          <span title={new Date(session.created_at).toLocaleString()}>{ago(session.created_at, now)}</span>
        )}
        <span className="card-numbers">
          {session.expires_at && <span>expires {until(session.expires_at, now)}</span>}
        </span>
      </div>
      <div className="card-actions">
        <a className="button small" href={href("/new", { session: session.session_id, project: session.project_id })}>
          Follow up
        </a>
        <button
          type="button"
          className="button quiet small"
          aria-label="Destroy this session"
          title="Destroy"
          onClick={onDestroy}
        >
          <Icon name="trash" size={14} />
        </button>
      </div>
    </article>
  );
}

function CreateSession({ onDone }: { onDone: () => void }): ReactNode {
  const [project, setProject] = useState("");
  const [hours, setHours] = useState("");
  const [from, setFrom] = useState("");
  const action = useAction();
  const errors = new Map(
    (action.error?.errors ?? []).map((error) => [error.field.replace(/^body\./, ""), error.message]),
  );
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    const body = {
      ...(project.trim() ? { project_id: project.trim() } : {}),
      ...(hours.trim() ? { ttl_seconds: Math.round(Number(hours) * 3_600) } : {}),
      ...(from.trim() ? { from_execution_id: from.trim() } : {}),
    };
    if (await action.run(() => api.createSession(body))) onDone();
  };
  return (
    <form className="inline-form" onSubmit={(event) => void submit(event)}>
      <Field label="Project" error={errors.get("project_id")}>
        {(ids) => (
          <input {...ids} value={project} placeholder="default" onChange={(event) => setProject(event.target.value)} />
        )}
      </Field>
      <Field label="Hours to keep it" error={errors.get("ttl_seconds")}>
        {(ids) => (
          <input
            {...ids}
            value={hours}
            inputMode="decimal"
            placeholder="the operator's"
            onChange={(event) => setHours(event.target.value)}
          />
        )}
      </Field>
      <Field label="Fork from execution" error={errors.get("from_execution_id")}>
        {(ids) => (
          <input
            {...ids}
            value={from}
            placeholder="none: starts empty"
            onChange={(event) => setFrom(event.target.value)}
          />
        )}
      </Field>
      <button type="submit" className="button primary" disabled={action.busy}>
        Create
      </button>
      {errors.size === 0 && <ErrorText error={action.error} />}
    </form>
  );
}
