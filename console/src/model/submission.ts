/** The submit form's fields and the request they make. All text, as typed. */
import type { Attached } from "./attachments";

export const SOURCES = ["empty", "git", "directory", "snapshot", "shared"] as const;
export type Source = (typeof SOURCES)[number];
export const PERMISSIONS = ["allow", "ask", "deny"] as const;
export type Permission = (typeof PERMISSIONS)[number];
/** What is recorded of the model calls; `default` is the operator's. */
export const RECORDINGS = ["default", "off", "answers", "full"] as const;
export type RecordingChoice = (typeof RECORDINGS)[number];

/** A secret of the form; a blank `header` and `format` are a bearer token. */
export interface Secret {
  readonly name: string;
  readonly url: string;
  readonly value: string;
  readonly header: string;
  readonly format: string;
}
export const NO_SECRET: Secret = { name: "", url: "", value: "", header: "", format: "" };

export interface Form {
  prompt: string;
  project: string;
  labels: string;
  session: string;
  source: Source;
  url: string;
  ref: string;
  credential: string;
  branch: string;
  base: string;
  pullTitle: string;
  path: string;
  snapshot: string;
  provider: string;
  model: string;
  endpoint: string;
  key: string;
  temperature: string;
  maxTokens: string;
  systemPrompt: string;
  timeoutMinutes: string;
  maxTotalTokens: string;
  maxCost: string;
  attempts: string;
  network: string;
  bash: Permission;
  edit: Permission;
  answerMinutes: string;
  agent: string;
  variant: string;
  outputSchema: string;
  attachments: readonly Attached[];
  setup: string;
  setupMinutes: string;
  setupCache: string;
  secrets: readonly Secret[];
  recording: RecordingChoice;
}

export const BLANK: Form = {
  prompt: "",
  project: "",
  labels: "",
  session: "",
  source: "empty",
  url: "",
  ref: "",
  credential: "",
  branch: "",
  base: "",
  pullTitle: "",
  path: "",
  snapshot: "",
  provider: "",
  model: "",
  endpoint: "",
  key: "",
  temperature: "",
  maxTokens: "",
  systemPrompt: "",
  timeoutMinutes: "",
  maxTotalTokens: "",
  maxCost: "",
  attempts: "",
  network: "",
  bash: "allow",
  edit: "allow",
  answerMinutes: "10",
  agent: "",
  variant: "",
  outputSchema: "",
  attachments: [],
  setup: "",
  setupMinutes: "",
  setupCache: "",
  secrets: [],
  recording: "default",
};

/** Which field of the form a field of the request is, so that an error stands where it can be mended. */
const FIELDS: Readonly<Record<string, keyof Form>> = {
  prompt: "prompt",
  project_id: "project",
  labels: "labels",
  session_id: "session",
  "workspace.url": "url",
  "workspace.ref": "ref",
  "workspace.path": "path",
  "workspace.credential": "credential",
  result: "branch",
  "result.base": "base",
  "result.credential": "credential",
  "result.pull_request.title": "pullTitle",
  "workspace.execution_id": "snapshot",
  "model_config.provider": "provider",
  "model_config.model": "model",
  "model_config.api_endpoint": "endpoint",
  "model_config.api_key": "key",
  "model_config.temperature": "temperature",
  "model_config.max_tokens": "maxTokens",
  "model_config.system_prompt": "systemPrompt",
  "model_config.variant": "variant",
  agent: "agent",
  attachments: "attachments",
  output_schema: "outputSchema",
  setup: "setup",
  "setup.timeout_seconds": "setupMinutes",
  "setup.cache_key": "setupCache",
  secrets: "secrets",
  recording: "recording",
  "limits.timeout_seconds": "timeoutMinutes",
  "limits.answer_seconds": "answerMinutes",
  "limits.max_total_tokens": "maxTotalTokens",
  "limits.max_cost_usd": "maxCost",
  "retry.max_attempts": "attempts",
  "network.allow": "network",
};

/** The form's field that `field` of a problem document is about; null where none is. */
export function fieldOf(field: string): keyof Form | null {
  const names = field.replace(/^body\./, "").split(".");
  for (let length = names.length; length > 0; length -= 1) {
    const found = FIELDS[names.slice(0, length).join(".")];
    if (found) return found;
  }
  // `workspace.git.url`: the gateway may name the kind of source in between.
  if (names.length > 2) return fieldOf([names[0], ...names.slice(2)].join("."));
  return null;
}

