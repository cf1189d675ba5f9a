import { type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { DeadLetter } from "../api/types";
import { useAction, useNow, usePolled, useRows } from "../hooks";
import { ago, plural } from "../model/format";
import { href } from "../router";
import { Icon } from "../ui/icons";
import { CardSkeletons, Confirm, CopyButton, Empty, ErrorText, Failure, Skeleton } from "../ui/parts";

const PAGE = 100;

/** Dead letters: events that could not be handled, with the reason; sent again or dropped. */
export function DeadLettersScreen(): ReactNode {
  const { data, error, refresh, rows, more } = useRows("dlq", 5_000, PAGE, (part, signal) =>
    api.deadLetters(part.limit, part.cursor, signal),
  );
  const now = useNow(10_000);
  useEffect(() => {
    document.title = "Dead letters · OpenCode Functions";
  }, []);
  return (
    <div className="page">
      <header className="page-head">
        <h1>Dead letters</h1>
        {error && data && !error.offline && <span className="stale">{error.message}</span>}
      </header>
      {!data && error && <Failure error={error} onRetry={refresh} />}
      {!data && !error && <CardSkeletons cards={3} />}
      {data?.items.length === 0 && (
        <Empty icon="letters" title="Nothing was left over">
          An event that no function could handle would be kept here, with the reason, until it is sent again or dropped.
        </Empty>
      )}
      {data && data.items.length > 0 && (
        <>
          <p className="page-note">
            {data.next
              ? `More than ${data.items.length} events could not be handled; these are the oldest.`
              : `${plural(data.items.length, "event")} could not be handled.`}{" "}
            Mend the cause, then send them again: each goes where it came from, byte for byte.
          </p>
          <div className="cards">
            {data.items.map((letter) => (
              <Letter key={letter.seq} letter={letter} now={now} onChanged={refresh} />
            ))}
          </div>
          {data.next && (
            <div className="page-more">
              <button type="button" className="button" disabled={data.items.length < rows} onClick={more}>
                Show later ones
              </button>
            </div>
          )}
        </>
      )}
    </div>
  );
}

function Letter({ letter, now, onChanged }: { letter: DeadLetter; now: number; onChanged: () => void }): ReactNode {
  const [open, setOpen] = useState(false);
  const [dropping, setDropping] = useState(false);
  const action = useAction();
  const done = async (run: () => Promise<unknown>): Promise<void> => {
    if (await action.run(run)) {
      setDropping(false);
      onChanged();
    }
  };
  const name = letter.type ?? letter.subject ?? "an event without a name";
  return (
    <article className="card letter tone-red">
      <span className="card-mark">
        <Icon name="letters" size={14} />
      </span>
      <div className="card-main">
        <h2>
          <button type="button" className="plain-link" aria-expanded={open} onClick={() => setOpen(!open)}>
            {letter.reason}
          </button>
        </h2>
        <p className="card-meta">
          <span className="mono">{name}</span>
          <span>{letter.consumer}</span>
          {letter.status ? <span>HTTP {letter.status}</span> : null}
          {letter.deliveries ? <span>{plural(letter.deliveries, "delivery", "deliveries")}</span> : null}
        </p>
        <ErrorText error={action.error} />
      </div>
      <div className="card-facts">
        {letter.failed_at && (
          <span title={new Date(letter.failed_at).toLocaleString()}>{ago(letter.failed_at, now)}</span>
        )}
      </div>
      <div className="card-actions">
        {!letter.sha256 && (
          <button
            type="button"
            className="button small"
            disabled={action.busy}
            onClick={() => void done(() => api.redrive(letter.seq))}
          >
            <Icon name="replay" size={13} /> Send again
          </button>
        )}
        <button
          type="button"
          className="button quiet small"
          aria-label="Drop this event"
          title="Drop"
          onClick={() => setDropping(true)}
        >
          <Icon name="trash" size={14} />
        </button>
      </div>
      {open && <LetterBody letter={letter} />}
      {dropping && (
        <Confirm
          title="Drop this event?"
          action="Drop it"
          danger
          busy={action.busy}
          error={action.error}
          onConfirm={() => void done(() => api.drop(letter.seq))}
          onClose={() => {
            setDropping(false);
            action.clear();
          }}
        >
          It is removed for good and will never be handled.
        </Confirm>
      )}
    </article>
  );
}

function LetterBody({ letter }: { letter: DeadLetter }): ReactNode {
  const { data, error, refresh } = usePolled(`dlq-${letter.seq}`, 3_600_000, (signal) =>
    api.deadLetter(letter.seq, signal),
  );
  const execution = letter.subject?.split(".").at(-1);
  return (
    <div className="letter-body">
      <dl className="facts">
        <div>
          <dt>Subject</dt>
          <dd className="mono">{letter.subject}</dd>
        </div>
        {letter.subject?.startsWith("ocf.cmd.") && execution && (
          <div>
            <dt>Execution</dt>
            <dd>
              <a href={href(`/tasks/${execution}`)} className="mono">
                {execution.slice(0, 8)}
              </a>
            </dd>
          </div>
        )}
        {letter.sha256 && (
          <div>
            <dt>Not kept</dt>
            <dd>
              {letter.size} bytes that could not be read, SHA-256 <span className="mono">{letter.sha256}</span>
            </dd>
          </div>
        )}
      </dl>
      {error && !data && <Failure error={error} onRetry={refresh} />}
      {!data && !error && <Skeleton rows={4} />}
      {data && !letter.sha256 && (
        <div className="tool-output">
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
          <pre tabIndex={0}>{pretty(data.data ?? "")}</pre>
          <CopyButton label="Copy the event's data" text={() => data.data ?? ""} />
        </div>
      )}
    </div>
  );
}

/** Characters of an event's data that are shown, and those that are set out in lines. */
const DATA_MOST = 100_000;

function pretty(text: string): string {
  if (text.length > DATA_MOST) {
    return `${text.slice(0, DATA_MOST)}\n… ${plural(text.length - DATA_MOST, "more character")}: copy has all`;
  }
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // that it is no JSON may be why it is here
  }
}
