import { type ReactNode, useEffect, useState } from "react";
import { api } from "../api/client";
import type { ModelFacts } from "../api/types";
import { factsInWords, modelsOf, providersOf } from "../model/models";
import { type Form, RECORDINGS, type RecordingChoice, SOURCES, type Source } from "../model/submission";
import { Segmented } from "../ui/parts";
import { Area, type FormProps, Group, hasAny, PermissionField, Text } from "./fields";

const SOURCE_LABELS: Readonly<Record<Source, string>> = {
  empty: "Empty",
  git: "Git repository",
  directory: "Directory",
  snapshot: "Earlier execution",
  shared: "Shared volume",
};
const MODEL_FIELDS = ["provider", "model", "key", "endpoint", "temperature", "maxTokens", "systemPrompt"] as const;
const LIMIT_FIELDS = ["timeoutMinutes", "maxCost", "maxTotalTokens", "attempts"] as const;
const AGENT_FIELDS = ["agent", "variant", "outputSchema"] as const;
const RESULT_FIELDS = ["branch", "base", "pullTitle"] as const;
const FILING_FIELDS = ["project", "session", "labels", "recording"] as const;
const RECORDING_LABELS: Readonly<Record<RecordingChoice, string>> = {
  default: "Default",
  off: "Nothing",
  answers: "Answers",
  full: "Full",
};

/** Where the files come from. */
export function Workspace({ form, set, errors }: FormProps): ReactNode {
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
        <>
          <div className="pair wide-first">
            <Text
              name="url"
              label="Address"
              placeholder="https://example.com/team/app.git"
              {...{ form, set, errors }}
            />
            <Text name="ref" label="Branch, tag or commit" placeholder="default branch" {...{ form, set, errors }} />
          </div>
          <Text
            name="credential"
            label="Credential"
            placeholder="none"
            hint="Its name; for a private repository and for the pull request."
            {...{ form, set, errors }}
          />
        </>
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
        <Text name="snapshot" label="Execution" hint="Starts from the files that it left." {...{ form, set, errors }} />
      )}
    </fieldset>
  );
}

/** The branch and pull request that a git workspace's changes become. */
export function ResultSection({ form, set, errors }: FormProps): ReactNode {
  if (form.source !== "git") return null;
  return (
    <Group title="Pull request" summary={form.branch || "none"} open={hasAny(errors, RESULT_FIELDS)}>
      <div className="pair">
        <Text
          name="branch"
          label="Branch to push"
          placeholder="agent/fix"
          hint="A new one; without it nothing is pushed."
          {...{ form, set, errors }}
        />
        <Text name="base" label="Into" placeholder="the cloned branch" {...{ form, set, errors }} />
      </div>
      <Text name="pullTitle" label="Title" placeholder="first line of the task" {...{ form, set, errors }} />
    </Group>
  );
}

/** Which model, how it is reached, how it is asked. */
export function ModelSection({ form, set, errors }: FormProps): ReactNode {
  const models = useModels();
  const provider = form.provider.trim();
  const chosen = models.find((one) => one.provider === provider && one.model === form.model.trim());
  return (
    <Group
      title="Model"
      summary={form.model ? `${form.provider}/${form.model}` : "the default"}
      open={hasAny(errors, MODEL_FIELDS)}
    >
      <div className="pair">
        <Text
          name="provider"
          label="Provider"
          placeholder="anthropic"
          options={providersOf(models)}
          {...{ form, set, errors }}
        />
        <Text
          name="model"
          label="Model"
          placeholder="claude-sonnet-4-5"
          options={modelsOf(models, provider)}
          {...(chosen ? { hint: factsInWords(chosen) } : {})}
          {...{ form, set, errors }}
        />
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
      <Area name="systemPrompt" label="System prompt" {...{ form, set, errors }} />
    </Group>
  );
}

/** How the agent works, and what it gives back. */
export function AgentSection({ form, set, errors }: FormProps): ReactNode {
  return (
    <Group
      title="Agent and result"
      summary={
        [form.agent, form.variant, form.outputSchema.trim() && "JSON by a schema"].filter(Boolean).join(" · ") ||
        "build"
      }
      open={hasAny(errors, AGENT_FIELDS)}
    >
      <div className="pair">
        <Text name="agent" label="Agent" placeholder="build" hint="plan only looks." {...{ form, set, errors }} />
        <Text
          name="variant"
          label="Variant"
          placeholder="the model's default"
          hint="Reasoning effort, as the model names it."
          {...{ form, set, errors }}
        />
      </div>
      <Area
        name="outputSchema"
        label="JSON Schema of the result"
        hint="The run fails where the result does not fit it."
        placeholder='{"type": "object", "properties": {}}'
        code
        {...{ form, set, errors }}
      />
    </Group>
  );
}

/** The models that can be asked for; none while the gateway has not answered: any name can be typed. */
function useModels(): readonly ModelFacts[] {
  const [models, setModels] = useState<readonly ModelFacts[]>([]);
  useEffect(() => {
    const leaving = new AbortController();
    api.models(leaving.signal).then(
      (found) => setModels(found.models),
      () => setModels([]),
    );
    return () => leaving.abort();
  }, []);
  return models;
}

/** What ends an execution. */
export function LimitsSection({ form, set, errors }: FormProps): ReactNode {
  return (
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
  );
}

/** What the agent may do, and whom it asks. */
export function PermissionsSection({ form, set, errors }: FormProps): ReactNode {
  return (
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
  );
}

/** Where it is found again. */
export function FilingSection({ form, set, errors }: FormProps): ReactNode {
  return (
    <Group
      title="Filing and recording"
      summary={
        [form.project, form.labels, form.recording !== "default" && `recording: ${form.recording}`]
          .filter(Boolean)
          .join(" · ") || "the default project"
      }
      open={hasAny(errors, FILING_FIELDS)}
    >
      <div className="pair">
        <Text name="project" label="Project" placeholder="default" {...{ form, set, errors }} />
        <Text
          name="session"
          label="Session"
          placeholder="none"
          hint="Go on in a conversation of earlier executions."
          {...{ form, set, errors }}
        />
      </div>
      <Text name="labels" label="Labels" placeholder="team=web, ticket=142" {...{ form, set, errors }} />
      <div className="field">
        <span className="label">What is recorded of the model calls</span>
        <Segmented
          label="What is recorded of the model calls"
          value={form.recording}
          options={RECORDINGS.map((one) => ({ value: one, label: RECORDING_LABELS[one] }))}
          onChange={(value) => set("recording", value)}
        />
        <p className="hint">With the answers it can be run again without the model; full also shows what differs.</p>
      </div>
    </Group>
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
