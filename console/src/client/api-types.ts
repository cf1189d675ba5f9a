/** Types of the REST API. Generated from schemas/openapi.json by `make generate`. */

/** 202: the command is published. */
export interface Accepted {
  readonly execution_id: string;
  readonly status: State;
}

/** Users who may cause the event on a forge, which is asked for their permission. Bots and own accounts may not. */
export interface Actors {
  readonly permission?: "write" | "triage" | "any";
  /** by default that of workspace, result or poll */
  readonly credential?: string | null;
  readonly users?: readonly string[];
}

/** An answer to the agent's request, or a follow-up prompt. */
export interface Answer {
  readonly answer: string;
}

/** The client that attaches or detaches; the caller's name by default. */
export interface AttachSession {
  readonly client_id?: string | null;
}

/** A file for the model: its content, or a file of the workspace that an earlier execution left. */
export interface Attachment {
  readonly name: string;
  readonly media_type: string;
  readonly data?: string | null;
  readonly execution_id?: string | null;
  readonly path?: string | null;
}

/** One attempt of one worker. `ended` is its terminal state, an `AttemptState`, or one of a later release. */
export interface Attempt {
  readonly number: number;
  readonly worker: string;
  readonly started_at: string;
  readonly ended_at?: string | null;
  readonly ended?: string | null;
}

/** Reason of a cancel, shown in the record. */
export interface CancelTask {
  readonly why?: string | null;
}

/** One changed file of the workspace. */
export interface ChangedFile {
  readonly path: string;
  readonly change: string;
  readonly additions?: number | null;
  readonly deletions?: number | null;
}

/** One dependency of the gateway. */
export interface Check {
  readonly ok: boolean;
  readonly detail?: string;
  readonly ms: number;
}

/** One piece of output. `seq` counts without gaps from 1 per execution, over all attempts. */
export interface Chunk {
  readonly seq: number;
  readonly type: ChunkType;
  readonly data?: string;
  readonly timestamp: string;
  readonly attempt?: number;
  readonly detail?: Readonly<Record<string, unknown>> | null;
}

/** Kind of a chunk. `data` is always readable text; `detail` has the fields named here. - text, reasoning: model output as it arrives; detail: {part_id} - tool_call: detail: ToolCall; tool_result: detail: ToolResult, `data` is the tool's output - stdout, stderr: output of a running shell tool as it arrives, of the task's setup, or of the agent's own process - file_change: detail: FileChange - status: a state or phase in words; detail: StatusDetail - usage: detail: Usage, totals so far - todo: detail: {items: [TodoItem]}, the agent's whole list - permission, question: the agent waits for an answer; detail: PendingRequest - gap: output that could not be stored; detail: {reason, bytes} */
export type ChunkType = "text" | "reasoning" | "tool_call" | "tool_result" | "stdout" | "stderr" | "file_change" | "status" | "usage" | "todo" | "permission" | "question" | "gap";

/** One of the two executions. `missing` names what is no longer stored, or is too large to be compared whole. */
export interface Compared {
  readonly execution_id: string;
  readonly status: State;
  readonly reason?: Reason | null;
  readonly model?: string | null;
  readonly duration_ms?: number | null;
  readonly usage?: Usage;
  /** texts and actions, whatever their chunks */
  readonly steps?: number;
  readonly tool_calls?: number;
  /** SHA-256 of the tools and arguments of all tool calls, without their results */
  readonly calls?: string;
  readonly missing?: readonly string[];
}

/** The difference of two executions. Tokens, cost and time are stated for each and are not part of `same`. */
export interface Comparison {
  readonly same: boolean;
  readonly differs: readonly ("end" | "plan" | "tool_calls" | "output" | "files")[];
  /** equal steps before the first difference */
  readonly common_steps: number;
  readonly a: Compared;
  readonly b: Compared;
  /** from shortly before the first difference; none without one */
  readonly rows: readonly Row[];
  /** steps after the last row */
  readonly steps_left_out?: number;
  readonly files?: readonly FileDifference[];
  readonly files_left_out?: number;
}

