import type { ReactNode } from "react";
import { NO_SECRET, type Secret } from "../model/submission";
import { Field } from "../ui/parts";
import { Area, type FormProps, Group, hasAny, Text } from "./fields";

const FIELDS = ["setup", "setupMinutes", "setupCache", "secrets"] as const;
const COLUMNS: readonly { name: keyof Secret; label: string; placeholder: string }[] = [
  { name: "name", label: "Name", placeholder: "TRACKER" },
  { name: "url", label: "Address that it is for", placeholder: "https://api.example.com/" },
  { name: "value", label: "Value", placeholder: "" },
  { name: "header", label: "Header", placeholder: "Authorization" },
  { name: "format", label: "Format", placeholder: "Bearer {}" },
];

/** What happens before the first prompt, and the credentials that the agent may use. */
export function PreparationSection({ form, set, errors }: FormProps): ReactNode {
  return (
    <Group title="Setup and secrets" summary={summaryOf(form)} open={hasAny(errors, FIELDS)}>
      <Area
        name="setup"
        label="Setup script"
        hint="Bash, in the workspace, before the first prompt."
        placeholder="npm ci"
        code
        {...{ form, set, errors }}
      />
      <div className="pair">
        <Text
          name="setupCache"
          label="Keep its result as"
          placeholder="not kept"
          hint="The next execution with this key gets the files without a run."
          {...{ form, set, errors }}
        />
        <Text
          name="setupMinutes"
          label="Time for the setup, in minutes"
          inputMode="decimal"
          placeholder="10"
          {...{ form, set, errors }}
        />
      </div>
      <Secrets {...{ form, set, errors }} />
    </Group>
  );
}

function Secrets({ form, set, errors }: FormProps): ReactNode {
  const change = (at: number, changed: Secret | null): void =>
    set(
      "secrets",
      form.secrets.flatMap((one, index) => (index === at ? (changed ?? []) : one)),
    );
  const error = errors.get("secrets");
  return (
    <fieldset className="group plain secrets">
      <legend>Secrets</legend>
      <p className="hint">The agent can use them at OCF_SECRET_NAME_URL and cannot read them. Values are sealed.</p>
      {form.secrets.map((secret, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a row has no other identity while its name is typed.
        <div className="secret" key={at}>
          {COLUMNS.map(({ name, label, placeholder }) => (
            <Field key={name} label={label}>
              {(ids) => (
                <input
                  {...ids}
                  type={name === "value" ? "password" : "text"}
                  autoComplete="off"
                  spellCheck={false}
                  placeholder={placeholder}
                  aria-invalid={error ? true : undefined}
                  value={secret[name]}
                  onChange={(event) => change(at, { ...secret, [name]: event.target.value })}
                />
              )}
            </Field>
          ))}
          <button
            type="button"
            className="button"
            aria-label={`Remove secret ${secret.name || at + 1}`}
            onClick={() => change(at, null)}
          >
            Remove
          </button>
        </div>
      ))}
      <button type="button" className="button" onClick={() => set("secrets", [...form.secrets, NO_SECRET])}>
        Add a secret
      </button>
      {error && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
    </fieldset>
  );
}

function summaryOf({ setup, secrets }: FormProps["form"]): string {
  const parts = [setup.trim() && "a script", ...secrets.map((one) => one.name)].filter(Boolean);
  return parts.join(" · ") || "none";
}
