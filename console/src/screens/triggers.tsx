import { type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { Decision, InboxEvent, Rule } from "../api/types";
import { useAction, useNow, usePolled } from "../hooks";
import { ago, plural } from "../model/format";
import { href } from "../router";
import { Icon } from "../ui/icons";
import { JsonForm } from "../ui/json-text-form";
import { CardSkeletons, Confirm, Empty, Failure } from "../ui/parts";
import { ProjectField, useProject } from "../ui/project";

const EXAMPLE = `{
  "name": "labelled",
  "on": {
    "type": "com.github.issues.labeled",
    "where": "event.data.label.name == \\"agent\\"",
    "actors": {"permission": "any"}
  },
  "task": {"prompt": "Fix this issue: {{ event.data.issue.title }}"}
}`;
/** What the gateway adds to a rule when it lists it. */
const SHOWN = ["matched", "last_event", "refused", "polled", "problem"];

/** Rules, and what they decided about the latest events. */
export function TriggersScreen(): ReactNode {
  const project = useProject();
  const rules = usePolled(`rules-${project}`, 5_000, (signal) => api.rules(project, signal));
  const events = usePolled(`inbox-${project}`, 5_000, (signal) => api.inbox(project, signal));
  const [editing, setEditing] = useState<string | null>(null);
  const now = useNow(10_000);
  useEffect(() => {
    document.title = "Triggers · OpenCode Functions";
  }, []);
  const { data, error, refresh } = rules;
  return (
    <div className="page">
      <header className="page-head">
        <h1>Triggers</h1>
        {error && data && !error.offline && <span className="stale">{error.message}</span>}
        <ProjectField />
        <button type="button" className="button primary" onClick={() => setEditing(editing === null ? EXAMPLE : null)}>
          <Icon name="plus" size={14} /> New rule
        </button>
      </header>
      {editing !== null && (
        <JsonForm
          key={editing}
          label="Rule"
          hint="One of the same name is replaced. See docs/how-to/start-tasks-from-events.md for its fields."
          action="Apply"
          initial={editing}
          rows={12}
          onSend={(rule) => api.applyRule(project ? { project_id: project, ...rule } : rule)}
          onDone={() => {
            setEditing(null);
            refresh();
          }}
        />
      )}
      {!data && error && <Failure error={error} onRetry={refresh} />}
      {!data && !error && <CardSkeletons cards={3} />}
      {data?.length === 0 && editing === null && (
        <Empty icon="bolt" title="No rules">
          A rule starts a task when an event arrives: an issue is labelled, a build fails, a scanner reports.
        </Empty>
      )}
      <div className="cards">
        {data?.map((rule) => (
          <RuleCard
            key={rule.name}
            rule={rule}
            project={project}
            now={now}
            onEdit={() => setEditing(JSON.stringify(stored(rule), null, 2))}
            onChanged={refresh}
          />
        ))}
      </div>
      {events.data && data && (
        <>
          <h2 className="section-head">Latest events</h2>
          {events.data.length === 0 && <p className="page-note">None has arrived in the last days.</p>}
          <div className="cards">
            {events.data.map((event, at) => (
              // biome-ignore lint/suspicious/noArrayIndexKey: one event may have been delivered twice
              <EventCard key={`${event.source} ${event.id} ${event.time} ${at}`} event={event} now={now} />
            ))}
          </div>
        </>
      )}
    </div>
  );
}

function stored(rule: Rule): Record<string, unknown> {
  return Object.fromEntries(Object.entries(rule).filter(([name]) => !SHOWN.includes(name)));
}

interface RuleProps {
  readonly rule: Rule;
  readonly project: string | undefined;
  readonly now: number;
  readonly onEdit: () => void;
  readonly onChanged: () => void;
}

function RuleCard({ rule, project, now, onEdit, onChanged }: RuleProps): ReactNode {
  const [testing, setTesting] = useState(false);
  const [removing, setRemoving] = useState(false);
  const action = useAction();
  const problem = rule.problem || rule.polled?.problem;
  const refused = rule.refused?.at(-1);
  const { type, source, subject, where } = rule.on;
  return (
    <article className={`card letter ${problem ? "tone-red" : ""}`}>
      <span className="card-mark">
        <Icon name="bolt" size={14} />
      </span>
      <div className="card-main">
        <h2>{rule.name}</h2>
        <p className="card-meta">
          <span className="mono">{[type, source, subject].filter(Boolean).join(" ")}</span>
          {where && <span className="mono">{where}</span>}
          {rule.poll && (
            <span>
              polls {rule.poll.what.replace("_", " ")} of {rule.poll.repository}
            </span>
          )}
        </p>
        {problem && <p className="error">{problem}</p>}
        {refused && (
          <p className="decisions">
            Held back {ago(refused.time, now)}: {refused.reason}
          </p>
        )}
      </div>
      <div className="card-facts">
        <span>{plural(rule.matched ?? 0, "start")}</span>
        {rule.last_event && <span>last {ago(rule.last_event.time, now)}</span>}
        {rule.polled?.polled_at && <span>polled {ago(rule.polled.polled_at, now)}</span>}
      </div>
      <div className="card-actions">
        <button type="button" className="button small" aria-expanded={testing} onClick={() => setTesting(!testing)}>
          Test
        </button>
        <button type="button" className="button small" onClick={onEdit}>
          Edit
        </button>
        <button
          type="button"
          className="button quiet small"
          aria-label={`Delete the rule ${rule.name}`}
          title="Delete"
          onClick={() => setRemoving(true)}
        >
          <Icon name="trash" size={14} />
        </button>
      </div>
      {testing && (
        <div className="letter-body">
          <TestRule rule={rule} project={project} />
        </div>
      )}
      {removing && (
        <Confirm
          title={`Delete the rule ${rule.name}?`}
          action="Delete it"
          danger
          busy={action.busy}
          error={action.error}
          onConfirm={() =>
            void action.run(() => api.removeRule(rule.name, project)).then((done) => done && onChanged())
          }
          onClose={() => setRemoving(false)}
        >
          Events start nothing by it any more. Executions that it started go on.
        </Confirm>
      )}
    </article>
  );
}

/** What the rule would make of an event; nothing is published. */
function TestRule({ rule, project }: { rule: Rule; project: string | undefined }): ReactNode {
  const [found, setFound] = useState<{ submits: unknown[]; mismatch: string | null } | null>(null);
  const type = rule.on.type?.replace("*", "x") ?? "org.example.event";
  const event = { specversion: "1.0", id: "1", source: rule.on.source ?? "/test", type, data: {} };
  return (
    <JsonForm
      label="CloudEvent"
      hint="Nothing is published, and no limit is asked."
      action="Test it"
      initial={JSON.stringify(event, null, 2)}
      rows={7}
      onSend={async (value) => setFound(await api.testRule(rule.name, value, project))}
    >
      {found && (
        <div role="status">
          {found.mismatch !== null ? (
            <p className="decisions">It does not match: {found.mismatch}</p>
          ) : (
            <div className="tool-output">
              {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
              <pre tabIndex={0}>{JSON.stringify(found.submits[0], null, 2)}</pre>
            </div>
          )}
        </div>
      )}
    </JsonForm>
  );
}

function EventCard({ event, now }: { event: InboxEvent; now: number }): ReactNode {
  const [open, setOpen] = useState(false);
  const started = event.rules.filter((one) => one.started);
  const failed = event.problem || event.rules.some((one) => one.problem);
  const tone = failed ? "tone-red" : started.length > 0 ? "tone-green" : "";
  return (
    <article className={`card letter ${tone}`}>
      <span className="card-mark">
        <Icon name={failed ? "warning" : started.length > 0 ? "check" : "letters"} size={14} />
      </span>
      <div className="card-main">
        <h3>
          <button type="button" className="plain-link" aria-expanded={open} onClick={() => setOpen(!open)}>
            {event.type ?? "an event that cannot be read"}
          </button>
        </h3>
        <p className="card-meta">
          <span className="mono">{event.source}</span>
          {event.subject && <span>{event.subject}</span>}
          {started.map((one) => (
            <a key={one.rule} href={href(`/tasks/${one.execution_id}`)}>
              {one.rule} started
            </a>
          ))}
          {!failed && started.length === 0 && <span>started nothing</span>}
        </p>
        {event.problem && <p className="error">{event.problem}</p>}
      </div>
      <div className="card-facts">
        {event.time && <span title={new Date(event.time).toLocaleString()}>{ago(event.time, now)}</span>}
      </div>
      {open && (
        <ul className="letter-body">
          {event.rules.map((one) => (
            <li key={one.rule} className="decisions">
              <strong>{one.rule}</strong> {inWords(one)}
            </li>
          ))}
          {event.rules.length === 0 && <li className="decisions">There are no rules.</li>}
        </ul>
      )}
    </article>
  );
}

function inWords(decision: Decision): string {
  if (decision.problem) return decision.problem;
  if (decision.mismatch) return `does not match: ${decision.mismatch}`;
  return decision.started ? "matches, and started an execution" : "matches; held back by a limit, or not yet started";
}