/** A token of a forge, or a GitHub App with its installation. A credential of the same name is replaced. */
export interface CreateCredential {
  readonly name: string;
  readonly project_id?: string | null;
  readonly forge: "github" | "gitlab" | "gitea";
  /** of a forge of your own; required for gitea */
  readonly api_url?: string | null;
  readonly token?: string | null;
  readonly app_id?: number | null;
  readonly installation_id?: number | null;
  readonly private_key?: string | null;
}

/** A hook of a project. `source` names one of several Knative sources; for others it is the kind. */
export interface CreateHook {
  readonly kind: "github" | "gitlab" | "gitea" | "generic" | "knative";
  readonly project_id?: string | null;
  readonly source?: string | null;
}

/** A conversation and its workspace, empty or forked from a finished execution. */
export interface CreateSession {
  readonly session_id?: string | null;
  readonly project_id?: string | null;
  readonly from_execution_id?: string | null;
  readonly workspace?: EmptyWorkspace | GitWorkspaceIn | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace;
  readonly ttl_seconds?: number | null;
  readonly labels?: Readonly<Record<string, string>>;
}

/** The credentials of a project. */
export interface CredentialList {
  readonly credentials: readonly CredentialView[];
}

/** A credential without its secret. */
export interface CredentialView {
  readonly name: string;
  readonly project_id: string;
  readonly forge: "github" | "gitlab" | "gitea";
  readonly api_url: string;
  /** `token` or `app` */
  readonly kind: string;
  readonly app_id?: number | null;
  readonly installation_id?: number | null;
  /** id of the encryption key that it is sealed with */
  readonly key_id: string;
  readonly created_at: string;
}

/** An event that could not be handled: the reason, and the event itself. */
export interface DeadLetter {
  readonly seq: number;
  readonly consumer: string;
  readonly subject: string;
  readonly project_id: string | null;
  readonly reason: string;
  readonly status?: number | null;
  readonly deliveries: number;
  readonly failed_at: string;
  readonly type?: string | null;
  readonly event_id?: string | null;
  readonly data?: string | null;
  readonly size?: number | null;
  readonly sha256?: string | null;
}

/** One page, oldest first. `next` is the `after` of the next page. */
export interface DeadLetters {
  readonly items: readonly DeadLetter[];
  readonly next?: number | null;
}

/** An agent, skill or command in Markdown with front matter, or its path in a repository. */
export interface Definition {
  readonly content?: string | null;
  readonly from?: GitDefinitions | null;
}

/** All definitions of a folder in a git repository. */
export interface DefinitionFolder {
  readonly from: GitDefinitions;
}

/** Changes of the workspace since the start of the execution. */
export interface DiffSummary {
  readonly files?: number;
  readonly additions?: number;
  readonly deletions?: number;
  readonly changed?: readonly ChangedFile[];
  readonly truncated?: boolean;
}

/** A copy of a directory that the execution function can read (`WORKSPACE_SOURCES` lists the allowed roots). */
export interface DirectoryWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "directory";
  readonly path: string;
}

/** A part of a request that differs from the recording: `system`, `tools`, `message N`, or `call`. */
export interface Divergence {
  readonly call: number;
  readonly part: string;
  /** where the difference begins, if the recording has the text */
  readonly text?: string | null;
}

/** A new, empty directory (a git repository without commits). */
export interface EmptyWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "empty";
}

/** An event, the time of its handling, and why it was held back. */
export interface EventRef {
  readonly id: string;
  readonly time: string;
  readonly reason?: string;
}

/** Body of `POST /tasks/execute`: task, workspace, model and limits. */
export interface ExecuteTask {
  readonly task_id?: string | null;
  readonly prompt?: string | null;
  readonly code?: string | null;
  readonly context?: string | Readonly<Record<string, unknown>> | null;
  readonly workspace?: EmptyWorkspace | GitWorkspaceIn | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace;
  readonly session_id?: string | null;
  readonly model_config?: ModelConfigIn | null;
  readonly limits?: Limits;
  readonly retry?: Retry;
  readonly mcp?: Readonly<Record<string, LocalMcp | RemoteMcpIn>>;
  readonly permissions?: Readonly<Record<string, "allow" | "deny" | "ask">>;
  readonly network?: Network;
  readonly setup?: Setup | null;
  readonly secrets?: Readonly<Record<string, TaskSecretIn>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly agent?: string | null;
  readonly attachments?: readonly Attachment[];
  readonly output_schema?: Readonly<Record<string, unknown>> | null;
  readonly agents?: Readonly<Record<string, Definition>> | DefinitionFolder;
  readonly skills?: Readonly<Record<string, Definition>> | DefinitionFolder;
  readonly commands?: Readonly<Record<string, Definition>> | DefinitionFolder;
  readonly result?: TaskResult | null;
  /** what is recorded of its model calls; the operator's `RECORDING` unless given */
  readonly recording?: "off" | "answers" | "full" | null;
  readonly rerun?: Rerun | null;
  readonly execution_id?: string | null;
  readonly project_id?: string | null;
}

