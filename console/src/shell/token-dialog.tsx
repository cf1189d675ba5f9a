import { type FormEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { setBearer } from "../api/client";

/** Asks for a bearer token; `why` is what the gateway says about the present one. */
export function TokenDialog(props: { why: string; hasOne: boolean; onDone: () => void }): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const [text, setText] = useState("");
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    // Closed first: what is asked again with the new token may open it anew.
    props.onDone();
    setBearer(text.trim());
  };
  return (
    <dialog className="dialog" ref={dialog} aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <form onSubmit={submit}>
        <h2 id="token-title">{props.hasOne ? "Another token is needed" : "A token is needed"}</h2>
        <div className="dialog-body">
          {props.hasOne && props.why ? (
            <p className="error" role="alert">
              The gateway says: {props.why}.
            </p>
          ) : (
            <p>This gateway asks who you are.</p>
          )}
          <div className="field">
            <label htmlFor="token">Bearer token</label>
            <input
              id="token"
              type="password"
              value={text}
              autoComplete="off"
              aria-describedby="token-hint"
              onChange={(event) => setText(event.target.value)}
            />
            <div className="hint" id="token-hint">
              Kept in this tab only, and gone when it is closed.
            </div>
          </div>
        </div>
        <div className="dialog-actions">
          <button type="submit" className="button primary" disabled={!text.trim()}>
            Continue
          </button>
        </div>
      </form>
    </dialog>
  );
}
