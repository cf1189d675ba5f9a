import { type ReactNode, useEffect, useId, useRef, useState } from "react";
import type { ApiError } from "../api/client";
import { words } from "../model/format";
import { href } from "../router";
import type { State } from "../stream";
import { Icon, type IconName } from "./icons";

const TONES: Readonly<Record<State, string>> = {
  pending: "grey",
  running: "blue",
  completed: "green",
  failed: "red",
  cancelled: "grey",
  timed_out: "amber",
  rejected: "red",
};

export function tone(state: string): string {
  return TONES[state as State] ?? "grey";
}

/** A state in one word; form and word carry it, not the colour alone. */
export function StateBadge({ state, waiting = false }: { state: string; waiting?: boolean }): ReactNode {
  const shown = waiting ? "Needs you" : words(state);
  return (
    <span className={`badge tone-${waiting ? "amber" : tone(state)}`}>
      <StateMark state={waiting ? "waiting" : state} />
      {shown}
    </span>
  );
}

export function StateMark({ state }: { state: string }): ReactNode {
  if (state === "running") return <span className="spinner" aria-hidden="true" />;
  if (state === "completed") return <Icon name="check" size={12} />;
  if (state === "failed" || state === "rejected") return <Icon name="cross" size={12} />;
  if (state === "timed_out") return <Icon name="clock" size={12} />;
  if (state === "waiting") return <Icon name="hand" size={12} />;
  if (state === "cancelled") return <Icon name="stop" size={12} />;
  return <span className="dot" aria-hidden="true" />;
}

export function Progress({ value, label }: { value: number; label: string }): ReactNode {
  return (
    <div
      className="progress"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={value}
    >
      <div style={{ inlineSize: `${value}%` }} />
    </div>
  );
}

/** What a place shows when there is nothing to show, with the next step. */
export function Empty(props: {
  icon: IconName;
  title: string;
  children?: ReactNode;
  action?: ReactNode;
  /** Nothing else is on the page: its title is the page's. */
  alone?: boolean;
}): ReactNode {
  const Title = props.alone ? "h1" : "h2";
  return (
    <div className="empty">
      <span className="empty-icon">
        <Icon name={props.icon} size={22} />
      </span>
      <Title>{props.title}</Title>
      {props.children && <p>{props.children}</p>}
      {props.action}
    </div>
  );
}

/** Why there is nothing, and what can be done about it. */
export function Failure(props: { error: ApiError; onRetry?: () => void; retry?: string; alone?: boolean }): ReactNode {
  const { error, onRetry, retry = "Try again", alone = false } = props;
  const [icon, title, text] = failureOf(error);
  return (
    <div role="alert">
      <Empty
        icon={icon}
        title={title}
        alone={alone}
        action={
          <div className="empty-actions">
            {onRetry && (
              <button type="button" className="button" onClick={onRetry}>
                {retry}
              </button>
            )}
            {[403, 404].includes(error.status) && (
              <a className="button" href={href("/")}>
                To the executions
              </a>
            )}
          </div>
        }
      >
        {text}
      </Empty>
    </div>
  );
}

function failureOf(error: ApiError): [IconName, string, string] {
  if (error.offline) {
    const text = "It is tried again every few seconds. What runs, keeps running: only this view is cut off.";
    return ["wifi", "The gateway cannot be reached", text];
  }
  switch (error.status) {
    case 401:
      return ["hand", "A token is needed", error.message];
    case 403:
      return ["hand", "Not yours to see", error.message];
    case 404:
      return ["search", "Not found", error.message];
    default:
      return ["warning", "That did not work", error.message];
  }
}

/** What a list shows while it is loaded: its own shape. */
export function CardSkeletons({ cards }: { cards: number }): ReactNode {
  return (
    <div className="cards card-skeletons" role="status" aria-label="Loading">
      {Array.from({ length: cards }, (_, card) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are all alike
        <div className="card" key={card}>
          <span className="skeleton round" />
          <span className="skeleton" style={{ inlineSize: `${62 - ((card * 17) % 30)}%` }} />
          <span className="skeleton low" style={{ inlineSize: `${34 - ((card * 7) % 14)}%` }} />
        </div>
      ))}
    </div>
  );
}

export function Skeleton({ rows }: { rows: number }): ReactNode {
  return (
    <div className="skeletons" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, row) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are all alike
        <div className="skeleton" key={row} style={{ inlineSize: `${92 - ((row * 17) % 40)}%` }} />
      ))}
    </div>
  );
}

