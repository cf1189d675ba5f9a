import { type FormEvent, type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { Schedule } from "../api/types";
import { useAction, useNow, usePolled } from "../hooks";
import { ago, until } from "../model/format";
import { Icon } from "../ui/icons";
import { CardSkeletons, Confirm, Empty, ErrorText, Failure, Field, Segmented } from "../ui/parts";
import { ProjectField, useProject } from "../ui/project";

const OVERLAPS = [
  { value: "skip", label: "Skip", title: "Skip the tick while an earlier execution runs" },
  { value: "queue", label: "Queue", title: "Wait for the earlier execution" },
  { value: "cancel", label: "Cancel", title: "Cancel the earlier execution" },
] as const;
type Overlap = (typeof OVERLAPS)[number]["value"];

/** Schedules: tasks at the times of a cron expression. */
export function SchedulesScreen(): ReactNode {
  const project = useProject();
  const { data, error, refresh } = usePolled(`schedules-${project}`, 5_000, (signal) => api.schedules(project, signal));
  const [creating, setCreating] = useState(false);
  const now = useNow(10_000);
  useEffect(() => {
    document.title = "Schedules · OpenCode Functions";
  }, []);
  return (
    <div className="page">
      <header className="page-head">
        <h1>Schedules</h1>
        {error && data && !error.offline && <span className="stale">{error.message}</span>}
        <ProjectField />
        <button
          type="button"
          className="button primary"
          aria-expanded={creating}
          onClick={() => setCreating(!creating)}
        >
          <Icon name="plus" size={14} /> New schedule
        </button>
      </header>
      {creating && (
        <CreateSchedule
          project={project}
          onDone={() => {
            setCreating(false);
            refresh();
          }}
        />
      )}
      {!data && error && <Failure error={error} onRetry={refresh} />}
      {!data && !error && <CardSkeletons cards={3} />}
      {data?.length === 0 && !creating && (
        <Empty icon="clock" title="No schedules">
          A schedule starts a task at the times of a cron expression, in a time zone.
        </Empty>
      )}
      <div className="cards">
        {data?.map((one) => (
          <ScheduleCard key={one.name} schedule={one} project={project} now={now} onChanged={refresh} />
        ))}
      </div>
    </div>
  );
}

interface CardProps {
  readonly schedule: Schedule;
  readonly project: string | undefined;
  readonly now: number;
  readonly onChanged: () => void;
}

function ScheduleCard({ schedule, project, now, onChanged }: CardProps): ReactNode {
  const [removing, setRemoving] = useState(false);
  const action = useAction();
  const upcoming = schedule.upcoming ?? [];
  const refused = schedule.refused?.at(-1);
  const paused = schedule.paused ?? false;
  const done = async (run: () => Promise<unknown>): Promise<void> => {
    if (await action.run(run)) onChanged();
  };
  return (
    <article className="card letter">
      <span className="card-mark">
        <Icon name={paused ? "pause" : "clock"} size={14} />
      </span>
      <div className="card-main">
        <h2>{schedule.name}</h2>
        <p className="card-meta">
          <span className="mono">{schedule.cron}</span>
          <span>{schedule.timezone}</span>
          <span>overlap: {schedule.overlap}</span>
          {paused && <span className="card-state">paused</span>}
        </p>
        {upcoming.length > 0 && (
          <p className="decisions">Next: {upcoming.map((one) => timeIn(one, schedule.timezone)).join(" · ")}</p>
        )}
        {refused && (
          <p className="decisions">
            Started nothing {ago(refused.time, now)}: {refused.reason}
          </p>
        )}
        <ErrorText error={action.error} />
      </div>
      <div className="card-facts">
        {upcoming[0] && <span>{until(upcoming[0], now)}</span>}
        {schedule.last && <span>last {ago(schedule.last.time, now)}</span>}
      </div>
      <div className="card-actions">
        <button
          type="button"
          className="button small"
          disabled={action.busy}
          onClick={() => void done(() => api.pauseSchedule(schedule.name, !paused, project))}
        >
          {paused ? "Resume" : "Pause"}
        </button>
        <button
          type="button"
          className="button quiet small"
          aria-label={`Delete the schedule ${schedule.name}`}
          title="Delete"
          onClick={() => setRemoving(true)}
        >
          <Icon name="trash" size={14} />
        </button>
      </div>
      {removing && (
        <Confirm
          title={`Delete the schedule ${schedule.name}?`}
          action="Delete it"
          danger
          busy={action.busy}
          error={action.error}
          onConfirm={() => void done(() => api.removeSchedule(schedule.name, project))}
          onClose={() => setRemoving(false)}
        >
          It starts nothing any more. Executions that it started go on.
        </Confirm>
      )}
    </article>
  );
}

/** A time as the schedule's clock shows it. */
function timeIn(at: string, timeZone: string): string {
  const parts = { weekday: "short", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" } as const;
  return new Date(at).toLocaleString("en", { ...parts, hourCycle: "h23", timeZone });
}

function CreateSchedule({ project, onDone }: { project: string | undefined; onDone: () => void }): ReactNode {
  const [form, setForm] = useState({ name: "", cron: "0 6 * * 1-5", timezone: "", prompt: "" });
  const [overlap, setOverlap] = useState<Overlap>("skip");
  const action = useAction();
  const errors = new Map((action.error?.errors ?? []).map((one) => [one.field.replace(/^body\./, ""), one.message]));
  const text = (name: keyof typeof form, label: string, placeholder: string, hint?: string): ReactNode => (
    <Field label={label} hint={hint} error={errors.get(name === "prompt" ? "task.prompt" : name)}>
      {(ids) => (
        <input
          {...ids}
          value={form[name]}
          placeholder={placeholder}
          spellCheck={false}
          onChange={(event) => setForm({ ...form, [name]: event.target.value })}
        />
      )}
    </Field>
  );
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    const zone = form.timezone.trim() ? { timezone: form.timezone.trim() } : {};
    const named = { name: form.name.trim(), cron: form.cron.trim(), overlap, task: { prompt: form.prompt } };
    if (await action.run(() => api.createSchedule({ ...named, ...zone, ...(project ? { project_id: project } : {}) })))
      onDone();
  };
  return (
    <form className="inline-form stacked" onSubmit={(event) => void submit(event)} noValidate>
      {text("name", "Name", "nightly")}
      {text("cron", "Cron", "0 6 * * 1-5", "Minute, hour, day, month, weekday.")}
      {text("timezone", "Time zone", "UTC", "Such as Europe/Berlin.")}
      <div className="wide">{text("prompt", "What is to be done?", "Update the dependencies")}</div>
      <div className="form-end">
        {errors.size === 0 && <ErrorText error={action.error} />}
        <span className="hint">While an earlier execution runs</span>
        <Segmented label="While an earlier execution runs" value={overlap} options={OVERLAPS} onChange={setOverlap} />
        <button type="submit" className="button primary" disabled={action.busy}>
          Create
        </button>
      </div>
    </form>
  );
}
