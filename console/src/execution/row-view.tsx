import { memo, type ReactNode, useState } from "react";
import { plain } from "../model/ansi";
import { brief, visible } from "../model/escape-controls";
import { clockTime, duration, plural } from "../model/format";
import type { FileRow, Row, ToolRow } from "../model/transcript-rows";
import { Icon, toolIcon } from "../ui/icons";
import { CopyButton } from "../ui/parts";
import { Ansi, Prose } from "../ui/rich";

/** Lines of a tool's output that are shown at first. */
const FIRST_LINES = 200;
/** And characters, of these lines; of an input, all that are shown. */
const FIRST_CHARACTERS = 40_000;
const INPUT_CHARACTERS = 20_000;

export interface RowProps {
  readonly row: Row;
  /** Unix milliseconds of the first chunk. */
  readonly start: number;
  /** What the reader chose; undefined: as the row would have it. */
  readonly open: boolean | undefined;
  readonly onToggle: (id: number, open: boolean) => void;
  readonly onFile: ((path: string) => void) | undefined;
}

/** One row of the transcript. */
export const RowView = memo(function RowView(props: RowProps): ReactNode {
  const { row } = props;
  switch (row.kind) {
    case "text":
      return row.format === "code" ? (
        <CodeBlock source={row.source} language={row.language} continued={row.continued} />
      ) : (
        <div className="row-text">
          <Prose source={row.source} />
        </div>
      );
    case "reasoning":
      return <Reasoning source={row.source} open={props.open} toggle={(open) => props.onToggle(row.id, open)} />;
    case "tool":
      return <Tool {...props} row={row} />;
    case "output":
      return (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
        <pre className={`row-output ${row.stream}`} tabIndex={0}>
          <Ansi text={row.source.endsWith("\n") ? row.source.slice(0, -1) : row.source} />
        </pre>
      );
    case "file":
      return <FileLine row={row} onFile={props.onFile} />;
    case "attempt":
      return (
        <div className="row-attempt">
          <span>Attempt {row.number}</span>
        </div>
      );
    case "waiting":
      return (
        <div className="row-note amber">
          <Icon name="hand" size={14} />
          <span>
            {row.waiting.kind === "permission" ? "Asked for permission: " : "Asked: "}
            {visible(row.waiting.title || row.source)}
          </span>
          <Time at={row.at} start={props.start} />
        </div>
      );
    case "gap":
      return (
        <div className="row-note amber">
          <Icon name="warning" size={14} />
          <span>Output is missing here: {visible(row.source)}</span>
        </div>
      );
    case "status":
      return (
        <div className={`row-status ${row.state ? `state ${row.severity}` : row.severity}`}>
          <span>{visible(row.source, 2_000)}</span>
          <Time at={row.at} start={props.start} />
        </div>
      );
  }
});

function Time({ at, start }: { at: number; start: number }): ReactNode {
  return (
    <time
      className="row-time"
      dateTime={at > 0 ? new Date(at).toISOString() : undefined}
      title={at > 0 ? new Date(at).toLocaleString() : ""}
    >
      {clockTime(at - start)}
    </time>
  );
}

function CodeBlock({
  source,
  language,
  continued,
}: {
  source: string;
  language: string;
  continued: boolean;
}): ReactNode {
  return (
    <div className={continued ? "row-code continued" : "row-code"}>
      {!continued && (
        <div className="row-code-head">
          <span>{language || "text"}</span>
          <CopyButton label="Copy code" text={() => source} />
        </div>
      )}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
      <pre tabIndex={0}>{source.replace(/\n$/, "")}</pre>
    </div>
  );
}

function Reasoning(props: { source: string; open: boolean | undefined; toggle: (open: boolean) => void }): ReactNode {
  const text = props.source.trim();
  const open = props.open ?? false;
  const first = text.split("\n", 1)[0]?.replaceAll("**", "") ?? "";
  return (
    <div className="row-reasoning">
      <button type="button" className="fold" aria-expanded={open} onClick={() => props.toggle(!open)}>
        <Icon name="thought" size={14} />
        <span className="fold-title">{open ? "Thinking" : first}</span>
        <Icon name={open ? "down" : "chevron"} size={12} />
      </button>
      {open && (
        <div className="row-text">
          {text.split(/\n{2,}/).map((part, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: paragraphs never move
            <Prose key={at} source={part} />
          ))}
        </div>
      )}
    </div>
  );
}