/** A labelled field; `error` is read with it. `children` gets the ids to put on the control. */
export function Field(props: {
  label: string;
  hint?: ReactNode;
  error?: string | undefined;
  children: (ids: { id: string; "aria-describedby": string; "aria-invalid": boolean }) => ReactNode;
}): ReactNode {
  const id = useId();
  return (
    <div className={props.error ? "field wrong" : "field"}>
      <label htmlFor={id}>{props.label}</label>
      {props.children({ id, "aria-describedby": `${id}-hint`, "aria-invalid": Boolean(props.error) })}
      <div className="hint" id={`${id}-hint`}>
        {props.error ? <span className="error">{props.error}</span> : props.hint}
      </div>
    </div>
  );
}

/** One of a few, as buttons in a row: real radio buttons underneath. */
export function Segmented<T extends string>(props: {
  label: string;
  value: T;
  options: readonly { value: T; label: ReactNode; title?: string }[];
  onChange: (value: T) => void;
}): ReactNode {
  const name = useId();
  return (
    <fieldset className="segmented">
      <legend className="sr">{props.label}</legend>
      {props.options.map((option) => (
        <label key={option.value} title={option.title}>
          <input
            type="radio"
            name={name}
            checked={option.value === props.value}
            onChange={() => props.onChange(option.value)}
            aria-label={option.title}
          />
          <span>{option.label}</span>
        </label>
      ))}
    </fieldset>
  );
}

/** A button with a list of things to do. Closed by Escape, by choosing, and by clicking elsewhere. */
export function Menu(props: { label: string; icon: IconName; text?: string; children: ReactNode }): ReactNode {
  const { label, icon, text, children } = props;
  const details = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const close = (event: Event): void => {
      const element = details.current;
      if (!element?.open) return;
      if (event instanceof KeyboardEvent) {
        if (event.key !== "Escape") return;
        element.querySelector("summary")?.focus();
      } else if (element.contains(event.target as Node)) return;
      element.open = false;
    };
    document.addEventListener("pointerdown", close);
    document.addEventListener("keydown", close);
    return () => {
      document.removeEventListener("pointerdown", close);
      document.removeEventListener("keydown", close);
    };
  }, []);
  return (
    <details className="menu" ref={details}>
      <summary className="button quiet" aria-label={label} title={label}>
        <Icon name={icon} />
        {text && <span>{text}</span>}
      </summary>
      {/* biome-ignore lint/a11y/noStaticElementInteractions lint/a11y/useKeyWithClickEvents: the items inside are the controls */}
      <div
        className="menu-items"
        onClick={(event) => {
          // What is chosen closes it; a switch inside stays in view.
          if (details.current && (event.target as Element).closest("a, button")) details.current.open = false;
        }}
      >
        {children}
      </div>
    </details>
  );
}

/** Why an action failed, read out at once. */
export function ErrorText({ error }: { error: { message: string } | null | undefined }): ReactNode {
  return error ? (
    <p className="error" role="alert">
      {error.message}
    </p>
  ) : null;
}

/** Asks before something that cannot be taken back. */
export function Confirm(props: {
  title: string;
  children: ReactNode;
  action: string;
  danger?: boolean;
  busy?: boolean;
  error?: ApiError | null;
  onConfirm: () => void;
  onClose: () => void;
}): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  return (
    <dialog className="dialog" ref={dialog} onClose={props.onClose} aria-labelledby="confirm-title">
      <h2 id="confirm-title">{props.title}</h2>
      <div className="dialog-body">{props.children}</div>
      <ErrorText error={props.error} />
      <div className="dialog-actions">
        {/* Closed by the browser, which then gives the focus back. */}
        <button type="button" className="button quiet" onClick={() => dialog.current?.close()}>
          Keep it
        </button>
        <button
          type="button"
          className={props.danger ? "button danger" : "button primary"}
          disabled={props.busy}
          onClick={props.onConfirm}
        >
          {props.action}
        </button>
      </div>
    </dialog>
  );
}

/** A button that copies, and says for a moment that it did. */
export function CopyButton({
  label,
  text,
  quiet = true,
}: {
  label: string;
  text: () => string;
  quiet?: boolean;
}): ReactNode {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(false), 1_500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <button
      type="button"
      className={quiet ? "button quiet small" : "button small"}
      aria-label={label}
      title={label}
      onClick={async () => setDone(await copy(text()))}
    >
      <Icon name={done ? "check" : "copy"} size={14} />
      <span className="sr" role="status">
        {done ? "Copied" : ""}
      </span>
    </button>
  );
}

/** The clipboard needs a secure context; over plain HTTP the old way still works. */
async function copy(text: string): Promise<boolean> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return true;
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
