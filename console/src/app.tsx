import { type FormEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { api, bearer, setBearer, unauthorized } from "./api/client";
import type { Readiness } from "./api/types";
import { useKeys, usePolled } from "./hooks";
import { go, href, useRoute } from "./router";
import { DeadLettersScreen } from "./screens/dead-letters";
import { ExecutionScreen } from "./screens/execution";
import { HistoryScreen } from "./screens/history";
import { ReplayScreen } from "./screens/replay";
import { SessionsScreen } from "./screens/sessions";
import { SubmitScreen } from "./screens/submit";
import { setTheme, THEMES, useTheme } from "./theme";
import { Icon, type IconName } from "./ui/icons";
import { Empty, Segmented } from "./ui/parts";

const PLACES: readonly { path: string; name: string; icon: IconName }[] = [
  { path: "/", name: "Executions", icon: "executions" },
  { path: "/new", name: "New execution", icon: "plus" },
  { path: "/sessions", name: "Sessions", icon: "sessions" },
  { path: "/dead-letters", name: "Dead letters", icon: "letters" },
];

export function App(): ReactNode {
  const route = useRoute();
  const [asking, setAsking] = useState(false);
  const [session, setSession] = useState(0);
  const main = useRef<HTMLElement>(null);
  const ready = usePolled("ready", 10_000, (signal) => api.ready(signal));
  const place = `/${route.path[0] ?? ""}`;
  useEffect(() => {
    unauthorized.notify = () => setAsking(true);
  }, []);
  useKeys((event) => {
    if (event.key !== "c") return;
    event.preventDefault();
    go(href("/new"));
  });
  const screen = `${route.path.join("/")}`;
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new screen is read from its beginning
  useEffect(() => {
    if (document.activeElement === document.body) main.current?.focus({ preventScroll: true });
  }, [screen]);

  return (
    <div className="app">
      <button type="button" className="skip" onClick={() => main.current?.focus()}>
        Skip to content
      </button>
      <nav className="rail" aria-label="Main">
        <a className="brand" href={href("/")}>
          <Brand /> <span>OpenCode Functions</span>
        </a>
        <ul>
          {PLACES.map((one) => {
            const here = one.path === place || (one.path === "/" && place === "/tasks");
            return (
              <li key={one.path}>
                <a href={href(one.path)} aria-current={here ? "page" : undefined}>
                  <Icon name={one.icon} /> <span>{one.name}</span>
                </a>
              </li>
            );
          })}
        </ul>
        <div className="rail-foot">
          <GatewayState ready={ready.data} offline={ready.error !== null} />
          <ThemeSwitch />
          {bearer() && (
            <button
              type="button"
              className="link"
              onClick={() => {
                setBearer(null);
                setAsking(true);
              }}
            >
              Change token
            </button>
          )}
        </div>
      </nav>
      <main id="main" ref={main} tabIndex={-1} key={session}>
        {/* An execution says for itself which model answered it. */}
        <Banners ready={ready.data} offline={ready.error !== null} ownNote={place === "/tasks"} />
        <Screen path={route.path} />
      </main>
      {asking && (
        <TokenDialog
          onDone={() => {
            setAsking(false);
            setSession(session + 1);
          }}
        />
      )}
    </div>
  );
}

function Screen({ path }: { path: readonly string[] }): ReactNode {
  const [place, id, part] = path;
  if (place === undefined) return <HistoryScreen />;
  if (place === "new") return <SubmitScreen key={globalThis.location.hash} />;
  if (place === "tasks" && id)
    return part === "replay" ? <ReplayScreen key={id} id={id} /> : <ExecutionScreen key={id} id={id} />;
  if (place === "sessions") return <SessionsScreen />;
  if (place === "dead-letters") return <DeadLettersScreen />;
  return (
    <Empty
      icon="search"
      title="There is no such page"
      action={
        <a className="button" href={href("/")}>
          To the executions
        </a>
      }
    />
  );
}

function Brand(): ReactNode {
  return (
    <svg width="24" height="24" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" className="brand-back" />
      <path d="M9 10.5 14.5 16 9 21.5" className="brand-line" />
      <path d="M17 21.5h6.5" className="brand-cursor" />
    </svg>
  );
}

/** What is true of everything below: cut off, not ready, or not a real model. */
function Banners(props: { ready: Readiness | null; offline: boolean; ownNote: boolean }): ReactNode {
  const { ready, offline, ownNote } = props;
  const broken = Object.entries(ready?.checks ?? {}).filter(([, check]) => !check.ok);
  if (offline) {
    return (
      <div className="banner red" role="alert">
        <Icon name="wifi" size={14} /> The gateway cannot be reached. What you see may be out of date; executions go on
        without this page.
      </div>
    );
  }
  return (
    <>
      {broken.length > 0 && (
        <div className="banner amber" role="status">
          <Icon name="warning" size={14} /> Not ready:{" "}
          {broken.map(([name, check]) => `${name}${check.detail ? ` (${check.detail})` : ""}`).join(", ")}
        </div>
      )}
      {ready?.offline_model && !ownNote && <OfflineModel />}
    </>
  );
}

/** Said wherever a scripted model answers: nobody should take its text for a model's judgement. */
function OfflineModel(): ReactNode {
  return (
    <div className="banner" role="note">
      <Icon name="info" size={14} />
      <span>
        <strong>Offline scripted model.</strong> Its answers come from a script, not from a language model. Everything
        else here is real.
      </span>
    </div>
  );
}

function GatewayState({ ready, offline }: { ready: Readiness | null; offline: boolean }): ReactNode {
  const [kind, text] = offline
    ? ["disconnected", "Gateway unreachable"]
    : !ready
      ? ["catching-up", "Connecting"]
      : ready.ready === false
        ? ["catching-up", "Not ready"]
        : ["connected", "Gateway ready"];
  return (
    <span className={`stream-pill ${kind}`}>
      <span className="dot" aria-hidden="true" />
      <span className="pill-text">{text}</span>
    </span>
  );
}

function ThemeSwitch(): ReactNode {
  const theme = useTheme();
  const icons: Record<(typeof THEMES)[number], IconName> = { system: "display", light: "sun", dark: "moon" };
  const names = { system: "Colours of the system", light: "Light", dark: "Dark" };
  return (
    <Segmented
      label="Colours"
      value={theme}
      options={THEMES.map((one) => ({ value: one, label: <Icon name={icons[one]} size={14} />, title: names[one] }))}
      onChange={setTheme}
    />
  );
}

function TokenDialog({ onDone }: { onDone: () => void }): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const [text, setText] = useState("");
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    setBearer(text.trim() || null);
    onDone();
  };
  return (
    <dialog className="dialog" ref={dialog} aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <form onSubmit={submit}>
        <h2 id="token-title">A token is needed</h2>
        <div className="dialog-body">
          <p>
            {bearer()
              ? "The gateway does not accept the present one: it may have expired."
              : "This gateway asks who you are."}
          </p>
          <div className="field">
            <label htmlFor="token">Bearer token</label>
            <input
              id="token"
              type="password"
              value={text}
              autoComplete="off"
              onChange={(event) => setText(event.target.value)}
            />
            <div className="hint">Kept in this tab only, and gone when it is closed.</div>
          </div>
        </div>
        <div className="dialog-actions">
          <button type="submit" className="button primary" disabled={!text.trim()}>
            Continue
          </button>
        </div>
      </form>
    </dialog>
  );
}
