import type { ReactNode } from "react";
import { setBearer } from "../api/client";
import type { Readiness } from "../api/types";
import { useBearer } from "../hooks";
import { href } from "../router";
import { setTheme, THEMES, useTheme } from "../theme";
import { Icon, type IconName } from "../ui/icons";
import { Menu, Segmented } from "../ui/parts";

const PLACES: readonly { path: string; name: string; short: string; icon: IconName; rare?: boolean }[] = [
  { path: "/", name: "Executions", short: "Executions", icon: "executions" },
  { path: "/new", name: "New execution", short: "New", icon: "plus" },
  { path: "/sessions", name: "Sessions", short: "Sessions", icon: "sessions" },
  { path: "/usage", name: "Usage", short: "Usage", icon: "chart", rare: true },
  { path: "/triggers", name: "Triggers", short: "Triggers", icon: "bolt", rare: true },
  { path: "/schedules", name: "Schedules", short: "Schedules", icon: "clock", rare: true },
  { path: "/access", name: "Credentials and hooks", short: "Access", icon: "key", rare: true },
  { path: "/dead-letters", name: "Dead letters", short: "Letters", icon: "letters" },
];

interface Props {
  /** The first part of the address: `/sessions`. */
  readonly place: string;
  readonly ready: Readiness | null;
  readonly offline: boolean;
}

/** Where one can go, how the gateway is, colours, and who one is. At the bottom of a phone. */
export function Rail({ place, ready, offline }: Props): ReactNode {
  return (
    <nav className="rail" aria-label="Main">
      <a className="brand" href={href("/")}>
        <Brand /> <span>OpenCode Functions</span>
      </a>
      <ul>
        {PLACES.map((one) => {
          const here = one.path === place || (one.path === "/" && place === "/tasks");
          return (
            <li key={one.path} className={one.rare ? "only-desk" : undefined}>
              <a href={href(one.path)} aria-current={here ? "page" : undefined} aria-label={one.name}>
                <Icon name={one.icon} /> <span className="place-name">{one.name}</span>
                <span className="place-short">{one.short}</span>
              </a>
            </li>
          );
        })}
        <li className="only-phone">
          <Menu label="More" icon="more" text="More">
            {PLACES.filter((one) => one.rare).map((one) => (
              <a key={one.path} href={href(one.path)} className="menu-link">
                {one.name}
              </a>
            ))}
            <Foot ready={ready} offline={offline} />
          </Menu>
        </li>
      </ul>
      <Foot ready={ready} offline={offline} />
    </nav>
  );
}

function Foot({ ready, offline }: Omit<Props, "place">): ReactNode {
  const token = useBearer();
  return (
    <div className="rail-foot">
      <GatewayState ready={ready} offline={offline} />
      <ThemeSwitch />
      {token && (
        <button type="button" className="link" onClick={() => setBearer(null)}>
          Change token
        </button>
      )}
    </div>
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

function GatewayState({ ready, offline }: Omit<Props, "place">): ReactNode {
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
