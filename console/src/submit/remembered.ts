import { BLANK, type Form } from "../model/submission";

/** What was submitted, by execution, for "Run again": in this tab only, and never the keys or the files. */
const SUBMITTED = "ocf.submitted.";
const LAST = "ocf.last";

/** Whether this tab knows what was submitted for that execution. */
export function isRemembered(execution: string): boolean {
  return sessionStorage.getItem(SUBMITTED + execution) !== null;
}

/** Keeps what was submitted: all but keys, secrets' values and files for this tab, project and model for the next time. */
export function remember(execution: string, form: Form): void {
  const secrets = form.secrets.map((one) => ({ ...one, value: "" }));
  keep(sessionStorage, SUBMITTED + execution, { ...form, key: "", attachments: [], secrets });
  const { project, provider, model, endpoint } = form;
  keep(localStorage, LAST, { project, provider, model, endpoint });
}

function keep(storage: Storage, name: string, value: object): void {
  try {
    storage.setItem(name, JSON.stringify(value));
  } catch {
    // Full. The execution was accepted: an error here would look like a failed submit and make the user pay twice.
    // Without it "Run again" starts from what the gateway knows.
  }
}

/** The form as the address asks for it: like an execution, from its workspace, or in a session. */
export function remembered(query: URLSearchParams): Form {
  const last = parse(localStorage.getItem(LAST));
  const earlier = parse(sessionStorage.getItem(SUBMITTED + (query.get("from") ?? "")));
  const snapshot = query.get("snapshot");
  return {
    ...BLANK,
    ...last,
    ...earlier,
    ...(snapshot ? { source: "snapshot" as const, snapshot } : {}),
    ...(query.get("session") ? { session: query.get("session") ?? "" } : {}),
    // A session is its project's: the one of the last form need not be that.
    ...(query.get("project") ? { project: query.get("project") ?? "" } : {}),
  };
}

function parse(text: string | null): Partial<Form> {
  try {
    return text ? (JSON.parse(text) as Partial<Form>) : {};
  } catch {
    return {}; // written by another version
  }
}
