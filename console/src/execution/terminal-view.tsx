import { lazy, type ReactNode, Suspense, useRef } from "react";
import { asText } from "../model/transcript-as-text";
import { ErrorBoundary } from "../ui/error-boundary";
import { CopyButton, Skeleton } from "../ui/parts";
import { SearchBox, useSearch } from "./search-filter";
import type { Execution } from "./use-execution";

const Terminal = lazy(() => import("./xterm-terminal"));

/** The same, as one terminal shows it. */
export function TerminalView({ execution }: { execution: Execution }): ReactNode {
  const input = useRef<HTMLInputElement>(null);
  const search = useSearch(execution.transcript.rows, execution.version, () => undefined);
  return (
    <>
      <div className="execution-tools">
        <span className="faint tools-note">Everything, in the order it was said</span>
        <SearchBox search={search} input={input} />
        <CopyButton label="Copy the output" text={() => asText(execution.transcript.rows)} />
      </div>
      <ErrorBoundary>
        <Suspense fallback={<Skeleton rows={10} />}>
          <Terminal chunks={execution.chunks} count={execution.chunks.length} query={search.query} turn={search.turn} />
        </Suspense>
      </ErrorBoundary>
    </>
  );
}
