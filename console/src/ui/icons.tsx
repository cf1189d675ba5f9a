import type { ReactNode } from "react";

/** Line icons on a 16-pixel grid, drawn for this console. */
const PATHS = {
  executions: "M2.5 4h11M2.5 8h11M2.5 12h7",
  plus: "M8 3v10M3 8h10",
  sessions: "M2.5 3.5h11v7h-6L4.5 13v-2.5h-2z",
  chart: "M2.5 13.5h11M4.5 11V8M8 11V3M11.5 11V5.5",
  bolt: "M9 1.5 3.5 9H8l-1 5.5L12.5 7H8z",
  key: "M5.5 13a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM7.7 7.800 13.5 2M11 4.5l2 2",
  letters: "M2 4.5h12v8H2zM2 5l6 4.5L14 5",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9ZM10.5 10.5l3 3",
  chevron: "M6 4l4 4-4 4",
  down: "M4 6l4 4 4-4",
  up: "M4 10l4-4 4 4",
  terminal: "M3 4.5 6.5 8 3 11.5M8 12h5",
  file: "M4 2h5l3 3v9H4zM9 2v3h3",
  pencil: "M3 13l.6-2.8 7.2-7.2 2.2 2.2-7.2 7.2z",
  globe: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12ZM2 8h12M8 2c2 2 2.5 4 2.5 6S10 12 8 14c-2-2-2.5-4-2.5-6S6 4 8 2",
  list: "M6 4h8M6 8h8M6 12h8M2.5 4h.5M2.5 8h.5M2.5 12h.5",
  branch: "M4.5 2v8M4.5 14a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM11.5 6a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM11.5 6c0 3-7 2-7 4",
  tool: "M10 2.5a3.5 3.5 0 0 0-3.3 4.7L2.5 11.4l2.1 2.1 4.2-4.2A3.5 3.5 0 0 0 13.5 6L11 7 9 5z",
  check: "M3 8.5 6.5 12 13 4.5",
  cross: "M4 4l8 8M12 4l-8 8",
  stop: "M4 4h8v8H4z",
  play: "M5 3l8 5-8 5z",
  pause: "M5 3v10M11 3v10",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M3 13.5h10",
  copy: "M5.5 5.5h8v8h-8zM2.5 10.5v-8h8",
  replay: "M3 8a5 5 0 1 0 1.6-3.7M3 2.5v3h3",
  more: "M3.2 8a.6.6 0 1 0 1.2 0 .6.6 0 1 0-1.2 0M7.400 8a.6.6 0 1 0 1.200 0 .6.6 0 1 0-1.200 0M11.600 8a.6.6 0 1 0 1.200 0 .6.6 0 1 0-1.200 0",
  warning: "M8 2.5 14.5 13.5h-13zM8 6.5v3.5M8 12h.01",
  info: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12ZM8 7.5V11M8 5h.01",
  clock: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12ZM8 4.5V8l2.5 1.5",
  thought: "M8 2a4.5 4.5 0 0 0-2.5 8.200V12h5v-1.800A4.5 4.5 0 0 0 8 2ZM6 14h4",
  trash: "M3 4.5h10M6 4.5V3h4v1.5M4.5 4.5l.5 9h6l.5-9",
  wifi: "M2 6.5a9 9 0 0 1 12 0M4.200 9a5.5 5.5 0 0 1 7.600 0M6.5 11.300a2.200 2.200 0 0 1 3 0M8 13.200h.01",
  sun: "M8 10.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5ZM8 1.5V3M8 13v1.5M1.5 8H3M13 8h1.5M3.400 3.400l1 1M11.600 11.600l1 1M3.400 12.600l1-1M11.600 4.400l1-1",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5Z",
  display: "M2 3h12v8H2zM6 13.5h4M8 11v2.5",
  hand: "M5 8V4a1 1 0 0 1 2 0v3M7 7V3a1 1 0 0 1 2 0v4M9 7V4a1 1 0 0 1 2 0v5.5A4.5 4.5 0 0 1 6.5 14C4.5 14 3.5 12.5 2.5 10c-.4-1 .8-1.5 1.400-.7L5 10.5",
  skipBack: "M12 3.5 6 8l6 4.5zM4 3.5v9",
  skipForward: "M4 3.5 10 8l-6 4.5zM12 3.5v9",
} as const;

export type IconName = keyof typeof PATHS;

/** Decorative: whatever carries it has words of its own. */
export function Icon({ name, size = 16 }: { name: IconName; size?: number }): ReactNode {
  return (
    <svg className="icon" width={size} height={size} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function toolIcon(tool: string): IconName {
  if (/bash|shell|exec|command/i.test(tool)) return "terminal";
  if (/todo/i.test(tool)) return "list";
  if (/edit|write|patch/i.test(tool)) return "pencil";
  if (/read|list|ls$/i.test(tool)) return "file";
  if (/grep|glob|search/i.test(tool)) return "search";
  if (/fetch|web/i.test(tool)) return "globe";
  if (/task|agent/i.test(tool)) return "branch";
  return "tool";
}
