import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Terminal as Xterm } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { type ReactNode, useEffect, useRef } from "react";
import { TerminalWriter } from "../model/terminal-writer";
import type { Chunk } from "../stream";
import { useDark } from "../theme";

/** Characters that are written to the terminal at once. */
const PIECE = 128_000;

interface Props {
  readonly chunks: readonly Chunk[];
  /** How many of `chunks` are shown; when it shrinks, the terminal starts anew. */
  readonly count: number;
  readonly query: string;
  /** Changes when the next match is wanted. */
  readonly turn: number;
}

/** Everything that was said, as a terminal shows it. */
export default function Terminal({ chunks, count, query, turn }: Props): ReactNode {
  const host = useRef<HTMLDivElement>(null);
  const dark = useDark();
  const shown = useRef(count);
  const open = useRef<{
    terminal: Xterm;
    search: SearchAddon;
    writer: TerminalWriter;
    written: number;
    of: readonly Chunk[];
    /** The terminal is still at the last piece. */
    busy: boolean;
  } | null>(null);

  useEffect(() => {
    if (!host.current) return;
    const terminal = new Xterm({
      convertEol: true,
      disableStdin: true,
      cursorInactiveStyle: "none",
      fontFamily: getComputedStyle(host.current).fontFamily,
      fontSize: 13,
      lineHeight: 1.35,
      scrollback: 200_000,
      screenReaderMode: false,
      minimumContrastRatio: 4.5,
    });
    const fit = new FitAddon();
    const search = new SearchAddon();
    terminal.loadAddon(fit);
    terminal.loadAddon(search);
    terminal.open(host.current);
    fit.fit();
    // Tab must leave the terminal: nothing can be typed here.
    terminal.attachCustomKeyEventHandler((event) => event.key !== "Tab");
    open.current = { terminal, search, writer: new TerminalWriter(), written: 0, of: [], busy: false };
    const resized = new ResizeObserver(() => fit.fit());
    resized.observe(host.current);
    return () => {
      resized.disconnect();
      terminal.dispose();
      open.current = null;
    };
  }, []);

  useEffect(() => {
    if (open.current) open.current.terminal.options.theme = theme(dark);
  }, [dark]);

  useEffect(() => {
    const view = open.current;
    if (!view) return;
    if (count < view.written || view.of !== chunks) {
      view.terminal.reset();
      Object.assign(view, { writer: new TerminalWriter(), written: 0, of: chunks, busy: false });
    }
    // In pieces, each once the one before is drawn: the page answers in between, and xterm drops what is too much.
    const write = (): void => {
      if (open.current !== view || view.of !== chunks) return;
      let text = "";
      while (view.written < shown.current && text.length < PIECE) {
        const chunk = chunks[view.written];
        if (chunk) text += view.writer.render(chunk);
        view.written += 1;
      }
      view.busy = text !== "";
      if (text) view.terminal.write(text, write);
    };
    shown.current = count;
    if (!view.busy) write();
  });

  // biome-ignore lint/correctness/useExhaustiveDependencies: `turn` asks for the next match
  useEffect(() => {
    if (query) open.current?.search.findNext(query);
    else open.current?.search.clearDecorations();
  }, [query, turn]);

  // The padding is the outer element's: xterm measures the inner one with all of its width.
  return (
    <section className="term-view" aria-label="Terminal output">
      <div ref={host} />
    </section>
  );
}

/** xterm draws on a canvas and needs its colours as values. */
function theme(dark: boolean): Record<string, string> {
  const names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
  const light =
    "#3b3a37 #b8322a #1c7a4c #8f5b00 #1f5fc4 #8a3fa0 #0f7280 #67645d #78756d #cf4a40 #26935e #a86f08 #3676da #a357b8 #168a9a #1d1c1a";
  const darker =
    "#5e5c56 #f0776c #6cc79a #e2b45c #7fb0ff #cf96e0 #67c5d2 #cfcdc6 #8b8880 #ff9c92 #8cdcb3 #f0cb80 #a5c8ff #e0b3ee #8edbe5 #f5f4f0";
  const colours = (dark ? darker : light).split(" ");
  const entries = colours.map((colour, at): [string, string] => {
    const name = names[at % 8] ?? "white";
    return [at < 8 ? name : `bright${name.charAt(0).toUpperCase()}${name.slice(1)}`, colour];
  });
  return {
    ...Object.fromEntries(entries),
    background: dark ? "#0e0e0d" : "#ffffff",
    foreground: dark ? "#eae9e5" : "#1d1c1a",
    cursor: dark ? "#0e0e0d" : "#ffffff",
    scrollbarSliderBackground: dark ? "#3d3c38" : "#d2d0c9",
    scrollbarSliderHoverBackground: dark ? "#57554f" : "#b3b0a7",
    scrollbarSliderActiveBackground: dark ? "#57554f" : "#b3b0a7",
    selectionBackground: dark ? "#3a4a66" : "#cfe0fb",
  };
}
