import { type FormEvent, type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { Waiting } from "../api/types";
import { useAction, useNow } from "../hooks";
import { visible } from "../model/escape-controls";
import { until, words } from "../model/format";
import { Icon } from "../ui/icons";
import { ErrorText } from "../ui/parts";

/** What the agent waits for, and the answer. It stays until the record says that nobody waits any more. */
export function WaitingCard({
  id,
  waiting,
  onAnswered,
}: {
  id: string;
  waiting: Waiting;
  onAnswered: () => void;
}): ReactNode {
  const [answer, setAnswer] = useState("");
  const [sent, setSent] = useState<string | null>(null);
  const action = useAction();
  const now = useNow(1_000);
  const permission = waiting.kind === "permission";
  const options = waiting.options?.length ? waiting.options : permission ? ["once", "always", "reject"] : [];

  // biome-ignore lint/correctness/useExhaustiveDependencies: another request is another card
  useEffect(() => {
    setSent(null);
    setAnswer("");
  }, [waiting.request_id]);

  const send = async (text: string): Promise<void> => {
    if (await action.run(() => api.reply(id, waiting.request_id, text))) {
      setSent(text);
      onAnswered();
    }
  };
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (answer.trim()) void send(answer.trim());
  };

  return (
    <section className="waiting" aria-label={permission ? "Permission needed" : "Question"}>
      <div className="waiting-head">
        <Icon name="hand" />
        <strong>{permission ? "The agent needs your permission" : "The agent has a question"}</strong>
        {waiting.deadline && <span className="faint">expires {until(waiting.deadline, now)}</span>}
      </div>
      <p className={permission ? "mono waiting-title" : "waiting-title"}>{visible(waiting.title, 4_000)}</p>
      {sent ? (
        <p className="hint" role="status">
          Answered “{sent}”. Waiting for the agent to go on…
        </p>
      ) : (
        <>
          <div className="waiting-options">
            {options.map((option, at) => (
              <button
                key={option}
                type="button"
                className={at === 0 ? "button primary" : /reject|deny/i.test(option) ? "button danger-quiet" : "button"}
                disabled={action.busy}
                onClick={() => void send(option)}
              >
                {visible(permission ? label(option) : option)}
              </button>
            ))}
          </div>
          {!permission && (
            <form className="waiting-form" onSubmit={submit}>
              <input
                value={answer}
                onChange={(event) => setAnswer(event.target.value)}
                placeholder={options.length > 0 ? "Or answer in your own words" : "Your answer"}
                aria-label="Your answer"
              />
              <button type="submit" className="button" disabled={action.busy || !answer.trim()}>
                Send
              </button>
            </form>
          )}
        </>
      )}
      <ErrorText error={action.error} />
    </section>
  );
}

function label(option: string): string {
  const known: Record<string, string> = { once: "Allow once", always: "Always allow", reject: "Reject" };
  return known[option] ?? words(option);
}
