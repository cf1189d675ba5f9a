import { type ReactNode, useEffect, useState } from "react";
import { ApiError, api } from "../api/client";
import type { Compared, Comparison, FileDifference, Row, Step, Task } from "../api/types";
import { useNow, usePolled } from "../hooks";
import { visible } from "../model/escape-controls";
import { ago, cost, count, duration, plural, words } from "../model/format";
import { href, useRoute } from "../router";
import { TERMINAL_STATES } from "../stream";
import { Empty, Failure, Skeleton, StateBadge } from "../ui/parts";

/** Two executions side by side, from the first difference on. */
export function CompareScreen({ id }: { id: string }): ReactNode {
  const other = useRoute().query.get("with");
  useEffect(() => {
    document.title = "Compare executions · OpenCode Functions";
  }, []);
  return (
    <div className="page compare">
      <header className="execution-title">
        <a className="crumb" href={href(`/tasks/${id}`)}>
          Execution
        </a>
        <h1>{other ? "Compared" : "Compare with…"}</h1>
      </header>
      {other ? <Result key={other} a={id} b={other} /> : <Choice id={id} />}
    </div>
  );
}

/** The other executions of the project, newest first. */
function Choice({ id }: { id: string }): ReactNode {
  const now = useNow(10_000);
  const { data, error, refresh } = usePolled(`compare ${id}`, 30_000, async (signal) => {
    const { project_id } = await api.task(id, signal);
    return (await api.tasks({ project_id, limit: 100 }, signal)).items;
  });
  if (!data) return error ? <Failure error={error} onRetry={refresh} /> : <Skeleton rows={6} />;
  const others = data.filter((one: Task) => one.execution_id !== id && TERMINAL_STATES.has(one.status));
  if (others.length === 0) return <Empty icon="executions" title="No other execution of the project has ended" />;
  return (
    <ul className="compare-choice">
      {others.map((one) => (
        <li key={one.execution_id}>
          <StateBadge state={one.status} />
          <a href={href(`/tasks/${id}/compare`, { with: one.execution_id })}>
            {visible(one.title ?? "") || "Untitled execution"}
          </a>
          <span className="faint">
            {one.execution_id.slice(0, 8)} · {ago(one.submitted_at, now)}
          </span>
        </li>
      ))}
    </ul>
  );
}

function Result({ a, b }: { a: string; b: string }): ReactNode {
  const [found, setFound] = useState<Comparison | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [tries, setTries] = useState(0);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `tries` asks for a further call
  useEffect(() => {
    const abort = new AbortController();
    setError(null);
    api
      .compare(a, b, abort.signal)
      .then(setFound)
      .catch((failure: unknown) => {
        if (!abort.signal.aborted) setError(failure instanceof ApiError ? failure : new ApiError(String(failure), -1));
      });
    return () => abort.abort();
  }, [a, b, tries]);
  if (error) return <Failure error={error} onRetry={() => setTries(tries + 1)} />;
  if (!found) return <Skeleton rows={9} />;
  const missing = [found.a, found.b].flatMap((side, at) => side.missing.map((what) => `${what} of ${"AB"[at]}`));
  return (
    <>
      <Figures found={found} />
      {missing.length > 0 && <p className="error">Not compared: {missing.join(", ")}.</p>}
      <p className="page-note" role="status">
        {found.same
          ? `Both did the same, in all ${plural(found.common_steps, "step")}.`
          : `Different: ${found.differs.map(words).join(", ").toLowerCase()}.`}
        {found.rows.length > 0 && ` The first ${plural(found.common_steps, "step")} are the same.`}
      </p>
      {found.rows.length > 0 && <Steps found={found} />}
      {found.files.map((file) => (
        <FileSection key={file.path} file={file} />
      ))}
      {found.files_left_out > 0 && <p className="hint">{plural(found.files_left_out, "further file")} not shown.</p>}
    </>
  );
}

function Figures({ found }: { found: Comparison }): ReactNode {
  const sides = [found.a, found.b];
  const rows: [string, (side: Compared) => ReactNode][] = [
    ["State", (side) => <StateBadge state={side.status} />],
    ["Reason", (side) => (side.reason ? words(side.reason) : "–")],
    ["Model", (side) => visible(side.model ?? "–")],
    ["Steps", (side) => count(side.steps)],
    ["Tool calls", (side) => count(side.tool_calls)],
    ["Model calls", (side) => count(side.usage.requests)],
    ["Input tokens", (side) => count(side.usage.input_tokens + side.usage.cache_read_tokens)],
    ["Output tokens", (side) => count(side.usage.output_tokens)],
    ["Cost", (side) => cost(side.usage.cost_usd)],
    ["Time", (side) => (side.duration_ms == null ? "–" : duration(side.duration_ms))],
  ];
  return (
    <table className="compare-figures">
      <thead>
        <tr>
          <td />
          {sides.map((side, at) => (
            <th key={"AB"[at]} scope="col">
              {"AB"[at]} <a href={href(`/tasks/${side.execution_id}`)}>{side.execution_id.slice(0, 8)}</a>
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map(([name, value]) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            {sides.map((side, at) => (
              <td key={"AB"[at]}>{value(side)}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Steps({ found }: { found: Comparison }): ReactNode {
  return (
    <section className="compare-steps" aria-label="Steps of both executions">
      {found.rows.map((row) => (
        <StepRow key={`${row.a?.seq}/${row.b?.seq}`} row={row} />
      ))}
      {found.steps_left_out > 0 && <p className="hint">{plural(found.steps_left_out, "further step")} not shown.</p>}
    </section>
  );
}

function StepRow({ row }: { row: Row }): ReactNode {
  return (
    <div className={row.same ? "compare-row same" : "compare-row"}>
      <Side step={row.a} side="A" />
      {!row.same && <Side step={row.b} side="B" />}
    </div>
  );
}

function Side({ step, side }: { step: Step | null; side: "A" | "B" }): ReactNode {
  return (
    <div className={`compare-side ${side === "A" ? "before" : "after"}${step ? "" : " none"}`}>
      {step ? (
        <>
          <span className="faint">
            <span className="compare-letter">{side}</span> {words(step.type)} · {step.seq}
          </span>
          <Lines text={step.text} />
        </>
      ) : (
        <span className="faint">Nothing in {side}</span>
      )}
    </div>
  );
}

function Lines({ text }: { text: string }): ReactNode {
  return (
    <pre>
      {text
        .split("\n")
        .map((line) => visible(line, 2_100))
        .join("\n")}
    </pre>
  );
}

const CHANGES = { only_a: "changed by A only", only_b: "changed by B only", differs: "changed differently" } as const;

function FileSection({ file }: { file: FileDifference }): ReactNode {
  return (
    <section className="diff-file" aria-label={visible(file.path)}>
      <header>
        <span className="mono">{visible(file.path)}</span> <span className="faint">{CHANGES[file.change]}</span>
      </header>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <section className="diff-scroll" tabIndex={0} aria-label={`Difference of the changes of ${visible(file.path)}`}>
        <pre className="compare-lines">
          {file.lines.map((line, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: the place is the identity
            <span key={at} className={line[0] === "-" ? "before" : line[0] === "+" ? "after" : "faint"}>
              {visible(line, 600) || " "}
            </span>
          ))}
        </pre>
      </section>
    </section>
  );
}
