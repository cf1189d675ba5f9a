import type { ReactNode } from "react";
import type { Readiness } from "../api/types";
import { Icon } from "../ui/icons";

/** What is true of everything below: cut off, not ready, or not a real model. */
export function Banners(props: { ready: Readiness | null; offline: boolean; ownNote: boolean }): ReactNode {
  const { ready, offline, ownNote } = props;
  const broken = Object.entries(ready?.checks ?? {}).filter(([, check]) => !check.ok);
  if (offline) {
    return (
      <div className="banner red" role="alert">
        <Icon name="wifi" size={14} />
        <span>
          <strong>The gateway cannot be reached.</strong> What you see may be out of date; executions go on without this
          page.
        </span>
      </div>
    );
  }
  return (
    <>
      {broken.length > 0 && (
        <div className="banner amber" role="status">
          <Icon name="warning" size={14} />
          <span>
            <strong>Not ready:</strong>{" "}
            {broken.map(([name, check]) => `${name}${check.detail ? ` (${check.detail})` : ""}`).join(", ")}
          </span>
        </div>
      )}
      {ready?.offline_model && !ownNote && (
        <div className="banner" role="note">
          <Icon name="info" size={14} />
          {/* Nobody should take a script's text for a model's judgement. */}
          <span>
            <strong>Offline scripted model.</strong> Answers come from a script, not from a language model. Everything
            else is real.
          </span>
        </div>
      )}
    </>
  );
}