/** Body of `POST /tasks/execute`: what was left blank is left out, so that the operator's defaults hold. */
export function bodyOf(form: Form): Record<string, unknown> {
  // Without a time to wait, an execution that asks fails at once: nobody is known to be there.
  const asks = form.bash === "ask" || form.edit === "ask";
  return blankless({
    prompt: form.prompt,
    project_id: form.project.trim(),
    session_id: form.session.trim(),
    labels: labelsOf(form.labels),
    workspace: workspaceOf(form),
    result: resultOf(form),
    model_config: blankless({
      provider: form.provider.trim(),
      model: form.model.trim(),
      api_endpoint: form.endpoint.trim(),
      api_key: form.key,
      temperature: number(form.temperature),
      max_tokens: number(form.maxTokens),
      system_prompt: form.systemPrompt,
      variant: form.variant.trim(),
    }),
    agent: form.agent.trim(),
    attachments: form.attachments.map((one) => ({ name: one.name, media_type: one.mediaType, data: one.data })),
    output_schema: schemaOf(form.outputSchema),
    setup: blankless({
      run: form.setup,
      timeout_seconds: seconds(form.setupMinutes),
      cache_key: form.setupCache.trim(),
    }),
    secrets: Object.fromEntries(form.secrets.map((one) => [one.name.trim(), secretOf(one)])),
    limits: blankless({
      timeout_seconds: seconds(form.timeoutMinutes),
      answer_seconds: asks ? seconds(form.answerMinutes) : undefined,
      max_total_tokens: number(form.maxTotalTokens),
      max_cost_usd: number(form.maxCost),
    }),
    retry: blankless({ max_attempts: number(form.attempts) }),
    network: blankless({ allow: form.network.split(/[\s,]+/).filter(Boolean) }),
    recording: form.recording === "default" ? undefined : form.recording,
    permissions: blankless({
      bash: form.bash === "allow" ? undefined : form.bash,
      edit: form.edit === "allow" ? undefined : form.edit,
    }),
  });
}

/** The schema as typed; what is no JSON goes as text, and the gateway's answer stands at the field. */
function schemaOf(text: string): unknown {
  try {
    return text.trim() === "" ? undefined : JSON.parse(text);
  } catch {
    return text;
  }
}

function secretOf(secret: Secret): Record<string, unknown> {
  const header = secret.header.trim() || "Authorization";
  const format = secret.format.trim() || (secret.header.trim() ? "{}" : "Bearer {}");
  return { value: secret.value.trim(), url: secret.url.trim(), inject: { header, format } };
}

function workspaceOf(form: Form): Record<string, unknown> | undefined {
  switch (form.source) {
    case "empty":
      return undefined;
    case "git":
      return blankless({
        source: "git",
        url: form.url.trim(),
        ref: form.ref.trim(),
        credential: form.credential.trim(),
      });
    case "snapshot":
      return { source: "snapshot", execution_id: form.snapshot.trim() };
    default:
      return { source: form.source, path: form.path.trim() };
  }
}

function resultOf(form: Form): Record<string, unknown> | undefined {
  if (form.source !== "git" || form.branch.trim() === "") return undefined;
  const pull = blankless({ title: form.pullTitle.trim() });
  return blankless({ branch: form.branch.trim(), base: form.base.trim(), pull_request: pull });
}

/** `team=web, urgent` -> `{team: "web", urgent: ""}` */
function labelsOf(text: string): Record<string, string> {
  const pairs = text
    .split(/[,\n]/)
    .map((part) => part.trim())
    .filter(Boolean)
    .map((part): [string, string] => {
      const at = part.indexOf("=");
      return at < 0 ? [part, ""] : [part.slice(0, at).trim(), part.slice(at + 1).trim()];
    });
  return Object.fromEntries(pairs);
}

function number(text: string): number | undefined {
  return text.trim() === "" ? undefined : Number(text);
}

/** Minutes as typed, in whole seconds. */
function seconds(minutes: string): number | undefined {
  const value = number(minutes);
  return value === undefined ? undefined : Math.round(value * 60);
}

function blankless(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(values).filter(([, value]) => {
      if (value === undefined || value === "") return false;
      if (Array.isArray(value)) return value.length > 0;
      return typeof value !== "object" || value === null || Object.keys(value).length > 0;
    }),
  );
}
