import { lazy, type ReactNode, Suspense, useEffect, useMemo, useRef, useState } from "react";
import { ChangedFiles, Plan, UsageBlock } from "../execution/sidebar";
import { TranscriptList } from "../execution/transcript-list";
import { type Execution, useExecution } from "../execution/use-execution";
import { useKeys } from "../hooks";
import { visible } from "../model/escape-controls";
import { clockTime, cost, count, words } from "../model/format";
import { saidAt, type Timeline, timeline } from "../model/replay-timeline";
import { Transcript } from "../model/transcript";
import { href, useRoute } from "../router";
import type { Chunk } from "../stream";
import { ErrorBoundary } from "../ui/error-boundary";
import { Icon } from "../ui/icons";
import { Empty, Failure, Segmented, Skeleton, StateBadge } from "../ui/parts";

const Terminal = lazy(() => import("../execution/xterm-terminal"));

const SPEEDS = ["0.5", "1", "2", "4", "8", "16"] as const;
type Speed = (typeof SPEEDS)[number];
const STEP_MS = 5_000;
const SCRUB_MS = 50;

/** Replay: the recorded timeline, played again. */
export function ReplayScreen({ id }: { id: string }): ReactNode {
  const execution = useExecution(id);
  if (execution.chunks.length === 0) {
    if (execution.error) return <Failure error={execution.error} onRetry={execution.refresh} alone />;
    if (execution.stream.state === "catching-up") {
      return (
        <div className="page">
          <Skeleton rows={9} />
        </div>
      );
    }
    return <Empty alone icon="replay" title="Nothing was recorded yet" action={<Back id={id} />} />;
  }
  return <Player id={id} execution={execution} />;
}

function Back({ id }: { id: string }): ReactNode {
  return (
    <a className="button" href={href(`/tasks/${id}`)}>
      Back to the execution
    </a>
  );
}

function Player({ id, execution }: { id: string; execution: Execution }): ReactNode {
  const { query } = useRoute();
  const [skip, setSkip] = useState(true);
  const [speed, setSpeed] = useState<Speed>("2");
  const [view, setView] = useState<"transcript" | "terminal">("transcript");
  // biome-ignore lint/correctness/useExhaustiveDependencies: `chunks` grows in place, `version` says when
  const line = useMemo(() => timeline(execution.chunks, skip), [execution.chunks, execution.version, skip]);
  const player = usePlayer(
    line,
    Number(speed),
    Math.max(0, Number(query.get("t")) || 0) * 1_000,
    execution.stream.state === "catching-up",
  );
  const { time, playing } = player;
  const said = saidAt(line.at, time);
  const { transcript, rows } = usePrefix(execution.chunks, said);
  const summary = transcript.summary();

  useKeys((event) => {
    const target = event.target as HTMLElement;
    if (event.key === " " && target.tagName !== "BUTTON") player.toggle();
    else if (event.key === "ArrowRight") player.seek(time + STEP_MS);
    else if (event.key === "ArrowLeft") player.seek(time - STEP_MS);
    else if (event.key === "Home") player.seek(0);
    else if (event.key === "End") player.seek(line.length);
    else return;
    event.preventDefault();
  });

  return (
    <div className="execution replay">
      <header className="execution-head">
        <div className="execution-title">
          <a className="crumb" href={href(`/tasks/${id}`)}>
            Execution
          </a>
          <h1>{visible(execution.task?.title ?? "") || "Untitled execution"}</h1>
        </div>
        <div className="execution-meta">
          <span className="badge tone-grey">
            <Icon name="replay" size={12} /> Replay
          </span>
          {execution.task && <StateBadge state={execution.task.status} />}
          {summary.usage && <span>{count(summary.usage.input_tokens + summary.usage.output_tokens)} tokens</span>}
          {summary.usage && <span>{cost(summary.usage.cost_usd)}</span>}
          {summary.phase && <span className="faint">{words(summary.phase)}</span>}
        </div>
        <div className="execution-actions">
          <Segmented
            label="View"
            value={view}
            options={[
              { value: "transcript", label: "Transcript" },
              { value: "terminal", label: "Terminal" },
            ]}
            onChange={setView}
          />
        </div>
      </header>
      <div className="execution-body">
        <div className="execution-main">
          {view === "transcript" ? (
            <TranscriptList rows={rows} start={summary.first} query="" follow={true} live={true} />
          ) : (
            <ErrorBoundary>
              <Suspense fallback={<Skeleton rows={10} />}>
                <Terminal chunks={execution.chunks} count={said} query="" turn={0} />
              </Suspense>
            </ErrorBoundary>
          )}
        </div>
        <aside className="execution-side" aria-label="At this moment">
          <Plan todo={summary.todo} running={playing} />
          <ChangedFiles files={[...summary.files.values()]} />
          <UsageBlock usage={summary.usage} model={execution.task?.model} />
        </aside>
      </div>
      <div className="player">
        <div className="player-buttons">
          <button
            type="button"
            className="button quiet"
            aria-label="Previous step"
            onClick={() => player.seek(stepFrom(line, time, -1))}
          >
            <Icon name="skipBack" />
          </button>
          <button
            type="button"
            className="button primary play"
            aria-label={playing ? "Pause" : "Play"}
            onClick={player.toggle}
          >
            <Icon name={playing ? "pause" : "play"} />
          </button>
          <button
            type="button"
            className="button quiet"
            aria-label="Next step"
            onClick={() => player.seek(stepFrom(line, time, 1))}
          >
            <Icon name="skipForward" />
          </button>
        </div>
        <Scrubber line={line} time={time} onSeek={player.seek} />
        <div className="player-options">
          <span className="player-time">
            {clockTime(time)} <span className="faint">/ {clockTime(line.length)}</span>
          </span>
          <label className="check">
            <input type="checkbox" checked={skip} onChange={(event) => setSkip(event.target.checked)} /> Shorten pauses
          </label>
          <label className="speed">
            <span className="sr">Speed</span>
            <select value={speed} onChange={(event) => setSpeed(event.target.value as Speed)}>
              {SPEEDS.map((one) => (
                <option key={one} value={one}>
                  {one}×
                </option>
              ))}
            </select>
          </label>
        </div>
      </div>
    </div>
  );
}

