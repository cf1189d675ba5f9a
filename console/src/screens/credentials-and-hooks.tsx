import { type FormEvent, type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { Credential, Hook, NewHook } from "../api/types";
import { useAction, useNow, usePolled } from "../hooks";
import { ago, until } from "../model/format";
import { Icon } from "../ui/icons";
import { CardSkeletons, Confirm, CopyButton, ErrorText, Failure, Field, Segmented } from "../ui/parts";
import { ProjectField, useProject } from "../ui/project";

const FORGES = ["github", "gitlab", "gitea"] as const;
const KINDS = ["github", "gitlab", "gitea", "generic", "knative"] as const;
type Removal = { readonly what: string; readonly text: string; readonly run: () => Promise<unknown> };

/** Forge credentials of a project, and the hooks by which its events are known. Secrets are shown once, or never. */
export function AccessScreen(): ReactNode {
  const project = useProject();
  const credentials = usePolled(`credentials-${project}`, 10_000, (signal) => api.credentials(project, signal));
  const hooks = usePolled(`hooks-${project}`, 10_000, (signal) => api.hooks(project, signal));
  const [adding, setAdding] = useState<"credential" | "hook" | null>(null);
  const [once, setOnce] = useState<NewHook | null>(null);
  const [removal, setRemoval] = useState<Removal | null>(null);
  const action = useAction();
  const now = useNow(10_000);
  useEffect(() => {
    document.title = "Credentials and hooks · OpenCode Functions";
  }, []);
  const failed = credentials.error ?? hooks.error;
  const refresh = (): void => {
    credentials.refresh();
    hooks.refresh();
  };
  const made = (hook: NewHook | null): void => {
    setAdding(null);
    setOnce(hook);
    refresh();
  };
  const ready = credentials.data && hooks.data;
  return (
    <div className="page">
      <header className="page-head">
        <h1>Credentials and hooks</h1>
        <ProjectField />
      </header>
      {!ready && failed && <Failure error={failed} onRetry={refresh} />}
      {!ready && !failed && <CardSkeletons cards={3} />}
      {once && <Once hook={once} onClose={() => setOnce(null)} />}
      {credentials.data && hooks.data && (
        <>
          <h2 className="section-head">
            Forge credentials
            <button
              type="button"
              className="button"
              onClick={() => setAdding(adding === "credential" ? null : "credential")}
            >
              <Icon name="plus" size={14} /> New credential
            </button>
          </h2>
          {adding === "credential" && <CreateCredential project={project} onDone={() => made(null)} />}
          {credentials.data.length === 0 && (
            <p className="page-note">None. Rules and tasks name one to clone, to push and to ask who may steer.</p>
          )}
          <div className="cards">
            {credentials.data.map((one) => (
              <CredentialCard
                key={one.name}
                credential={one}
                now={now}
                onRemove={() =>
                  setRemoval({
                    what: `the credential ${one.name}`,
                    text: "Executions and rules that name it fail from then on.",
                    run: () => api.removeCredential(one.name, project),
                  })
                }
              />
            ))}
          </div>
          <h2 className="section-head">
            Hooks
            <button type="button" className="button" onClick={() => setAdding(adding === "hook" ? null : "hook")}>
              <Icon name="plus" size={14} /> New hook
            </button>
          </h2>
          {adding === "hook" && <CreateHook project={project} onDone={made} />}
          {hooks.data.length === 0 && (
            <p className="page-note">None. A hook is the address and secret by which a forge's webhooks are known.</p>
          )}
          <div className="cards">
            {hooks.data.map((one) => (
              <HookCard
                key={one.source}
                hook={one}
                now={now}
                busy={action.busy}
                onRotate={() => void action.run(async () => made(await api.rotateHook(one)))}
                onRemove={() =>
                  setRemoval({
                    what: `the hook ${one.source}`,
                    text: "Its secrets are refused from then on.",
                    run: () => api.removeHook(one),
                  })
                }
              />
            ))}
          </div>
        </>
      )}
      {removal && (
        <Confirm
          title={`Delete ${removal.what}?`}
          action="Delete it"
          danger
          busy={action.busy}
          error={action.error}
          onConfirm={() =>
            void action.run(removal.run).then((done) => {
              if (!done) return;
              setRemoval(null);
              refresh();
            })
          }
          onClose={() => setRemoval(null)}
        >
          {removal.text}
        </Confirm>
      )}
    </div>
  );
}

/** What is not shown again. */
function Once({ hook, onClose }: { hook: NewHook; onClose: () => void }): ReactNode {
  const parts: [string, string][] = [["Address", hook.url]];
  if (hook.secret) parts.push(["Secret", hook.secret]);
  return (
    <section className="once" aria-label="New secret">
      <p>
        <strong>
          Copy it now: {hook.secret ? "the secret is" : "the address has a token that is"} not shown again.
        </strong>
      </p>
      <dl className="facts">
        {parts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd className="mono">
              {value} <CopyButton label={`Copy ${name.toLowerCase()}`} text={() => value} />
            </dd>
          </div>
        ))}
      </dl>
      <button type="button" className="button small" onClick={onClose}>
        I have it
      </button>
    </section>
  );
}