/** One error of an input: the field, the fault, and the expected value. */
export interface FieldError {
  readonly field: string;
  readonly message: string;
}

/** A file that the two executions changed differently. `lines` is the difference of the two patches of the file. */
export interface FileDifference {
  readonly path: string;
  readonly change: "only_a" | "only_b" | "differs";
  readonly lines: readonly string[];
}

/** Changes of the run in the workspace; `final`: the run has ended. */
export interface Files {
  readonly execution_id: string;
  readonly final: boolean;
  readonly files: readonly ChangedFile[];
  readonly additions: number;
  readonly deletions: number;
  readonly truncated: boolean;
}

/** A path in a public git repository. */
export interface GitDefinitions {
  readonly git: string;
  readonly ref?: string | null;
  readonly path?: string | null;
}

/** A clone. `token` is plain text or sealed. */
export interface GitWorkspaceIn {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "git";
  readonly url: string;
  readonly ref?: string | null;
  readonly depth?: number;
  readonly submodules?: boolean;
  readonly token?: string | Sealed | null;
  /** a forge credential instead of a token */
  readonly credential?: string | null;
}

/** The process answers. */
export interface Health {
  readonly status?: "ok";
  /** no token is required: loopback only */
  readonly open: boolean;
  /** id of this start of `ocf up`; null elsewhere */
  readonly instance: string | null;
}

/** The hooks of a project, without their secrets. */
export interface HookList {
  readonly hooks: readonly HookView[];
}

/** A hook without its secrets, of which the latest is first. */
export interface HookView {
  readonly kind: "github" | "gitlab" | "gitea" | "generic" | "knative";
  readonly source: string;
  readonly project_id: string;
  readonly secrets: readonly SecretTimes[];
}

/** 201: the bundle is an archived execution of the project. `imported_from` is `project/execution` of its origin. */
export interface Imported {
  readonly execution_id: string;
  readonly project_id: string;
  readonly imported_from: string;
}

/** The latest events of a project, newest first, each with every rule's decision by the rules of now. */
export interface LatestEvents {
  readonly events: readonly (Readonly<Record<string, unknown>>)[];
}

/** Limits of one execution. An unset limit has the operator's default. */
export interface Limits {
  readonly timeout_seconds?: number | null;
  readonly silence_seconds?: number | null;
  readonly answer_seconds?: number | null;
  readonly max_total_tokens?: number | null;
  readonly max_cost_usd?: number | null;
  readonly max_memory_bytes?: number | null;
  readonly max_workspace_bytes?: number | null;
  readonly max_output_bytes?: number | null;
  readonly max_processes?: number | null;
}

