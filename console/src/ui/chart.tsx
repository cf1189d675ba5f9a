import { type ReactNode, useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useDark } from "../theme";

export interface Series {
  readonly name: string;
  /** A custom property of `tokens.css`. */
  readonly colour: string;
  /** Value of each day; null for a day without one. */
  readonly values: readonly (number | null)[];
}

interface Props {
  /** Days as `2026-01-31`, in order. */
  readonly days: readonly string[];
  /** Bars stand on each other, in this order. */
  readonly series: readonly Series[];
  readonly kind: "bars" | "line";
  readonly format: (value: number) => string;
  readonly most?: number;
}

const HEIGHT = 160;
const DAY_SECONDS = 86_400;

/** Values by day, drawn on a canvas. The page's table has the numbers for whoever cannot see it. */
export default function Chart({ days, series, kind, format, most }: Props): ReactNode {
  const place = useRef<HTMLDivElement>(null);
  const dark = useDark();
  // biome-ignore lint/correctness/useExhaustiveDependencies: a canvas has the colours of the time it was drawn at
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const plot = new uPlot(options(element, series, kind, format, most), data(days, series, kind), element);
    const sizes = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    sizes.observe(element);
    return () => {
      sizes.disconnect();
      plot.destroy();
    };
  }, [days, series, kind, format, most, dark]);
  return <div className="chart-canvas" ref={place} aria-hidden="true" />;
}

function data(days: readonly string[], series: readonly Series[], kind: Props["kind"]): uPlot.AlignedData {
  const times = days.map((day) => Date.parse(day) / 1_000);
  const sums = days.map(() => 0);
  const rows = series.map((one) =>
    one.values.map((value, at) => {
      if (kind === "line") return value;
      sums[at] = (sums[at] ?? 0) + (value ?? 0);
      return sums[at] ?? 0;
    }),
  );
  // The highest bar is drawn first, and what it stands on over it.
  return [times, ...(kind === "bars" ? rows.reverse() : rows)];
}

function options(
  element: HTMLElement,
  series: readonly Series[],
  kind: Props["kind"],
  format: Props["format"],
  most: number | undefined,
): uPlot.Options {
  const style = getComputedStyle(element);
  const resolve = (name: string): string => colour(element, `var(${name})`);
  const axis = {
    stroke: resolve("--muted"),
    font: `11px ${style.fontFamily}`,
    grid: { stroke: resolve("--line"), width: 1 },
    ticks: { show: false },
  };
  const bars = uPlot.paths.bars?.({ size: [0.7, 40], radius: 0.15 });
  const shown = kind === "bars" ? [...series].reverse() : series;
  return {
    width: element.clientWidth,
    height: HEIGHT,
    tzDate: (at) => uPlot.tzDate(new Date(at * 1_000), "Etc/UTC"),
    padding: [8, 8, 0, 0],
    cursor: { show: false },
    legend: { show: false },
    scales: { x: { range: (_, low, high) => [low - DAY_SECONDS / 2, high + DAY_SECONDS / 2] }, y: range(most) },
    axes: [
      {
        ...axis,
        grid: { show: false },
        space: 60,
        incrs: [1, 2, 7, 14, 30].map((n) => n * DAY_SECONDS),
        values: dates,
      },
      { ...axis, size: 52, values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      ...shown.map((one) => ({
        label: one.name,
        stroke: resolve(one.colour),
        ...(kind === "bars"
          ? { fill: resolve(one.colour), width: 0, points: { show: false }, ...(bars ? { paths: bars } : {}) }
          : { width: 2, spanGaps: true, points: { size: 5, fill: resolve(one.colour) } }),
      })),
    ],
  };
}

function range(most: number | undefined): uPlot.Scale {
  return { range: (_, _low, high) => [0, most ?? (high > 0 ? high * 1.05 : 1)] };
}

function dates(_: uPlot, ticks: number[]): string[] {
  return ticks.map((at) =>
    new Date(at * 1_000).toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" }),
  );
}

/** What a value of CSS, such as `light-dark(…)`, is here and now: a canvas understands colours only. */
function colour(element: HTMLElement, value: string): string {
  const probe = document.createElement("span");
  probe.style.color = value;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
