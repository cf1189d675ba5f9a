import { type FormEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { api } from "../api/client";
import { randomId } from "../client/random-id";
import { useAction } from "../hooks";
import { bodyOf, type Form, fieldOf } from "../model/submission";
import { go, href, useRoute } from "../router";
import { Attachments } from "../submit/attachments";
import type { Setter } from "../submit/fields";
import { PreparationSection } from "../submit/preparation";
import { isRemembered, remember, remembered } from "../submit/remembered";
import {
  AgentSection,
  FilingSection,
  LimitsSection,
  ModelSection,
  PermissionsSection,
  ResultSection,
  Workspace,
} from "../submit/sections";
import { Field } from "../ui/parts";

/** Submit form. */
export function SubmitScreen(): ReactNode {
  const { query } = useRoute();
  const [form, setForm] = useState<Form>(() => remembered(query));
  const action = useAction();
  // The same key for the same form: a second click, or a try after a lost answer, makes no second execution.
  const key = useRef({ text: "", key: "" });
  const errors = new Map<keyof Form, string>();
  const others: string[] = [];
  for (const error of action.error?.errors ?? []) {
    const field = fieldOf(error.field);
    if (field) errors.set(field, error.message);
    else others.push(`${error.field}: ${error.message}`);
  }
  const element = useRef<HTMLFormElement>(null);
  const failed = action.error;
  useEffect(() => {
    // Where it can be mended; the fields that were folded are open by now.
    if (failed) element.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [failed]);
  useEffect(() => {
    document.title = "New execution · OpenCode Functions";
    const from = query.get("from");
    if (from && !isRemembered(from)) {
      api
        .task(from)
        .then((task) =>
          setForm((before) =>
            before.prompt ? before : { ...before, prompt: task.title ?? "", project: task.project_id },
          ),
        )
        .catch(() => undefined);
    }
  }, [query]);

  const set: Setter = (name, value) =>
    setForm((before) => ({ ...before, [name]: typeof value === "function" ? value(before[name]) : value }));
  const parts = { form, set, errors };
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    const body = bodyOf(form);
    const text = JSON.stringify(body);
    if (key.current.text !== text) key.current = { text, key: randomId() };
    await action.run(async () => {
      const { execution_id } = await api.submit(body, key.current.key);
      remember(execution_id, form);
      go(href(`/tasks/${execution_id}`));
    });
  };

  return (
    <div className="page narrow">
      <header className="page-head">
        <h1>New execution</h1>
      </header>
      <form className="submit" ref={element} onSubmit={(event) => void submit(event)} noValidate>
        <Attachments {...parts}>
          <Field
            label="What is to be done?"
            error={errors.get("prompt")}
            hint="Say it as you would to a colleague who has the repository open."
          >
            {(ids) => (
              <textarea
                {...ids}
                rows={7}
                className="prompt"
                value={form.prompt}
                onChange={(event) => set("prompt", event.target.value)}
                onKeyDown={(event) => {
                  if (event.key === "Enter" && (event.ctrlKey || event.metaKey))
                    event.currentTarget.form?.requestSubmit();
                }}
              />
            )}
          </Field>
        </Attachments>
        <Workspace {...parts} />
        <ResultSection {...parts} />
        <ModelSection {...parts} />
        <AgentSection {...parts} />
        <PreparationSection {...parts} />
        <LimitsSection {...parts} />
        <PermissionsSection {...parts} />
        <FilingSection {...parts} />
        <div className="submit-bar">
          {action.error && (
            <div className="outcome" role="alert">
              <strong>{errors.size > 0 ? "Please look at what is marked above" : "Not submitted"}</strong>
              {(errors.size === 0 || others.length > 0) && (
                <span>{others.length > 0 ? others.join("; ") : action.error.message}</span>
              )}
            </div>
          )}
          <span className="hint">
            <kbd>Ctrl</kbd> <kbd>Enter</kbd> runs it
          </span>
          <button type="submit" className="button primary large" disabled={action.busy || form.prompt.trim() === ""}>
            {action.busy ? "Submitting…" : "Run"}
          </button>
        </div>
      </form>
    </div>
  );
}