/** An MCP server that runs beside the agent in its sandbox, over standard input and output. */
export interface LocalMcp {
  readonly type: "local";
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** The model of the task. `api_key` is plain text or sealed; plain text is sealed before use. */
export interface ModelConfigIn {
  readonly provider: string;
  readonly model: string;
  readonly model_version?: string | null;
  readonly api_endpoint?: string | null;
  readonly api_key?: string | Sealed | null;
  readonly temperature?: number | null;
  readonly max_tokens?: number | null;
  readonly enabled_tools?: readonly string[] | null;
  readonly system_prompt?: string | null;
  readonly variant?: string | null;
  readonly facts?: ModelFactsData | null;
}

/** Facts of a model that the catalog (`GET /models`) does not have. */
export interface ModelFactsData {
  /** tokens of input and output together */
  readonly context: number;
  /** tokens of an answer */
  readonly output: number;
  readonly input?: readonly ("text" | "image" | "pdf" | "audio" | "video")[];
  readonly reasoning?: boolean;
  /** reasoning efforts that the endpoint takes */
  readonly variants?: readonly string[];
  readonly temperature?: boolean;
  readonly price?: ModelPrice | null;
  /** API format of `api_endpoint`; the provider's own unless given, else OpenAI's chat completions */
  readonly api_format?: "chat" | "responses" | "messages" | "gemini" | null;
}

/** The models of all providers, or of one. */
export interface ModelList {
  readonly models: readonly ModelView[];
  /** the OpenCode that this release is pinned to */
  readonly agent_version: string;
}

/** Prices in US dollars per million tokens. An unknown cache price is left out. */
export interface ModelPrice {
  readonly input: number;
  readonly output: number;
  readonly cache_read?: number | null;
  readonly cache_write?: number | null;
}

/** A model and its facts; null where they are not known. */
export interface ModelView {
  readonly provider: string;
  readonly model: string;
  readonly name: string;
  /** tokens of input and output together */
  readonly context: number | null;
  /** tokens of an answer */
  readonly output: number | null;
  /** text, image, pdf, audio, video */
  readonly input: readonly string[] | null;
  readonly reasoning: boolean | null;
  /** reasoning efforts that a task may ask for */
  readonly variants: readonly string[] | null;
  /** whether it takes a temperature */
  readonly temperature: boolean | null;
  readonly price: Price | null;
}

/** Hosts that the agent's tools may reach, within the operator's `NETWORK_ALLOW`. */
export interface Network {
  readonly allow?: readonly string[];
}

/** A hook with its secret, which is not shown again. A Knative hook has it in the URL. */
export interface NewHook {
  readonly kind: string;
  readonly project_id: string;
  readonly url: string;
  readonly secret: string | null;
}

/** The events of a rule. Every given field must match. */
export interface On {
  readonly type?: string | null;
  readonly source?: string | null;
  readonly subject?: string | null;
  /** CEL */
  readonly where?: string | null;
  readonly actors?: Actors;
}

/** A permission request or question of the agent; the reply names `request_id`. */
export interface PendingRequest {
  readonly request_id: string;
  readonly kind: "permission" | "question";
  readonly title: string;
  readonly options?: readonly string[];
  readonly deadline?: string | null;
}

/** The questions to a forge that cannot send webhooks here, and their interval. */
export interface Poll {
  readonly forge: "github" | "gitlab" | "gitea";
  readonly api_url?: string | null;
  readonly repository: string;
  readonly what: "issues" | "comments" | "pull_requests";
  /** 10s at least */
  readonly every?: string;
  readonly credential: string;
}

/** Prices of a call. */
export interface Price {
  readonly input: number;
  readonly output: number;
  readonly cache_read: number | null;
  readonly cache_write: number | null;
  readonly tiers: readonly Tier[];
  readonly unit: string;
}

/** RFC 9457. `errors` names each wrong field and the correct form. */
export interface ProblemDocument {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  readonly errors?: readonly FieldError[];
}

/** 202: the events are stored, each with the executions that its rules start unless a guard holds it back. */
export interface Published {
  readonly events: readonly (Readonly<Record<string, unknown>>)[];
}

/** Texts of the pull request. The title is the task's first line unless given, the body the agent's last message. */
export interface PullRequestFields {
  readonly title?: string | null;
  readonly body?: string | null;
  readonly draft?: boolean;
  readonly labels?: readonly string[];
  readonly reviewers?: readonly string[];
}

/** A pull or merge request. */
export interface PullRequestRef {
  readonly number: number;
  readonly url: string;
}

/** Readiness to serve calls, with each check by name. */
export interface Readiness {
  readonly ready: boolean;
  /** without `model_config` a script answers, not a language model */
  readonly offline_model: boolean;
  readonly checks: Readonly<Record<string, Check>>;
}

/** Machine-readable cause of a failed execution (`failed.reason`). */
export type Reason = "agent_error" | "model_error" | "model_auth" | "invalid_workspace" | "permission_denied" | "out_of_memory" | "stalled" | "worker_lost" | "budget_exceeded" | "output_limit" | "output_invalid" | "setup_failed" | "result_rejected" | "diverged";

/** An MCP server at a URL. Plain header values are sealed before use. */
export interface RemoteMcpIn {
  readonly type: "remote";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string | Sealed>>;
}

/** 202: the answer is published for the worker. */
export interface ReplyAccepted {
  readonly execution_id: string;
  readonly request_id: string;
}

/** Run an ended execution again: the model's answers come from its recording, its other fields from its task. */
export interface Rerun {
  /** lower-case UUID */
  readonly of: string;
  readonly until?: number | null;
  /** go on with the model after the last call; otherwise the execution ends there */
  readonly then?: "live" | null;
  /** a request differs: report it and go on, fail, or go on with the model */
  readonly on_divergence?: "nearest" | "fail" | "live";
}

/** The model calls of a rerun: how many the recording answered, and which requests differed. */
export interface RerunResult {
  /** lower-case UUID */
  readonly of: string;
  readonly calls?: number;
  readonly live_calls?: number;
  readonly divergences?: readonly Divergence[];
  /** further divergences, which are not listed */
  readonly more?: number;
}

/** 202: published; `rerun_of` is the execution that runs again. */
export interface RerunSubmitted {
  readonly execution_id: string;
  readonly status: State;
  readonly rerun_of: string;
}

/** Retry policy after the loss of a worker. Failures of the agent are never retried. */
export interface Retry {
  readonly max_attempts?: number;
}

/** Steps of both executions that stand at the same place; a side without one is null. */
export interface Row {
  readonly same: boolean;
  readonly a?: Step | null;
  readonly b?: Step | null;
}

/** One rule of a project. Texts of `task` are templates over `event`. */
export interface Rule {
  readonly name: string;
  readonly project_id?: string | null;
  readonly on: On;
  /** a body of POST /tasks/execute, without ids */
  readonly task: Readonly<Record<string, unknown>>;
  /** ask the forge instead of waiting for its webhook */
  readonly poll?: Poll | null;
  readonly reply?: "comment" | null;
  readonly follow_up?: boolean;
  readonly max_concurrent?: number | null;
  readonly cooldown_seconds?: number | null;
  readonly daily_budget_usd?: number | null;
  /** also events that executions of this system caused */
  readonly own_events?: boolean;
}

/** The rules of a project, each with its matches. */
export interface RuleList {
  readonly triggers: readonly (Readonly<Record<string, unknown>>)[];
}

/** Changes of a rerun: how far the recording answers, and the prompt and model of what follows. */
export interface RunAgain {
  readonly until?: number | null;
  /** go on with the model after that call */
  readonly then?: "live" | null;
  readonly on_divergence?: "nearest" | "fail" | "live";
  readonly prompt?: string | null;
  readonly model_config?: ModelConfigIn | null;
  readonly labels?: Readonly<Record<string, string>>;
  readonly recording?: "off" | "answers" | "full" | null;
}

/** A schedule. `overlap` says what a tick does while the execution of an earlier one runs. */
export interface Schedule {
  readonly name: string;
  readonly project_id?: string | null;
  readonly cron: string;
  readonly timezone?: string;
  readonly overlap?: "skip" | "queue" | "cancel";
  /** a body of POST /tasks/execute, without ids */
  readonly task: Readonly<Record<string, unknown>>;
}

/** The schedules of a project, each with its next and last ticks. */
export interface ScheduleList {
  readonly schedules: readonly ScheduleView[];
}

/** A schedule with its next ticks, its last one, and the latest that were skipped or missed. */
export interface ScheduleView {
  readonly name: string;
  readonly project_id: string | null;
  readonly cron: string;
  readonly timezone: string;
  readonly overlap: "skip" | "queue" | "cancel";
  readonly task: Readonly<Record<string, unknown>>;
  readonly next: string | null;
  readonly upcoming: readonly string[];
  readonly last: EventRef | null;
  readonly paused: boolean;
  readonly refused: readonly EventRef[];
}

/** A secret encrypted with AES-256-GCM (NIST SP 800-38D); the project id is its associated data. */
export interface Sealed {
  readonly alg?: "A256GCM";
  /** id of the key it was sealed with */
  readonly kid: string;
  /** 12 bytes, base64 */
  readonly nonce: string;
  /** ciphertext and 16-byte tag, base64 */
  readonly ciphertext: string;
}

/** The header that carries the secret; `{}` in `format` is its value. A format that begins with `Basic ` is `Basic USER:{}`; what follows `Basic ` is base64-encoded (RFC 7617). */
export interface SecretInjection {
  readonly header: string;
  readonly format?: string;
}

/** When a secret of a hook was made, and when it expires: one that was rotated does. */
export interface SecretTimes {
  readonly created_at: string;
  readonly expires_at: string | null;
}

/** 202: the session command is published; `open`: the session exists. */
export interface SessionAccepted {
  readonly session_id: string;
  readonly status: "open" | "creating" | "attaching" | "detaching" | "destroying";
}

/** One page of the sessions, newest first. `next` is the `cursor` of the next page. */
export interface SessionList {
  readonly items: readonly (Readonly<Record<string, unknown>>)[];
  readonly next?: string | null;
}

/** A Bash script that prepares the workspace before the first prompt, inside the sandbox. With `cache_key` the files that it made are kept for the project, and used instead of the next run with the same key, script and workspace source. */
export interface Setup {
  readonly run: string;
  readonly timeout_seconds?: number;
  readonly cache_key?: string | null;
}

/** A path below `WORKSPACE_DIR`, used in place: other users of the volume see every change at once. */
export interface SharedWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "shared";
  readonly path: string;
}

