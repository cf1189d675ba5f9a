import { type ReactNode, useEffect, useRef } from "react";
import { type Form, PERMISSIONS, type Permission } from "../model/submission";
import { Field, Segmented } from "../ui/parts";

/** Sets a field; what takes time says with a function what becomes of the value that is there by then. */
export type Setter = <K extends keyof Form>(name: K, value: Form[K] | ((before: Form[K]) => Form[K])) => void;
export type Errors = ReadonlyMap<keyof Form, string>;
type TextName = { [K in keyof Form]: string extends Form[K] ? K : never }[keyof Form];

/** What every part of the form gets. */
export interface FormProps {
  readonly form: Form;
  readonly set: Setter;
  readonly errors: Errors;
}

export function hasAny(errors: Errors, names: readonly (keyof Form)[]): boolean {
  return names.some((name) => errors.has(name));
}

/** One line of text of the form. */
export function Text(
  props: FormProps & {
    name: TextName;
    label: string;
    hint?: string;
    placeholder?: string;
    type?: string;
    inputMode?: "decimal" | "numeric";
    options?: readonly string[];
  },
): ReactNode {
  const { name, form, set, errors, label, hint, type = "text", options = [], ...rest } = props;
  return (
    <Field label={label} error={errors.get(name)} hint={hint}>
      {(ids) => (
        <>
          <input
            {...ids}
            {...rest}
            type={type}
            autoComplete="off"
            spellCheck={false}
            value={form[name]}
            list={options.length ? `${ids.id}-options` : undefined}
            onChange={(event) => set(name, event.target.value)}
          />
          {options.length > 0 && (
            <datalist id={`${ids.id}-options`}>
              {options.map((option) => (
                <option key={option} value={option} />
              ))}
            </datalist>
          )}
        </>
      )}
    </Field>
  );
}

/** Three lines of text of the form; `code` is not prose. */
export function Area(
  props: FormProps & { name: TextName; label: string; hint?: string; placeholder?: string; code?: boolean },
): ReactNode {
  const { name, form, set, errors, label, hint, placeholder, code = false } = props;
  return (
    <Field label={label} error={errors.get(name)} hint={hint}>
      {(ids) => (
        <textarea
          {...ids}
          {...(code ? { className: "code", spellCheck: false } : {})}
          rows={3}
          placeholder={placeholder}
          value={form[name]}
          onChange={(event) => set(name, event.target.value)}
        />
      )}
    </Field>
  );
}

export function PermissionField({
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
export function Group(props: { title: string; summary: string; open: boolean; children: ReactNode }): ReactNode {
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
