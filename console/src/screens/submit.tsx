import { type FormEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { api } from "../api/client";
import { useAction } from "../hooks";
import {
  BLANK,
  bodyOf,
  type Form,
  fieldOf,
  PERMISSIONS,
  type Permission,
  SOURCES,
  type Source,
} from "../model/submission";
import { go, href, useRoute } from "../router";
import { Field, Segmented } from "../ui/parts";

const SOURCE_LABELS: Readonly<Record<Source, string>> = {
  empty: "Empty",
  git: "Git repository",
  directory: "Directory",
  snapshot: "Earlier run",
  shared: "Shared volume",
};
/** What was submitted, by execution, for "Run again": in this tab only, and never the key. */
const SUBMITTED = "ocf.submitted.";
const LAST = "ocf.last";

/** Submit form. */
export function SubmitScreen(): ReactNode {
  const { query } = useRoute();
  const [form, setForm] = useState<Form>(() => remembered(query));
  const action = useAction();
  // The same key for the same form: a second click, or a try after a lost answer, makes no second run.
  const key = useRef({ text: "", key: "" });
  const errors = new Map<keyof Form, string>();
  const others: string[] = [];
  for (const error of action.error?.errors ?? []) {
    const field = fieldOf(error.field);
    if (field) errors.set(field, error.message);
    else others.push(`${error.field}: ${error.message}`);
  }
  useEffect(() => {
    document.title = "New run · OpenCode Functions";
    const from = query.get("from");
    if (from && !sessionStorage.getItem(SUBMITTED + from)) {
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

  const set = <K extends keyof Form>(name: K, value: Form[K]): void => setForm({ ...form, [name]: value });
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    const body = bodyOf(form);
    const text = JSON.stringify(body);
    if (key.current.text !== text)
      key.current = { text, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
    await action.run(async () => {
      const { execution_id } = await api.submit(body, key.current.key);
      const kept = JSON.stringify({ ...form, key: "" });
      sessionStorage.setItem(SUBMITTED + execution_id, kept);
      localStorage.setItem(
        LAST,
        JSON.stringify({ project: form.project, provider: form.provider, model: form.model, endpoint: form.endpoint }),
      );
      go(href(`/tasks/${execution_id}`));
    });
  };

  return (
    <div className="page narrow">
      <header className="page-head">
        <h1>New run</h1>
      </header>
      <form className="submit" onSubmit={(event) => void submit(event)} noValidate>
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
        <Workspace form={form} set={set} errors={errors} />
        <Group
          title="Model"
          summary={form.model ? `${form.provider}/${form.model}` : "the default"}
          open={hasAny(errors, MODEL_FIELDS)}
        >
          <div className="pair">
            <Text name="provider" label="Provider" placeholder="anthropic" {...{ form, set, errors }} />
            <Text name="model" label="Model" placeholder="claude-sonnet-4-5" {...{ form, set, errors }} />
          </div>
          <div className="pair">
            <Text
              name="key"
              label="API key"
              type="password"
              hint="Sealed by the gateway; it never reaches the agent."
              {...{ form, set, errors }}
            />
            <Text
              name="endpoint"
              label="Endpoint"
              placeholder="https://"
              hint="For servers that speak a provider's API."
              {...{ form, set, errors }}
            />
          </div>
          <div className="pair">
            <Text name="temperature" label="Temperature" inputMode="decimal" {...{ form, set, errors }} />
            <Text name="maxTokens" label="Output tokens per call" inputMode="numeric" {...{ form, set, errors }} />
          </div>
          <Field label="System prompt" error={errors.get("systemPrompt")}>
            {(ids) => (
              <textarea
                {...ids}
                rows={3}
                value={form.systemPrompt}
                onChange={(event) => set("systemPrompt", event.target.value)}
              />
            )}
          </Field>
        </Group>
        <Group title="Limits" summary={limitsInWords(form)} open={hasAny(errors, LIMIT_FIELDS)}>
          <div className="pair">
            <Text
              name="timeoutMinutes"
              label="Time, in minutes"
              inputMode="decimal"
              placeholder="60"
              {...{ form, set, errors }}
            />
            <Text
              name="maxCost"
              label="Cost, in US dollars"
              inputMode="decimal"
              placeholder="no limit"
              {...{ form, set, errors }}
            />
          </div>
          <div className="pair">
            <Text
              name="maxTotalTokens"
              label="Tokens in all"
              inputMode="numeric"
              placeholder="no limit"
              {...{ form, set, errors }}
            />
            <Text
              name="attempts"
              label="Attempts"
              inputMode="numeric"
              placeholder="1"
              hint="A further one only when the worker is lost."
              {...{ form, set, errors }}
            />
          </div>
        </Group>
        <Group
          title="Permissions and network"
          summary={permissionsInWords(form)}
          open={hasAny(errors, ["network", "answerMinutes"])}
        >
          <div className="pair">
            <PermissionField label="Shell commands" value={form.bash} onChange={(value) => set("bash", value)} />
            <PermissionField label="Editing files" value={form.edit} onChange={(value) => set("edit", value)} />
          </div>
          {(form.bash === "ask" || form.edit === "ask") && (
            <Text
              name="answerMinutes"
              label="Minutes it waits for your answer"
              inputMode="decimal"
              hint="Then it fails, and says what it asked for."
              {...{ form, set, errors }}
            />
          )}
          <Text
            name="network"
            label="Hosts its tools may reach"
            placeholder="pypi.org, *.example.com"
            hint="None unless named; the operator's list is the ceiling."
            {...{ form, set, errors }}
          />
        </Group>
        <Group
          title="Filing"
          summary={[form.project, form.labels].filter(Boolean).join(" · ") || "the default project"}
          open={hasAny(errors, FILING_FIELDS)}
        >
          <div className="pair">
            <Text name="project" label="Project" placeholder="default" {...{ form, set, errors }} />
            <Text
              name="session"
              label="Session"
              placeholder="none"
              hint="Go on in a conversation of earlier runs."
              {...{ form, set, errors }}
            />
          </div>
          <Text name="labels" label="Labels" placeholder="team=web, ticket=142" {...{ form, set, errors }} />
        </Group>
        {action.error && (
          <div className="outcome" role="alert">
            <strong>
              {action.error.offline
                ? "Not submitted"
                : errors.size + others.length > 0
                  ? "Please look at the fields above"
                  : "Not submitted"}
            </strong>
            {(errors.size === 0 || others.length > 0) && (
              <span>{others.length > 0 ? others.join("; ") : action.error.message}</span>
            )}
          </div>
        )}
        <div className="submit-bar">
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

type Setter = <K extends keyof Form>(name: K, value: Form[K]) => void;
type Errors = ReadonlyMap<keyof Form, string>;
type TextName = { [K in keyof Form]: string extends Form[K] ? K : never }[keyof Form];

const MODEL_FIELDS = ["provider", "model", "key", "endpoint", "temperature", "maxTokens", "systemPrompt"] as const;
const LIMIT_FIELDS = ["timeoutMinutes", "maxCost", "maxTotalTokens", "attempts"] as const;
const FILING_FIELDS = ["project", "session", "labels"] as const;

function hasAny(errors: Errors, names: readonly (keyof Form)[]): boolean {
  return names.some((name) => errors.has(name));
}

function Text(props: {
  name: TextName;
  label: string;
  form: Form;
  set: Setter;
  errors: Errors;
  hint?: string;
  placeholder?: string;
  type?: string;
  inputMode?: "decimal" | "numeric";
}): ReactNode {
  const { name, form, set, errors, label, hint, type = "text", ...rest } = props;
  return (
    <Field label={label} error={errors.get(name)} hint={hint}>
      {(ids) => (
        <input
          {...ids}
          {...rest}
          type={type}
          autoComplete="off"
          spellCheck={false}
          value={form[name]}
          onChange={(event) => set(name, event.target.value)}
        />
      )}
    </Field>
  );
}

function Workspace({ form, set, errors }: { form: Form; set: Setter; errors: Errors }): ReactNode {
  return (
    <fieldset className="group plain">
      <legend>Workspace</legend>
      <Segmented
        label="Where the workspace comes from"
        value={form.source}
        options={SOURCES.map((source) => ({ value: source, label: SOURCE_LABELS[source] }))}
        onChange={(source) => set("source", source)}
      />
      {form.source === "empty" && <p className="hint">A new, empty directory.</p>}
      {form.source === "git" && (
        <div className="pair wide-first">
          <Text name="url" label="Address" placeholder="https://example.com/team/app.git" {...{ form, set, errors }} />
          <Text name="ref" label="Branch, tag or commit" placeholder="default branch" {...{ form, set, errors }} />
        </div>
      )}
      {form.source === "directory" && (
        <Text
          name="path"
          label="Path"
          placeholder="/srv/projects/app"
          hint="A copy is made of it; the directory itself is never changed."
          {...{ form, set, errors }}
        />
      )}
      {form.source === "shared" && (
        <Text
          name="path"
          label="Path on the volume"
          placeholder="team/app"
          hint="Used in place: others on the volume see every change at once."
          {...{ form, set, errors }}
        />
      )}
      {form.source === "snapshot" && (
        <Text
          name="snapshot"
          label="Execution"
          hint="Starts from the files that run left."
          {...{ form, set, errors }}
        />
      )}
    </fieldset>
  );
}

function PermissionField({
  label,
  value,
  onChange,
}: {
  label: string;
  value: Permission;
  onChange: (value: Permission) => void;
}): ReactNode {
  const labels = { allow: "Allow", ask: "Ask me", deny: "Deny" };
  return (
    <div className="field">
      <span className="label">{label}</span>
      <Segmented
        label={label}
        value={value}
        options={PERMISSIONS.map((one) => ({ value: one, label: labels[one] }))}
        onChange={onChange}
      />
    </div>
  );
}

/** Fields that most leave alone: folded, with what holds in one line; open when one of them is wrong. */
function Group(props: { title: string; summary: string; open: boolean; children: ReactNode }): ReactNode {
  const details = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    if (props.open && details.current) details.current.open = true;
  }, [props.open]);
  return (
    <details className="group" ref={details}>
      <summary>
        <span className="group-title">{props.title}</span>
        <span className="group-summary">{props.summary}</span>
      </summary>
      <div className="group-body">{props.children}</div>
    </details>
  );
}

function limitsInWords(form: Form): string {
  const parts = [
    form.timeoutMinutes && `${form.timeoutMinutes} min`,
    form.maxCost && `$${form.maxCost}`,
    form.maxTotalTokens && `${form.maxTotalTokens} tokens`,
    form.attempts && `${form.attempts} attempts`,
  ].filter(Boolean);
  return parts.length > 0 ? parts.join(" · ") : "the operator's";
}

function permissionsInWords(form: Form): string {
  const parts = [
    form.bash !== "allow" && `shell: ${form.bash}`,
    form.edit !== "allow" && `editing: ${form.edit}`,
    form.network && form.network,
  ].filter(Boolean);
  return parts.length > 0 ? parts.join(" · ") : "everything in the sandbox, no network";
}

function remembered(query: URLSearchParams): Form {
  const last = parse(localStorage.getItem(LAST));
  const earlier = parse(sessionStorage.getItem(SUBMITTED + (query.get("from") ?? "")));
  const snapshot = query.get("snapshot");
  return {
    ...BLANK,
    ...last,
    ...earlier,
    ...(snapshot ? { source: "snapshot" as const, snapshot } : {}),
    ...(query.get("session") ? { session: query.get("session") ?? "" } : {}),
  };
}

function parse(text: string | null): Partial<Form> {
  try {
    return text ? (JSON.parse(text) as Partial<Form>) : {};
  } catch {
    return {}; // written by another version
  }
}
