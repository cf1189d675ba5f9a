import { type ReactNode, useEffect, useMemo, useRef, useState } from "react";
import { Decoration, Diff, type FileData, Hunk, parseDiff } from "react-diff-view";
import "react-diff-view/style/index.css";
import { ApiError, api } from "../api/client";
import { visible } from "../model/escape-controls";
import { plural } from "../model/format";
import { type Shown, shownPatch } from "../model/patch-limits";
import { Icon } from "../ui/icons";
import { CopyButton, Empty, Failure, Segmented, Skeleton } from "../ui/parts";
import { Counts, FileMark } from "./row-view";

/** Files with more changed lines than this come folded. */
const FOLD_LINES = 600;
/** Files that are shown. */
const FILES_SHOWN = 500;

interface Props {
  readonly id: string;
  /** The patch is written when the execution ends; until then there is none. */
  readonly final: boolean;
  /** The file to show first. */
  readonly file: string | null;
}

/** What the execution changed, file by file. */
export default function DiffView({ id, final, file }: Props): ReactNode {
  const [patch, setPatch] = useState<string | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [tries, setTries] = useState(0);
  const [view, setView] = useState<"unified" | "split">("unified");

  // biome-ignore lint/correctness/useExhaustiveDependencies: `tries` asks for a further call
  useEffect(() => {
    if (!final) return;
    const abort = new AbortController();
    setError(null);
    api
      .diff(id, abort.signal)
      .then(setPatch)
      .catch((failure: unknown) => {
        if (!abort.signal.aborted) setError(failure instanceof ApiError ? failure : new ApiError(String(failure), -1));
      });
    return () => abort.abort();
  }, [id, final, tries]);

  const shown = useMemo(() => shownPatch(patch ?? ""), [patch]);
  const files = useMemo(() => (shown.patch ? parseDiff(shown.patch) : []), [shown]);

  if (!final) {
    return (
      <Empty icon="branch" title="The patch is written when the execution ends">
        Files that have changed so far are listed under “Changes”.
      </Empty>
    );
  }
  if (error) return <Failure error={error} onRetry={() => setTries(tries + 1)} />;
  if (patch === null) return <Skeleton rows={12} />;
  if (files.length === 0) return <Empty icon="branch" title="Nothing was changed" />;
  return (
    <div className="diff-page">
      <div className="diff-bar">
        <span>{plural(files.length, "file")} changed</span>
        <Segmented
          label="Diff layout"
          value={view}
          options={[
            { value: "unified", label: "Unified" },
            { value: "split", label: "Side by side" },
          ]}
          onChange={setView}
        />
      </div>
      {(shown.longLines > 0 || shown.filesLeftOut > 0 || files.length > FILES_SHOWN) && (
        <p className="hint">{leftOut(shown, files.length)} The downloaded patch has everything.</p>
      )}
      {files.slice(0, FILES_SHOWN).map((one) => (
        <FileDiff key={pathOf(one)} file={one} view={view} wanted={pathOf(one) === file} />
      ))}
    </div>
  );
}

function FileDiff({ file, view, wanted }: { file: FileData; view: "unified" | "split"; wanted: boolean }): ReactNode {
  const changes = file.hunks.flatMap((hunk) => hunk.changes);
  const additions = changes.filter((change) => change.type === "insert").length;
  const deletions = changes.filter((change) => change.type === "delete").length;
  const [open, setOpen] = useState(additions + deletions <= FOLD_LINES);
  const section = useRef<HTMLElement>(null);
  useEffect(() => {
    if (!wanted) return;
    setOpen(true);
    section.current?.scrollIntoView({ block: "start" });
  }, [wanted]);
  const path = pathOf(file);
  const kind = file.type === "add" ? "added" : file.type === "delete" ? "deleted" : "modified";
  return (
    <section className="diff-file" ref={section} aria-label={visible(path)}>
      <header>
        <button type="button" className="fold" aria-expanded={open} onClick={() => setOpen(!open)}>
          <Icon name={open ? "down" : "chevron"} size={12} />
          <FileMark change={kind} />
          <span className="fold-title mono">
            {file.type === "rename" ? `${visible(file.oldPath)} → ${visible(file.newPath)}` : visible(path)}
          </span>
          <Counts additions={additions} deletions={deletions} />
        </button>
        <CopyButton label={`Copy the path ${path}`} text={() => path} />
      </header>
      {open &&
        (file.hunks.length === 0 ? (
          <p className="hint">{file.isBinary ? "Binary file." : "No lines changed: mode or name only."}</p>
        ) : (
          // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
          <section className="diff-scroll" tabIndex={0} aria-label={`Changes of ${path}`}>
            <Diff viewType={view} diffType={file.type} hunks={file.hunks}>
              {(hunks) =>
                hunks.flatMap((hunk) => [
                  <Decoration key={`${hunk.content} head`}>{hunk.content}</Decoration>,
                  <Hunk key={hunk.content} hunk={hunk} />,
                ])
              }
            </Diff>
          </section>
        ))}
    </section>
  );
}

function leftOut(shown: Shown, files: number): string {
  const said: string[] = [];
  if (shown.longLines > 0) said.push(`${plural(shown.longLines, "line")} cut.`);
  const missing = shown.filesLeftOut + Math.max(0, files - FILES_SHOWN);
  if (missing > 0) said.push(`${plural(missing, "further file")} not shown.`);
  return said.join(" ");
}

function pathOf(file: FileData): string {
  return file.type === "delete" ? file.oldPath : file.newPath;
}