/** A clock over the timeline: runs, stops, jumps. While the rest is `awaited`, its end is not that of the recording. */
function usePlayer(line: Timeline, speed: number, from: number, awaited: boolean) {
  // May be beyond what has arrived.
  const [wanted, setTime] = useState(from);
  const [playing, setPlaying] = useState(from === 0);
  const length = line.length;
  const time = Math.min(wanted, length);
  useEffect(() => {
    if (!playing) return;
    let before = performance.now();
    let frame = requestAnimationFrame(function run(now) {
      const passed = (now - before) * speed;
      before = now;
      setTime((value) => Math.min(length, value + passed));
      frame = requestAnimationFrame(run);
    });
    return () => cancelAnimationFrame(frame);
  }, [playing, speed, length]);
  const over = time >= length && !awaited;
  useEffect(() => {
    if (over) setPlaying(false);
  }, [over]);
  return {
    time,
    playing,
    seek: (to: number) => setTime(Math.max(0, Math.min(length, to))),
    toggle: () => {
      if (!playing && over) setTime(0);
      setPlaying(!playing);
    },
  };
}

/** The transcript of the first `said` chunks: goes on where it was, starts anew when it goes back. */
function usePrefix(chunks: readonly Chunk[], said: number) {
  const built = useRef<{ of: readonly Chunk[]; said: number; transcript: Transcript; rows: Transcript["rows"] } | null>(
    null,
  );
  if (!built.current || built.current.of !== chunks || built.current.said > said) {
    built.current = { of: chunks, said: 0, transcript: new Transcript(), rows: [] };
  }
  const now = built.current;
  if (now.said < said) {
    now.transcript.push(chunks.slice(now.said, said));
    now.said = said;
    now.rows = [...now.transcript.rows];
  }
  return now;
}

function stepFrom(line: Timeline, time: number, direction: 1 | -1): number {
  const places = line.marks.map((mark) => mark.at);
  if (direction === 1) return places.find((at) => at > time + 1) ?? line.length;
  return places.findLast((at) => at < time - 250) ?? 0;
}

function Scrubber({ line, time, onSeek }: { line: Timeline; time: number; onSeek: (to: number) => void }): ReactNode {
  const done = line.length > 0 ? time / line.length : 1;
  const width = 100 / line.density.length;
  return (
    <div className="scrubber">
      <svg viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">
        {line.density.map((value, at) => (
          <rect
            // biome-ignore lint/suspicious/noArrayIndexKey: the place is the identity
            key={at}
            className={at * width < done * 100 ? "past" : "ahead"}
            x={at * width}
            width={width * 0.7}
            y={24 - Math.max(1.5, value * 22)}
            height={Math.max(1.5, value * 22)}
          />
        ))}
      </svg>
      <div className="scrubber-marks" aria-hidden="true">
        {line.marks
          .filter((mark) => mark.kind !== "tool")
          .map((mark, at) => (
            <span
              // biome-ignore lint/suspicious/noArrayIndexKey: marks never move
              key={at}
              className={mark.kind}
              title={visible(mark.title)}
              style={{ insetInlineStart: `${(100 * mark.at) / Math.max(1, line.length)}%` }}
            />
          ))}
      </div>
      <input
        type="range"
        min={0}
        // Whole steps: otherwise the last one would end before the last chunk.
        max={Math.max(1, Math.ceil(line.length / SCRUB_MS)) * SCRUB_MS}
        step={SCRUB_MS}
        // Aligned: the browser would round it, and React would take the rounding for the reader's wish.
        value={Math.ceil(time / SCRUB_MS) * SCRUB_MS}
        aria-label="Position"
        aria-valuetext={`${clockTime(time)} of ${clockTime(line.length)}`}
        onChange={(event) => onSeek(Number(event.target.value))}
      />
      <span className="scrubber-head" aria-hidden="true" style={{ insetInlineStart: `${100 * done}%` }} />
    </div>
  );
}