function Tool(props: RowProps & { row: ToolRow }): ReactNode {
  const { row } = props;
  // What runs or failed is what one wants to see; the rest folds.
  const open = props.open ?? (row.state === "failed" || (row.state === "running" && row.output !== ""));
  return (
    <div className={`row-tool ${row.state}`}>
      <button type="button" className="fold" aria-expanded={open} onClick={() => props.onToggle(row.id, !open)}>
        <Icon name={toolIcon(row.tool)} size={14} />
        <span className="tool-name">{visible(row.tool)}</span>
        <span className="fold-title mono">{visible(row.title)}</span>
        <ToolOutcome row={row} />
        <Time at={row.at} start={props.start} />
        <Icon name={open ? "down" : "chevron"} size={12} />
      </button>
      {open && <ToolBody row={row} />}
    </div>
  );
}

function ToolOutcome({ row }: { row: ToolRow }): ReactNode {
  if (row.state === "running") {
    return (
      <span className="tool-outcome">
        <span className="spinner" aria-hidden="true" />
        <span className="sr">running</span>
      </span>
    );
  }
  return (
    <span className={`tool-outcome ${row.state}`}>
      {row.state === "failed" && (row.exitCode === null ? "failed" : `exit ${row.exitCode}`)}
      {row.durationMs !== null && row.durationMs >= 100 && (
        <span className="tool-duration">{duration(row.durationMs)}</span>
      )}
    </span>
  );
}

function ToolBody({ row }: { row: ToolRow }): ReactNode {
  const [all, setAll] = useState(false);
  const lines = row.output === "" ? [] : row.output.split("\n");
  while (lines.at(-1) === "") lines.pop();
  const last = lines.slice(-FIRST_LINES).join("\n").slice(-FIRST_CHARACTERS);
  const cut = !all && (lines.length > FIRST_LINES || last.length === FIRST_CHARACTERS);
  return (
    <div className="tool-body">
      <ToolInput row={row} />
      {lines.length > 0 && (
        <div className="tool-output">
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard */}
          <pre tabIndex={0}>
            <Ansi text={all ? lines.join("\n") : last} />
          </pre>
          <CopyButton label="Copy output" text={() => plain(row.output)} />
        </div>
      )}
      {cut && (
        <button type="button" className="link" onClick={() => setAll(true)}>
          Show all: {plural(lines.length, "line")}, {plural(row.output.length, "character")}
        </button>
      )}
      {row.truncated && <p className="hint">The agent kept only part of this output.</p>}
      {lines.length === 0 && row.state !== "running" && <p className="hint">No output.</p>}
    </div>
  );
}

/** Inputs that are not already in the title. A replacement is shown as the change it makes. */
function ToolInput({ row }: { row: ToolRow }): ReactNode {
  const { oldString, newString, content, ...rest } = row.input;
  const shown = Object.entries(rest).filter(
    ([, value]) => value !== "" && value !== null && (typeof value === "object" || !row.title.includes(String(value))),
  );
  return (
    <>
      {shown.length > 0 && (
        <dl className="tool-input">
          {shown.map(([name, value]) => (
            <div key={name}>
              <dt>{visible(name)}</dt>
              <dd>{typeof value === "string" ? short(value) : brief(value)}</dd>
            </div>
          ))}
        </dl>
      )}
      {(typeof newString === "string" || typeof content === "string") && (
        <pre className="tool-change">
          {typeof oldString === "string" && oldString !== "" && <del>{signed("-", short(oldString))}</del>}
          <ins>{signed("+", short(typeof newString === "string" ? newString : String(content)))}</ins>
        </pre>
      )}
    </>
  );
}

function short(text: string): string {
  const beyond = text.length - INPUT_CHARACTERS;
  return beyond > 0 ? `${text.slice(0, INPUT_CHARACTERS)}\n… ${plural(beyond, "more character")}` : text;
}

function signed(sign: string, text: string): string {
  return text
    .replace(/\n$/, "")
    .split("\n")
    .map((line) => `${sign} ${line}\n`)
    .join("");
}

function FileLine({ row, onFile }: { row: FileRow; onFile: ((path: string) => void) | undefined }): ReactNode {
  const content = (
    <>
      <FileMark change={row.change} />
      <span className="fold-title mono">{visible(row.path)}</span>
      <Counts additions={row.additions} deletions={row.deletions} />
    </>
  );
  if (!onFile) return <div className="row-file">{content}</div>;
  return (
    <button type="button" className="row-file" onClick={() => onFile(row.path)}>
      {content}
    </button>
  );
}

export function FileMark({ change }: { change: string }): ReactNode {
  const letter = change === "added" ? "A" : change === "deleted" ? "D" : "M";
  return (
    <abbr className={`file-mark ${change}`} title={change}>
      {letter}
    </abbr>
  );
}

export function Counts(props: {
  additions?: number | null | undefined;
  deletions?: number | null | undefined;
}): ReactNode {
  const { additions, deletions } = props;
  if (!additions && !deletions) return null;
  return (
    <span className="counts">
      {additions ? <span className="plus">+{additions}</span> : null}
      {deletions ? <span className="minus">−{deletions}</span> : null}
    </span>
  );
}