/** The stored workspace of an earlier execution of the same project. */
export interface SnapshotWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "snapshot";
  /** lower-case UUID */
  readonly execution_id: string;
}

/** State of an execution. */
export type State = "pending" | "running" | "completed" | "failed" | "cancelled" | "timed_out" | "rejected";

/** One action or text of an execution. `text` is shortened; `seq` is the sequence of its first chunk. */
export interface Step {
  readonly seq: number;
  readonly type: string;
  readonly text: string;
}

/** The submits that a rule would publish for an event; empty with the reason when it does not match. */
export interface Submits {
  readonly submits: readonly (Readonly<Record<string, unknown>>)[];
  readonly mismatch?: string | null;
}

/** 202: published. `status` is `pending`, or the state of the execution that an earlier identical call made. */
export interface Submitted {
  readonly execution_id: string;
  readonly status: State;
}

/** One page of the history, newest first. `next` is the `cursor` of the next page. */
export interface TaskPage {
  readonly items: readonly TaskSummary[];
  readonly next?: string | null;
  /** facts that are not in the history yet; null: unknown */
  readonly behind?: number | null;
}

/** A branch with the changes of a completed execution, and a pull request from it to `base`. */
export interface TaskResult {
  readonly branch: string;
  readonly base?: string | null;
  readonly commit_message?: string | null;
  readonly author?: string | null;
  readonly pull_request?: PullRequestFields;
  readonly forge?: "github" | "gitlab" | "gitea" | null;
  readonly api_url?: string | null;
  readonly credential?: string | null;
  /** within the operator's ALLOW_CI_CHANGES */
  readonly allow_ci_changes?: boolean;
}

