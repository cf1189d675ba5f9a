import { lazy, type ReactNode, Suspense, useEffect, useMemo, useState } from "react";
import { api } from "../api/client";
import type { UsageRow } from "../api/types";
import { useAction, usePolled } from "../hooks";
import { save } from "../model/download";
import { cost, count, duration } from "../model/format";
import { byDay, firstDay, GROUPS, type Group, successRate, total } from "../model/usage";
import { href, replace, useRoute } from "../router";
import type { Series } from "../ui/chart";
import { ErrorBoundary } from "../ui/error-boundary";
import { Icon } from "../ui/icons";
import { CardSkeletons, Empty, ErrorText, Failure, Segmented } from "../ui/parts";
import { ProjectField, useProject } from "../ui/project";

const Chart = lazy(() => import("../ui/chart"));
const PERIODS = [7, 30, 90] as const;
const NAMES: Record<Group, string> = { day: "Day", model: "Model", project: "Project", label: "Label" };

/** Usage: runs, results, times, tokens and cost by day, and by what the reader chooses. */
export function UsageScreen(): ReactNode {
  const { query } = useRoute();
  const project = useProject();
  const days = PERIODS.find((one) => String(one) === query.get("days")) ?? 30;
  const by = GROUPS.find((one) => one === query.get("by")) ?? "day";
  const [opened] = useState(Date.now);
  const from = firstDay(opened, days);
  const daily = usePolled(`usage-day-${project}-${days}`, 30_000, (signal) => api.usage("day", from, project, signal));
  const grouped = usePolled(`usage-${by}-${project}-${days}`, 30_000, (signal) => api.usage(by, from, project, signal));
  const action = useAction();
  const error = daily.error ?? grouped.error;
  useEffect(() => {
    document.title = "Usage · OpenCode Functions";
  }, []);
  const choose = (changed: Record<string, string>): void =>
    replace(href("/usage", { project, days: String(days), by, ...changed }));
  const download = async (): Promise<void> =>
    save(`usage-by-${by}.csv`, "text/csv", await api.usageCsv(by, from, project));
  return (
    <div className="page">
      <header className="page-head">
        <h1>Usage</h1>
        {error && daily.data && !error.offline && <span className="stale">{error.message}</span>}
        <ProjectField />
        <Segmented
          label="Period"
          value={String(days)}
          options={PERIODS.map((one) => ({ value: String(one), label: `${one} days` }))}
          onChange={(value) => choose({ days: value })}
        />
      </header>
      {!daily.data && daily.error && <Failure error={daily.error} onRetry={daily.refresh} />}
      {!daily.data && !daily.error && <CardSkeletons cards={3} />}
      {daily.data?.usage.length === 0 && (
        <Empty icon="chart" title={`No executions in the last ${days} days`}>
          Every execution counts here from its submission on, with what it used so far.
        </Empty>
      )}
      {daily.data && daily.data.usage.length > 0 && (
        <>
          <Totals rows={daily.data.usage} />
          <Charts rows={daily.data.usage} first={from} days={days} reasons={daily.data.reasons} />
          <section aria-labelledby="usage-table">
            <div className="usage-head">
              <h2 id="usage-table">By {NAMES[by].toLowerCase()}</h2>
              <Segmented
                label="Group by"
                value={by}
                options={GROUPS.map((one) => ({ value: one, label: NAMES[one] }))}
                onChange={(value) => choose({ by: value })}
              />
              <button
                type="button"
                className="button small"
                disabled={action.busy}
                onClick={() => void action.run(download)}
              >
                <Icon name="download" size={14} /> CSV
              </button>
            </div>
            <ErrorText error={action.error ?? grouped.error} />
            {grouped.data && <Table rows={grouped.data.usage} by={by} />}
            {by === "label" && <p className="hint">An execution counts once for each of its labels.</p>}
          </section>
        </>
      )}
    </div>
  );
}

function percent(rate: number | null): string {
  return rate === null ? "–" : `${Math.round(100 * rate)}%`;
}

