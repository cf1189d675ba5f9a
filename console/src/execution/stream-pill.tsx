import type { ReactNode } from "react";
import { useNow } from "../hooks";
import type { StreamStatus } from "../stream";

/** Whether what is shown is live, complete or cut off: never more than is true. */
export function StreamPill({ stream, onRetry }: { stream: StreamStatus; onRetry: () => void }): ReactNode {
  const waiting = stream.state === "disconnected" && stream.retryAt !== null;
  const now = useNow(waiting ? 500 : 0);
  const seconds = waiting ? Math.max(0, Math.ceil(((stream.retryAt ?? 0) - now) / 1_000)) : 0;
  const [text, title] = describe(stream);
  return (
    <span className={`stream-pill ${stream.state}`} title={title}>
      <span className="dot" aria-hidden="true" />
      <span className="pill-text" role="status">
        {text}
      </span>
      {/* Apart from the status: a countdown is not to be read out every second. */}
      {waiting && <span className="pill-seconds">{seconds} s</span>}
      {waiting && (
        <button type="button" className="link" onClick={onRetry}>
          Retry now
        </button>
      )}
    </span>
  );
}

function describe(stream: StreamStatus): [string, string] {
  switch (stream.state) {
    case "connected":
      return [
        "Live",
        stream.transport === "nats" ? "Live over NATS; complete so far" : "Live through the gateway; complete so far",
      ];
    case "catching-up":
      return ["Catching up", "Reading what was said before"];
    case "ended":
      return ["Complete", "It has ended and everything it said is here"];
    case "disconnected":
      return ["Disconnected", stream.error ?? ""];
  }
}
