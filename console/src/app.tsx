import { type ReactNode, useEffect, useRef, useState } from "react";
import { api, bearer, listening } from "./api/client";
import { useKeys, usePolled } from "./hooks";
import { go, href, useRoute } from "./router";
import { CompareScreen } from "./screens/compare";
import { AccessScreen } from "./screens/credentials-and-hooks";
import { DeadLettersScreen } from "./screens/dead-letters";
import { ExecutionScreen } from "./screens/execution";
import { HistoryScreen } from "./screens/history";
import { ReplayScreen } from "./screens/replay";
import { SchedulesScreen } from "./screens/schedules";
import { SessionsScreen } from "./screens/sessions";
import { SubmitScreen } from "./screens/submit";
import { TriggersScreen } from "./screens/triggers";
import { UsageScreen } from "./screens/usage";
import { Banners } from "./shell/banners";
import { Rail } from "./shell/rail";
import { TokenDialog } from "./shell/token-dialog";
import { ErrorBoundary } from "./ui/error-boundary";
import { Empty } from "./ui/parts";

export function App(): ReactNode {
  const route = useRoute();
  const main = useRef<HTMLElement>(null);
  const ready = usePolled("ready", 10_000, (signal) => api.ready(signal));
  const offline = ready.error !== null;
  const [refused, setRefused] = useState<{ why: string; hasOne: boolean } | null>(null);
  const place = `/${route.path[0] ?? ""}`;
  useEffect(() => {
    listening.refused = (why) => setRefused((before) => before ?? { why, hasOne: bearer() !== null });
  }, []);
  const { refresh } = ready;
  useEffect(() => {
    // Any call tells at once what the next look at readiness would tell in some seconds.
    listening.reached = (whether) => {
      if (whether === offline) refresh();
    };
  }, [offline, refresh]);
  useKeys((event) => {
    if (event.key !== "c") return;
    event.preventDefault();
    go(href("/new"));
  });
  const screen = route.path.join("/");
  const before = useRef(screen);
  useEffect(() => {
    // A new screen is read from its beginning; the first one from the top of the page.
    if (before.current === screen) return;
    before.current = screen;
    if (document.activeElement === document.body) main.current?.focus({ preventScroll: true });
  }, [screen]);

  return (
    <div className="app">
      <button type="button" className="skip" onClick={() => main.current?.focus()}>
        Skip to content
      </button>
      <Rail place={place} ready={ready.data} offline={offline} />
      <main id="main" ref={main} tabIndex={-1}>
        {/* An execution says for itself which model answered it. */}
        <Banners ready={ready.data} offline={offline} ownNote={place === "/tasks"} />
        <ErrorBoundary key={screen} alone>
          <Screen path={route.path} />
        </ErrorBoundary>
      </main>
      {refused && <TokenDialog {...refused} onDone={() => setRefused(null)} />}
    </div>
  );
}

function Screen({ path }: { path: readonly string[] }): ReactNode {
  const [place, id, part] = path;
  if (place === undefined) return <HistoryScreen />;
  if (place === "new") return <SubmitScreen key={globalThis.location.hash} />;
  if (place === "tasks" && id) {
    if (part === "compare") return <CompareScreen key={id} id={id} />;
    return part === "replay" ? <ReplayScreen key={id} id={id} /> : <ExecutionScreen key={id} id={id} />;
  }
  if (place === "sessions") return <SessionsScreen />;
  if (place === "usage") return <UsageScreen />;
  if (place === "triggers") return <TriggersScreen />;
  if (place === "schedules") return <SchedulesScreen />;
  if (place === "access") return <AccessScreen />;
  if (place === "dead-letters") return <DeadLettersScreen />;
  return (
    <Empty
      icon="search"
      alone
      title="There is no such page"
      action={
        <a className="button" href={href("/")}>
          To the executions
        </a>
      }
    />
  );
}
