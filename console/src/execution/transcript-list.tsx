import { useVirtualizer } from "@tanstack/react-virtual";
import {
  type ReactNode,
  type Ref,
  useCallback,
  useEffect,
  useImperativeHandle,
  useLayoutEffect,
  useRef,
  useState,
} from "react";
import type { Row } from "../model/transcript-rows";
import { Icon } from "../ui/icons";
import { RowView } from "./row-view";
import { highlight } from "./search-highlight";

export interface TranscriptHandle {
  /** Scrolls to the row at that place of `rows` and unfolds it. */
  reveal(index: number): void;
}

interface Props {
  readonly rows: readonly Row[];
  readonly start: number;
  readonly query: string;
  /** Follow the end as it grows. */
  readonly follow: boolean;
  readonly live: boolean;
  readonly onFile?: (path: string) => void;
  readonly handle?: Ref<TranscriptHandle>;
  readonly footer?: ReactNode;
}

/** Close to the end counts as at the end, in pixels. */
const NEAR = 48;
/** A scroll this soon after a wheel, a touch or a key is the reader's, in milliseconds. */
const TOUCH_MS = 1_000;

/** The transcript. Only what is visible is in the page, however long it is. */
export function TranscriptList({ rows, start, query, follow, live, onFile, handle, footer }: Props): ReactNode {
  const scroller = useRef<HTMLDivElement>(null);
  const [following, setFollowing] = useState(follow);
  // Rows that turn out shorter than estimated scroll the box up too: only what the reader does counts as leaving the end.
  const touched = useRef(0);
  const lastTop = useRef(0);
  const touch = (): void => {
    touched.current = Date.now();
  };
  const [atEnd, setAtEnd] = useState(true);
  const [opened, setOpened] = useState<ReadonlyMap<number, boolean>>(new Map());
  const virtualizer = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: (index) => estimate(rows[index]),
    getItemKey: (index) => rows[index]?.id ?? index,
    overscan: 8,
    paddingStart: 12,
    paddingEnd: 24,
  });
  const total = virtualizer.getTotalSize();

  useLayoutEffect(() => {
    const box = scroller.current;
    if (!box || total === 0) return;
    if (following) box.scrollTop = box.scrollHeight;
    setAtEnd(nearEnd(box));
  }, [following, total]);
  useEffect(() => setFollowing(follow), [follow]);
  useEffect(() => {
    const box = scroller.current;
    if (!box || !following) return;
    // A question below the list, or a keyboard on a phone, makes it shorter: the end must stay in view.
    const resized = new ResizeObserver(() => {
      box.scrollTop = box.scrollHeight;
    });
    resized.observe(box);
    return () => resized.disconnect();
  }, [following]);
  useLayoutEffect(() => highlight(scroller.current, query));

  useImperativeHandle(handle, () => ({
    reveal(index) {
      setFollowing(false);
      const id = rows[index]?.id;
      if (id !== undefined) setOpened((before) => new Map(before).set(id, true));
      virtualizer.scrollToIndex(index, { align: "center" });
    },
  }));

  const onToggle = useCallback((id: number, open: boolean) => {
    // Whoever opens something reads it: it must not run away.
    setFollowing(false);
    setOpened((before) => new Map(before).set(id, open));
  }, []);

  return (
    <div className="transcript">
      <div
        className="transcript-scroll"
        ref={scroller}
        role="log"
        aria-label="Transcript"
        aria-live="off"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
        tabIndex={0}
        onScroll={(event) => {
          const box = event.currentTarget;
          const end = nearEnd(box);
          setAtEnd(end);
          const byReader = Date.now() - touched.current < TOUCH_MS;
          if (!end && following && byReader && box.scrollTop < lastTop.current) setFollowing(false);
          if (end && live && !following) setFollowing(true);
          lastTop.current = box.scrollTop;
        }}
        onWheel={touch}
        onTouchMove={touch}
        onPointerDown={touch}
        onKeyDown={touch}
      >
        <div className="transcript-rows" style={{ blockSize: total }}>
          {virtualizer.getVirtualItems().map((item) => {
            const row = rows[item.index];
            if (!row) return null;
            return (
              <div
                key={item.key}
                ref={virtualizer.measureElement}
                data-index={item.index}
                className="row"
                style={{ transform: `translateY(${item.start}px)` }}
              >
                <RowView row={row} start={start} open={opened.get(row.id)} onToggle={onToggle} onFile={onFile} />
              </div>
            );
          })}
        </div>
        {footer}
      </div>
      {!following && !atEnd && (
        <button type="button" className="button to-end" onClick={() => setFollowing(true)}>
          <Icon name="down" size={14} /> {live ? "Follow" : "To the end"}
        </button>
      )}
    </div>
  );
}

function nearEnd(box: Element): boolean {
  return box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
}

function estimate(row: Row | undefined): number {
  switch (row?.kind) {
    case "text":
      return row.format === "code"
        ? 44 + 19 * row.source.split("\n").length
        : 14 + 23 * Math.ceil(row.source.length / 95);
    case "output":
      return 12 + 19 * row.source.split("\n").length;
    case "attempt":
      return 48;
    default:
      return 34;
  }
}
