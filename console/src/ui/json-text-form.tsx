import { type FormEvent, type ReactNode, useState } from "react";
import { ApiError } from "../api/client";
import { useAction } from "../hooks";
import { Field } from "./parts";

/** A form whose content is one JSON object, with every wrong field that the gateway names. */
export function JsonForm(props: {
  label: string;
  hint?: string;
  action: string;
  initial?: string;
  rows?: number;
  onSend: (value: Record<string, unknown>) => Promise<unknown>;
  onDone?: () => void;
  children?: ReactNode;
}): ReactNode {
  const [text, setText] = useState(props.initial ?? "");
  const { busy, error, run } = useAction();
  const send = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    if (await run(() => props.onSend(objectOf(text)))) props.onDone?.();
  };
  const wrong = error && error.errors.length > 0 ? error.errors : null;
  const message = wrong?.map((one) => `${one.field}: ${one.message}`).join("; ") ?? error?.message;
  return (
    <form className="inline-form" onSubmit={(event) => void send(event)} noValidate>
      <div className="wide">
        <Field label={props.label} hint={props.hint} error={message}>
          {(ids) => (
            <textarea
              {...ids}
              className="code"
              spellCheck={false}
              rows={props.rows ?? 10}
              value={text}
              onChange={(event) => setText(event.target.value)}
            />
          )}
        </Field>
      </div>
      {props.children && <div className="wide">{props.children}</div>}
      <div className="form-end">
        <button type="submit" className="button primary" disabled={busy || text.trim() === ""}>
          {props.action}
        </button>
      </div>
    </form>
  );
}

/** Parses the text as a JSON object; an error says what is wrong with it. */
export function objectOf(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ApiError(`This is no JSON: ${(error as Error).message}`, -1);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new ApiError("This is no JSON object.", -1);
  return value as Record<string, unknown>;
}