function Totals({ rows }: { rows: readonly UsageRow[] }): ReactNode {
  const all = total(rows);
  const facts: [string, string][] = [
    ["Runs", count(all.runs)],
    ["Success rate", percent(successRate(all))],
    ["Time to first output", all.first_output_ms == null ? "–" : duration(all.first_output_ms)],
    ["Tokens", count(all.input_tokens + all.output_tokens)],
    ["Cost", cost(all.cost_usd)],
  ];
  return (
    <dl className="usage-totals">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

interface ChartsProps {
  readonly rows: readonly UsageRow[];
  readonly first: string;
  readonly days: number;
  readonly reasons: Readonly<Record<string, number>>;
}

function Charts({ rows, first, days, reasons }: ChartsProps): ReactNode {
  const shown = useMemo(() => byDay(rows, first, days), [rows, first, days]);
  const names = useMemo(() => shown.map((one) => one.day), [shown]);
  const figures = useMemo(() => {
    const of = (name: string, colour: string, value: (row: UsageRow) => number | null): Series => ({
      name,
      colour,
      values: shown.map(({ row }) => (row ? value(row) : null)),
    });
    return [
      {
        title: "Runs",
        kind: "bars" as const,
        format: count,
        series: [
          of("completed", "--green", (row) => row.completed),
          of("failed or timed out", "--red", (row) => row.failed + row.timed_out),
          of("others", "--faint", (row) => row.runs - row.completed - row.failed - row.timed_out),
        ],
      },
      {
        title: "Success rate",
        kind: "line" as const,
        format: percent,
        most: 1,
        series: [of("completed", "--green", successRate)],
      },
      {
        title: "Time to first output",
        kind: "line" as const,
        format: duration,
        series: [of("mean", "--blue", (row) => row.first_output_ms ?? null)],
      },
      {
        title: "Tokens",
        kind: "bars" as const,
        format: count,
        series: [of("input", "--blue", (row) => row.input_tokens), of("output", "--amber", (row) => row.output_tokens)],
      },
      {
        title: "Cost",
        kind: "bars" as const,
        format: cost,
        series: [of("US dollars", "--blue", (row) => row.cost_usd)],
      },
    ];
  }, [shown]);
  return (
    <div className="charts">
      <ErrorBoundary>
        {figures.map(({ title, ...chart }) => (
          <figure key={title} className="chart">
            <figcaption>
              <span className="chart-title">{title}</span>
              {chart.series.map((one) => (
                <span key={one.name} className="chart-key">
                  <span className="chart-colour" style={{ background: `var(${one.colour})` }} aria-hidden="true" />
                  {one.name}
                </span>
              ))}
            </figcaption>
            <Suspense fallback={<div className="chart-canvas" />}>
              <Chart days={names} {...chart} />
            </Suspense>
          </figure>
        ))}
      </ErrorBoundary>
      <Reasons reasons={reasons} />
    </div>
  );
}

function Reasons({ reasons }: { reasons: Readonly<Record<string, number>> }): ReactNode {
  const sorted = Object.entries(reasons).sort((one, other) => other[1] - one[1]);
  const most = sorted[0]?.[1] ?? 1;
  return (
    <figure className="chart">
      <figcaption>
        <span className="chart-title">Failures by reason</span>
      </figcaption>
      {sorted.length === 0 && <p className="hint">None.</p>}
      <ul className="reasons">
        {sorted.map(([reason, number]) => (
          <li key={reason}>
            <span>{reason.replaceAll("_", " ")}</span>
            <span>{count(number)}</span>
            <span className="reason-bar" style={{ inlineSize: `${(100 * number) / most}%` }} aria-hidden="true" />
          </li>
        ))}
      </ul>
    </figure>
  );
}

function Table({ rows, by }: { rows: readonly UsageRow[]; by: Group }): ReactNode {
  const sorted = by === "day" ? [...rows].reverse() : [...rows].sort((one, other) => other.cost_usd - one.cost_usd);
  return (
    // Focusable, so that the keyboard scrolls it.
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must be reached by the keyboard
    <section className="table-scroll" tabIndex={0} aria-label={`Usage by ${by}`}>
      <table className="usage-table">
        <thead>
          <tr>
            {[NAMES[by], "Runs", "Success", "First output", "Input", "Output", "Cost"].map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {sorted.map((row) => (
            <tr key={row[by]}>
              <th scope="row">{row[by] || "none"}</th>
              <td>{count(row.runs)}</td>
              <td>{percent(successRate(row))}</td>
              <td>{row.first_output_ms == null ? "–" : duration(row.first_output_ms)}</td>
              <td>{count(row.input_tokens)}</td>
              <td>{count(row.output_tokens)}</td>
              <td>{cost(row.cost_usd)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
