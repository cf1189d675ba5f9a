import { type ReactNode, type RefObject, useMemo, useState } from "react";
import { type Row, rowText, SEVERITIES, type Severity } from "../model/transcript-rows";
import { Icon } from "../ui/icons";
import { Segmented } from "../ui/parts";

const LABELS: Readonly<Record<Severity, string>> = { debug: "All", info: "Info", warning: "Warnings", error: "Errors" };

export function SeverityFilter({
  value,
  onChange,
}: {
  value: Severity;
  onChange: (value: Severity) => void;
}): ReactNode {
  return (
    <Segmented
      label="Least severity shown"
      value={value}
      options={SEVERITIES.map((one) => ({ value: one, label: LABELS[one] }))}
      onChange={onChange}
    />
  );
}

/** Rows of that severity and above. All of them is the list itself, not a copy. */
export function useFiltered(rows: readonly Row[], version: number, least: Severity): readonly Row[] {
  // biome-ignore lint/correctness/useExhaustiveDependencies: `rows` grows in place, `version` says when
  return useMemo(() => {
    if (least === "debug") return rows;
    const from = SEVERITIES.indexOf(least);
    return rows.filter((row) => SEVERITIES.indexOf(row.severity) >= from || row.kind === "attempt");
  }, [rows, version, least]);
}

export interface Search {
  readonly query: string;
  readonly matches: readonly number[];
  /** Place among `matches` of the one that is shown. */
  readonly current: number;
  readonly turn: number;
  setQuery(query: string): void;
  step(by: number): void;
}

/** Finds rows by their words; `reveal` shows one. */
export function useSearch(rows: readonly Row[], version: number, reveal: (index: number) => void): Search {
  const [query, setQuery] = useState("");
  const [current, setCurrent] = useState(0);
  const [turn, setTurn] = useState(0);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `rows` grows in place, `version` says when
  const matches = useMemo(() => find(rows, query), [rows, version, query]);
  return {
    query,
    matches,
    current: Math.min(current, Math.max(0, matches.length - 1)),
    turn,
    setQuery(next) {
      setQuery(next);
      setCurrent(0);
      const first = find(rows, next)[0];
      if (first !== undefined) reveal(first);
    },
    step(by) {
      setTurn(turn + 1);
      if (matches.length === 0) return;
      const next = (current + by + matches.length) % matches.length;
      setCurrent(next);
      const index = matches[next];
      if (index !== undefined) reveal(index);
    },
  };
}

function find(rows: readonly Row[], query: string): number[] {
  const wanted = query.trim().toLowerCase();
  if (wanted === "") return [];
  const found: number[] = [];
  rows.forEach((row, index) => {
    if (rowText(row).toLowerCase().includes(wanted)) found.push(index);
  });
  return found;
}

export function SearchBox({ search, input }: { search: Search; input: RefObject<HTMLInputElement | null> }): ReactNode {
  const { query, matches, current } = search;
  return (
    <search className="search-box">
      <Icon name="search" size={14} />
      <input
        ref={input}
        type="search"
        value={query}
        placeholder="Search"
        aria-label="Search the output"
        aria-keyshortcuts="/"
        onChange={(event) => search.setQuery(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter") search.step(event.shiftKey ? -1 : 1);
          if (event.key === "Escape") {
            search.setQuery("");
            event.currentTarget.blur();
          }
        }}
      />
      {query ? (
        <>
          <span className="search-count" role="status">
            {matches.length === 0 ? "none" : `${current + 1}/${matches.length}`}
          </span>
          <button type="button" aria-label="Previous match" onClick={() => search.step(-1)}>
            <Icon name="up" size={14} />
          </button>
          <button type="button" aria-label="Next match" onClick={() => search.step(1)}>
            <Icon name="down" size={14} />
          </button>
        </>
      ) : (
        <kbd>/</kbd>
      )}
    </search>
  );
}