/** A secret of the task. `value` is plain text or sealed. */
export interface TaskSecretIn {
  readonly value: string | Sealed;
  readonly url: string;
  readonly inject: SecretInjection;
  readonly methods?: readonly ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS")[] | null;
  readonly paths?: readonly string[] | null;
}

/** The state of an execution, without its output. */
export interface TaskStatus {
  readonly execution_id: string;
  readonly project_id: string;
  readonly task_id: string | null;
  readonly session_id: string | null;
  readonly status: State;
  readonly reason: Reason | null;
  readonly message: string | null;
  readonly progress: number;
  readonly title: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly model: string | null;
  readonly submitted_at: string;
  readonly updated_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly duration_ms: number | null;
  readonly attempt: number;
  readonly waiting: boolean;
  readonly cancel_requested: boolean;
  readonly usage: Usage;
  readonly files_changed: number;
  readonly archived: boolean;
  /** the execution that this one runs again */
  readonly rerun_of: string | null;
  /** 1 is next; only while pending */
  readonly queue_position: number | null;
  readonly timeout_seconds: number | null;
  readonly max_attempts: number;
  readonly attempts: readonly Attempt[];
  /** answer it with POST /tasks/{id}/replies/{request_id} */
  readonly waiting_for: PendingRequest | null;
  readonly todo: readonly TodoItem[];
  readonly errors: readonly FieldError[];
  readonly diff: DiffSummary;
  /** the agent's last message; shortened when `result_bytes` is set */
  readonly result: string;
  /** bytes of the whole result, in `result.txt` of the archive */
  readonly result_bytes: number | null;
  /** the JSON value that fits `output_schema`, once completed */
  readonly output: unknown;
  /** whether the run's results are in S3; once it has ended */
  readonly artifacts: "stored" | "pending" | "lost" | null;
  /** why they are not */
  readonly artifacts_message: string | null;
  readonly last_sequence: number;
  /** the pushed commit of the task's `result` */
  readonly commit: string | null;
  readonly branch: string | null;
  readonly pull_request: PullRequestRef | null;
  /** why nothing was pushed, or what the forge refused besides */
  readonly result_message: string | null;
  /** the comment on the issue or pull request that began it */
  readonly comment_url: string | null;
  /** its output has expired from the stream; the archive may have it */
  readonly output_expired: boolean;
  /** its archive has expired */
  readonly archive_expired: boolean;
  readonly cancel_why: string | null;
  /** outcome of a rerun; once it has ended */
  readonly rerun: RerunResult | null;
  /** `project/execution` of the bundle that it came in */
  readonly imported_from: string | null;
}