function CredentialCard(props: { credential: Credential; now: number; onRemove: () => void }): ReactNode {
  const { credential, now, onRemove } = props;
  return (
    <article className="card">
      <span className="card-mark">
        <Icon name="key" size={14} />
      </span>
      <div className="card-main">
        <h3>{credential.name}</h3>
        <p className="card-meta">
          <span>{credential.kind === "app" ? "GitHub App" : `token of ${credential.forge}`}</span>
          <span className="mono">{credential.api_url}</span>
        </p>
      </div>
      <div className="card-facts">
        <span>{ago(credential.created_at, now)}</span>
      </div>
      <div className="card-actions">
        <RemoveButton label={`Delete the credential ${credential.name}`} onRemove={onRemove} />
      </div>
    </article>
  );
}

function RemoveButton({ label, onRemove }: { label: string; onRemove: () => void }): ReactNode {
  return (
    <button type="button" className="button quiet small" aria-label={label} title="Delete" onClick={onRemove}>
      <Icon name="trash" size={14} />
    </button>
  );
}

function HookCard(props: {
  hook: Hook;
  now: number;
  busy: boolean;
  onRotate: () => void;
  onRemove: () => void;
}): ReactNode {
  const { hook, now, busy, onRotate, onRemove } = props;
  const [latest, earlier] = hook.secrets;
  return (
    <article className="card">
      <span className="card-mark">
        <Icon name="bolt" size={14} />
      </span>
      <div className="card-main">
        <h3>{hook.source}</h3>
        <p className="card-meta">
          <span>{hook.kind}</span>
          {earlier?.expires_at && <span>the earlier secret expires {until(earlier.expires_at, now)}</span>}
        </p>
      </div>
      <div className="card-facts">{latest && <span>{ago(latest.created_at, now)}</span>}</div>
      <div className="card-actions">
        <button type="button" className="button small" disabled={busy} onClick={onRotate}>
          New secret
        </button>
        <RemoveButton label={`Delete the hook ${hook.source}`} onRemove={onRemove} />
      </div>
    </article>
  );
}

function CreateCredential({ project, onDone }: { project: string | undefined; onDone: () => void }): ReactNode {
  const [forge, setForge] = useState<(typeof FORGES)[number]>("github");
  const [form, setForm] = useState({ name: "", api_url: "", token: "" });
  const action = useAction();
  const errors = new Map((action.error?.errors ?? []).map((one) => [one.field.replace(/^body\./, ""), one.message]));
  const text = (name: keyof typeof form, label: string, hint: string, type = "text"): ReactNode => (
    <Field label={label} hint={hint} error={errors.get(name)}>
      {(ids) => (
        <input
          {...ids}
          type={type}
          autoComplete="off"
          spellCheck={false}
          value={form[name]}
          onChange={(event) => setForm({ ...form, [name]: event.target.value })}
        />
      )}
    </Field>
  );
  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    const api_url = form.api_url.trim() ? { api_url: form.api_url.trim() } : {};
    const named = {
      name: form.name.trim(),
      forge,
      token: form.token.trim(),
      ...(project ? { project_id: project } : {}),
    };
    if (await action.run(() => api.createCredential({ ...named, ...api_url }))) onDone();
  };
  return (
    <form className="inline-form stacked" onSubmit={(event) => void submit(event)} noValidate>
      {text("name", "Name", "Rules and tasks name it.")}
      {text("api_url", "API", "Of a forge of your own; required for Gitea.")}
      {text("token", "Token", "Sealed at once. A GitHub App: ocf credential create.", "password")}
      <div className="form-end">
        {errors.size === 0 && <ErrorText error={action.error} />}
        <Segmented
          label="Forge"
          value={forge}
          options={FORGES.map((value) => ({ value, label: value }))}
          onChange={setForge}
        />
        <button type="submit" className="button primary" disabled={action.busy}>
          Create
        </button>
      </div>
    </form>
  );
}

function CreateHook({ project, onDone }: { project: string | undefined; onDone: (hook: NewHook) => void }): ReactNode {
  const [kind, setKind] = useState<(typeof KINDS)[number]>("github");
  const action = useAction();
  const create = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    await action.run(async () => onDone(await api.createHook({ kind, ...(project ? { project_id: project } : {}) })));
  };
  return (
    <form className="inline-form" onSubmit={(event) => void create(event)}>
      <div className="form-end">
        <ErrorText error={action.error} />
        <Segmented
          label="Sender"
          value={kind}
          options={KINDS.map((value) => ({ value, label: value }))}
          onChange={setKind}
        />
        <button type="submit" className="button primary" disabled={action.busy}>
          Create
        </button>
      </div>
    </form>
  );
}