/** An execution in lists. Times in UTC, durations in milliseconds. */
export interface TaskSummary {
  readonly execution_id: string;
  readonly project_id: string;
  readonly task_id: string | null;
  readonly session_id: string | null;
  readonly status: State;
  readonly reason: Reason | null;
  readonly message: string | null;
  readonly progress: number;
  readonly title: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly model: string | null;
  readonly submitted_at: string;
  readonly updated_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly duration_ms: number | null;
  readonly attempt: number;
  readonly waiting: boolean;
  readonly cancel_requested: boolean;
  readonly usage: Usage;
  readonly files_changed: number;
  readonly archived: boolean;
  /** the execution that this one runs again */
  readonly rerun_of: string | null;
}

/** Prices of a call whose input is longer. */
export interface Tier {
  readonly input: number;
  readonly output: number;
  readonly cache_read: number | null;
  readonly cache_write: number | null;
  /** tokens of input */
  readonly above: number;
}

/** One line of the agent's todo list. */
export interface TodoItem {
  readonly content: string;
  readonly status: "pending" | "in_progress" | "completed" | "cancelled";
}

/** Totals of an execution so far: tokens as counted by the model's provider, cost in US dollars. */
export interface Usage {
  readonly requests?: number;
  readonly input_tokens?: number;
  readonly output_tokens?: number;
  readonly reasoning_tokens?: number;
  readonly cache_read_tokens?: number;
  readonly cache_write_tokens?: number;
  readonly cost_usd?: number;
}

/** Usage by group, and the failures by reason. */
export interface UsageReport {
  readonly usage: readonly UsageRow[];
  readonly reasons: Readonly<Record<string, number>>;
}

/** Sums of one group; of the fields `project`, `model`, `day` and `label` only those of `group_by` are set. */
export interface UsageRow {
  readonly project?: string | null;
  readonly model?: string | null;
  readonly day?: string | null;
  readonly label?: string | null;
  readonly runs: number;
  readonly completed: number;
  readonly failed: number;
  readonly cancelled: number;
  readonly timed_out: number;
  readonly rejected: number;
  /** mean time from submit to the first text of the agent */
  readonly first_output_ms?: number | null;
  /** runs with a text of the agent */
  readonly first_outputs?: number;
  readonly requests: number;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly reasoning_tokens: number;
  readonly cache_read_tokens: number;
  readonly cache_write_tokens: number;
  readonly cost_usd: number;
}

/** Credentials for one execution's live subject over the NATS WebSocket, and the URL of its history. */
export interface ViewerToken {
  /** null when this gateway offers no NATS: use the WebSocket stream */
  readonly nats_ws: string | null;
  readonly jwt: string;
  readonly seed: string;
  readonly subject: string;
  readonly history_url: string;
  readonly expires_at: string;
}
