/** Types of the events' data. Generated from schemas/*.json by `make generate`. */

/** A file for the model: its content, or a file of the workspace that an earlier execution left. */
export interface Attachment {
  readonly name: string;
  readonly media_type: string;
  readonly data?: string | null;
  readonly execution_id?: string | null;
  readonly path?: string | null;
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

/** A copy of a directory that the execution function can read (`WORKSPACE_SOURCES` lists the allowed roots). */
export interface DirectoryWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "directory";
  readonly path: string;
}

/** A new, empty directory (a git repository without commits). */
export interface EmptyWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "empty";
}

/** A path in a public git repository. */
export interface GitDefinitions {
  readonly git: string;
  readonly ref?: string | null;
  readonly path?: string | null;
}

/** A shallow clone at `ref`, without submodules unless `submodules` is set. */
export interface GitWorkspace {
  /** keep what .gitignore excludes in the archive too */
  readonly keep_ignored?: boolean;
  readonly source: "git";
  readonly url: string;
  readonly ref?: string | null;
  readonly depth?: number;
  readonly submodules?: boolean;
  readonly token?: Sealed | null;
  /** a forge credential instead of a token */
  readonly credential?: string | null;
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

/** The model that runs the task, and its parameters. On the bus `api_key` is always sealed. */
export interface ModelConfigData {
  readonly provider: string;
  readonly model: string;
  readonly model_version?: string | null;
  readonly api_endpoint?: string | null;
  readonly api_key?: Sealed | null;
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

/** Prices in US dollars per million tokens. An unknown cache price is left out. */
export interface ModelPrice {
  readonly input: number;
  readonly output: number;
  readonly cache_read?: number | null;
  readonly cache_write?: number | null;
}

/** Hosts that the agent's tools may reach, within the operator's `NETWORK_ALLOW`. */
export interface Network {
  readonly allow?: readonly string[];
}

/** Texts of the pull request. The title is the task's first line unless given, the body the agent's last message. */
export interface PullRequestFields {
  readonly title?: string | null;
  readonly body?: string | null;
  readonly draft?: boolean;
  readonly labels?: readonly string[];
  readonly reviewers?: readonly string[];
}

/** An MCP server at a URL (Streamable HTTP). `headers` are added outside the agent's reach. */
export interface RemoteMcp {
  readonly type: "remote";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string | Sealed>>;
}

/** The issue or pull request on which the end of the execution becomes a comment. */
export interface ReplyTo {
  readonly credential: string;
  readonly repository: string;
  readonly kind?: "issue" | "pull_request";
  readonly number: number;
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

/** Retry policy after the loss of a worker. Failures of the agent are never retried. */
export interface Retry {
  readonly max_attempts?: number;
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

/** A secret that the agent can use and not read: a loopback URL adds it to requests to `url`. */
export interface TaskSecret {
  readonly value: Sealed;
  readonly url: string;
  readonly inject: SecretInjection;
  readonly methods?: readonly ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS")[] | null;
  readonly paths?: readonly string[] | null;
}

/** `dev.ocf.task.submit.v1`: run a task. */
export interface TaskSubmitData {
  readonly task_id?: string | null;
  readonly prompt?: string | null;
  readonly code?: string | null;
  readonly context?: string | Readonly<Record<string, unknown>> | null;
  readonly workspace?: EmptyWorkspace | GitWorkspace | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace;
  readonly session_id?: string | null;
  readonly model_config?: ModelConfigData | null;
  readonly limits?: Limits;
  readonly retry?: Retry;
  readonly mcp?: Readonly<Record<string, LocalMcp | RemoteMcp>>;
  readonly permissions?: Readonly<Record<string, "allow" | "deny" | "ask">>;
  readonly network?: Network;
  readonly setup?: Setup | null;
  readonly secrets?: Readonly<Record<string, TaskSecret>>;
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
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  /** where the end becomes a comment; rules set it */
  readonly reply_to?: ReplyTo | null;
}

/** A rerun as `submit` hands it on: `left_out` names what of the task a rerun does not get. */
export interface ResolvedRerun {
  /** lower-case UUID */
  readonly of: string;
  readonly until?: number | null;
  /** go on with the model after the last call; otherwise the execution ends there */
  readonly then?: "live" | null;
  /** a request differs: report it and go on, fail, or go on with the model */
  readonly on_divergence?: "nearest" | "fail" | "live";
  readonly left_out?: readonly string[];
}

/** `dev.ocf.task.execute.v1`: a validated submit, for the execute function. A newer release may add fields. */
export interface TaskExecuteData {
  readonly task_id?: string | null;
  readonly prompt?: string | null;
  readonly code?: string | null;
  readonly context?: string | Readonly<Record<string, unknown>> | null;
  readonly workspace?: EmptyWorkspace | GitWorkspace | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace;
  readonly session_id?: string | null;
  readonly model_config?: ModelConfigData | null;
  readonly limits?: Limits;
  readonly retry?: Retry;
  readonly mcp?: Readonly<Record<string, LocalMcp | RemoteMcp>>;
  readonly permissions?: Readonly<Record<string, "allow" | "deny" | "ask">>;
  readonly network?: Network;
  readonly setup?: Setup | null;
  readonly secrets?: Readonly<Record<string, TaskSecret>>;
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
  readonly rerun?: ResolvedRerun | null;
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  /** where the end becomes a comment; rules set it */
  readonly reply_to?: ReplyTo | null;
  readonly submitted_at: string;
}

/** `dev.ocf.task.cancel.v1`: stop an execution in any state. */
export interface TaskCancelData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly why?: string | null;
  readonly requested_by?: string | null;
}

/** `dev.ocf.task.cleanup.v1`: remove the data of one execution, or run a periodic job. For one execution, `scope` is `everything` (stream, state, S3, workspace) or `workspace` (only the pod's files). Schedules send `sweep` (end executions without a worker), `eviction` (remove ended executions from NATS) and `retention` (remove expired data). */
export interface TaskCleanupData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly execution_id: string;
  readonly scope?: "everything" | "workspace" | "sweep" | "eviction" | "retention";
  readonly requested_by?: string | null;
}

/** `dev.ocf.task.reply.v1`: an answer to a permission request or a question, or a follow-up prompt. */
export interface TaskReplyData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly execution_id: string;
  readonly request_id: string;
  readonly answer: string;
  readonly answered_by?: string | null;
}

/** `dev.ocf.task.result.v1`: push the result of an ended execution again. */
export interface TaskResultData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly execution_id: string;
  readonly requested_by?: string | null;
}

/** `dev.ocf.task.comment.v1`: say the end of an execution on its forge: a comment, the end of its commit status. */
export interface TaskCommentData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly execution_id: string;
}

/** `dev.ocf.task.accepted.v1`: the execution is recorded and queued for a worker. */
export interface TaskAcceptedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** One error of an input: the field, the fault, and the expected value. */
export interface FieldError {
  readonly field: string;
  readonly message: string;
}

/** `dev.ocf.task.rejected.v1`: the execution never starts; `errors` names every field, `reason` is machine-readable. The ids come from the subject of the command, and may themselves be invalid. */
export interface TaskRejectedData {
  readonly execution_id: string;
  readonly project_id: string;
  readonly reason?: "invalid" | "not_allowed" | "budget_exceeded";
  readonly errors: readonly FieldError[];
}

/** `dev.ocf.task.started.v1`: a worker has started the execution. */
export interface TaskStartedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly attempt: number;
  readonly worker: string;
  readonly model?: string | null;
  readonly queued_ms: number;
}

/** One stored object: name below the execution's prefix, size in bytes, SHA-256 in hex. */
export interface Artifact {
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
}

/** One changed file of the workspace. */
export interface ChangedFile {
  readonly path: string;
  readonly change: string;
  readonly additions?: number | null;
  readonly deletions?: number | null;
}

/** Changes of the workspace since the start of the execution. */
export interface DiffSummary {
  readonly files?: number;
  readonly additions?: number;
  readonly deletions?: number;
  readonly changed?: readonly ChangedFile[];
  readonly truncated?: boolean;
}

/** A part of a request that differs from the recording: `system`, `tools`, `message N`, or `call`. */
export interface Divergence {
  readonly call: number;
  readonly part: string;
  /** where the difference begins, if the recording has the text */
  readonly text?: string | null;
}

/** A pull or merge request. */
export interface PullRequestRef {
  readonly number: number;
  readonly url: string;
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

/** `dev.ocf.task.completed.v1`: the agent finished the task. */
export interface TaskCompletedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly attempt: number;
  readonly duration_ms: number;
  readonly queued_ms?: number;
  readonly waited_ms?: number;
  /** from submit to the first text of the agent */
  readonly first_output_ms?: number | null;
  readonly result?: string;
  /** bytes of the whole result, when `result` is shortened */
  readonly result_bytes?: number | null;
  /** the JSON value that fits `output_schema` */
  readonly output?: unknown;
  readonly usage?: Usage;
  readonly diff?: DiffSummary;
  readonly last_sequence?: number;
  readonly artifacts?: "stored" | "pending" | "lost";
  /** the reason if they are not stored */
  readonly artifacts_message?: string | null;
  /** the stored objects */
  readonly objects?: readonly Artifact[];
  readonly model?: string | null;
  /** the pushed commit of the task's `result` */
  readonly commit?: string | null;
  readonly branch?: string | null;
  readonly pull_request?: PullRequestRef | null;
  /** why nothing was pushed, or what the forge refused besides */
  readonly result_message?: string | null;
  readonly rerun?: RerunResult | null;
}

/** Machine-readable cause of a failed execution (`failed.reason`). */
export type Reason = "agent_error" | "model_error" | "model_auth" | "invalid_workspace" | "permission_denied" | "out_of_memory" | "stalled" | "worker_lost" | "budget_exceeded" | "output_limit" | "output_invalid" | "setup_failed" | "result_rejected" | "diverged";

/** `dev.ocf.task.failed.v1`: the execution failed; `reason` is machine-readable. */
export interface TaskFailedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly attempt: number;
  readonly duration_ms: number;
  readonly queued_ms?: number;
  readonly waited_ms?: number;
  /** from submit to the first text of the agent */
  readonly first_output_ms?: number | null;
  readonly result?: string;
  /** bytes of the whole result, when `result` is shortened */
  readonly result_bytes?: number | null;
  /** the JSON value that fits `output_schema` */
  readonly output?: unknown;
  readonly usage?: Usage;
  readonly diff?: DiffSummary;
  readonly last_sequence?: number;
  readonly artifacts?: "stored" | "pending" | "lost";
  /** the reason if they are not stored */
  readonly artifacts_message?: string | null;
  /** the stored objects */
  readonly objects?: readonly Artifact[];
  readonly model?: string | null;
  /** the pushed commit of the task's `result` */
  readonly commit?: string | null;
  readonly branch?: string | null;
  readonly pull_request?: PullRequestRef | null;
  /** why nothing was pushed, or what the forge refused besides */
  readonly result_message?: string | null;
  readonly rerun?: RerunResult | null;
  readonly reason: Reason;
  readonly message: string;
  readonly stderr_tail?: readonly string[];
}

/** `dev.ocf.task.cancelled.v1`: the execution was cancelled on request. */
export interface TaskCancelledData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly attempt: number;
  readonly duration_ms: number;
  readonly queued_ms?: number;
  readonly waited_ms?: number;
  /** from submit to the first text of the agent */
  readonly first_output_ms?: number | null;
  readonly result?: string;
  /** bytes of the whole result, when `result` is shortened */
  readonly result_bytes?: number | null;
  /** the JSON value that fits `output_schema` */
  readonly output?: unknown;
  readonly usage?: Usage;
  readonly diff?: DiffSummary;
  readonly last_sequence?: number;
  readonly artifacts?: "stored" | "pending" | "lost";
  /** the reason if they are not stored */
  readonly artifacts_message?: string | null;
  /** the stored objects */
  readonly objects?: readonly Artifact[];
  readonly model?: string | null;
  /** the pushed commit of the task's `result` */
  readonly commit?: string | null;
  readonly branch?: string | null;
  readonly pull_request?: PullRequestRef | null;
  /** why nothing was pushed, or what the forge refused besides */
  readonly result_message?: string | null;
  readonly rerun?: RerunResult | null;
  readonly why?: string | null;
  readonly requested_by?: string | null;
}

/** `dev.ocf.task.timed_out.v1`: the execution reached its time limit. */
export interface TaskTimedOutData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly attempt: number;
  readonly duration_ms: number;
  readonly queued_ms?: number;
  readonly waited_ms?: number;
  /** from submit to the first text of the agent */
  readonly first_output_ms?: number | null;
  readonly result?: string;
  /** bytes of the whole result, when `result` is shortened */
  readonly result_bytes?: number | null;
  /** the JSON value that fits `output_schema` */
  readonly output?: unknown;
  readonly usage?: Usage;
  readonly diff?: DiffSummary;
  readonly last_sequence?: number;
  readonly artifacts?: "stored" | "pending" | "lost";
  /** the reason if they are not stored */
  readonly artifacts_message?: string | null;
  /** the stored objects */
  readonly objects?: readonly Artifact[];
  readonly model?: string | null;
  /** the pushed commit of the task's `result` */
  readonly commit?: string | null;
  readonly branch?: string | null;
  readonly pull_request?: PullRequestRef | null;
  /** why nothing was pushed, or what the forge refused besides */
  readonly result_message?: string | null;
  readonly rerun?: RerunResult | null;
  readonly limit_seconds: number;
}

/** `dev.ocf.task.published.v1`: the result was pushed after the end of the execution. */
export interface TaskPublishedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly commit?: string | null;
  readonly branch?: string | null;
  readonly pull_request?: PullRequestRef | null;
  readonly result_message?: string | null;
}

/** `dev.ocf.task.archived.v1`: the archive is complete and verified in S3. */
export interface TaskArchivedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly prefix: string;
  readonly objects: readonly Artifact[];
  readonly chunks: number;
}

/** `dev.ocf.task.cleaned.v1`: numbers of removed items. The fact stays as the only trace of the execution. */
export interface TaskCleanedData {
  /** lower-case UUID */
  readonly execution_id: string;
  readonly project_id: string;
  readonly removed: Readonly<Record<string, number>>;
}

/** Kind of a chunk. `data` is always readable text; `detail` has the fields named here. - text, reasoning: model output as it arrives; detail: {part_id} - tool_call: detail: ToolCall; tool_result: detail: ToolResult, `data` is the tool's output - stdout, stderr: output of a running shell tool as it arrives, of the task's setup, or of the agent's own process - file_change: detail: FileChange - status: a state or phase in words; detail: StatusDetail - usage: detail: Usage, totals so far - todo: detail: {items: [TodoItem]}, the agent's whole list - permission, question: the agent waits for an answer; detail: PendingRequest - gap: output that could not be stored; detail: {reason, bytes} */
export type ChunkType = "text" | "reasoning" | "tool_call" | "tool_result" | "stdout" | "stderr" | "file_change" | "status" | "usage" | "todo" | "permission" | "question" | "gap";

/** One piece of output. `seq` counts without gaps from 1 per execution, over all attempts. */
export interface TaskOutputData {
  readonly seq: number;
  readonly type: ChunkType;
  readonly data?: string;
  readonly timestamp: string;
  readonly attempt?: number;
  readonly detail?: Readonly<Record<string, unknown>> | null;
}

/** `dev.ocf.session.create.v1`: create a conversation and its workspace, empty or from a finished execution. */
export interface SessionCreateData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly session_id: string;
  readonly requested_by?: string | null;
  readonly from_execution_id?: string | null;
  readonly workspace?: EmptyWorkspace | GitWorkspace | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace;
  readonly ttl_seconds?: number | null;
  readonly labels?: Readonly<Record<string, string>>;
}

/** `dev.ocf.session.attach.v1`: a client watches the session and may send follow-ups. */
export interface SessionAttachData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly session_id: string;
  readonly requested_by?: string | null;
  readonly client_id: string;
}

/** `dev.ocf.session.detach.v1`: a client no longer watches; the session stays. */
export interface SessionDetachData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly session_id: string;
  readonly requested_by?: string | null;
  readonly client_id: string;
}

/** `dev.ocf.session.destroy.v1`: remove every trace of the session. */
export interface SessionDestroyData {
  readonly project_id: string;
  /** lower-case UUID */
  readonly session_id: string;
  readonly requested_by?: string | null;
}

/** `dev.ocf.session.created.v1`: the session exists. */
export interface SessionCreatedData {
  /** lower-case UUID */
  readonly session_id: string;
  readonly project_id: string;
  readonly from_execution_id?: string | null;
  readonly expires_at?: string | null;
}

/** `dev.ocf.session.attached.v1`: a client watches the session. */
export interface SessionAttachedData {
  /** lower-case UUID */
  readonly session_id: string;
  readonly project_id: string;
  readonly client_id: string;
}

/** `dev.ocf.session.detached.v1`: a client no longer watches the session. */
export interface SessionDetachedData {
  /** lower-case UUID */
  readonly session_id: string;
  readonly project_id: string;
  readonly client_id: string;
}

/** `dev.ocf.session.destroyed.v1`: the session and its data are removed. */
export interface SessionDestroyedData {
  /** lower-case UUID */
  readonly session_id: string;
  readonly project_id: string;
  readonly removed?: Readonly<Record<string, number>>;
  readonly expired?: boolean;
}

/** `dev.ocf.session.rejected.v1`: the command had no effect; `errors` names every invalid field. */
export interface SessionRejectedData {
  /** lower-case UUID */
  readonly session_id: string;
  readonly project_id: string;
  readonly errors: readonly FieldError[];
}

/** The data of each event type. */
export interface EventData {
  readonly "dev.ocf.task.submit.v1": TaskSubmitData;
  readonly "dev.ocf.task.execute.v1": TaskExecuteData;
  readonly "dev.ocf.task.cancel.v1": TaskCancelData;
  readonly "dev.ocf.task.cleanup.v1": TaskCleanupData;
  readonly "dev.ocf.task.reply.v1": TaskReplyData;
  readonly "dev.ocf.task.result.v1": TaskResultData;
  readonly "dev.ocf.task.comment.v1": TaskCommentData;
  readonly "dev.ocf.task.accepted.v1": TaskAcceptedData;
  readonly "dev.ocf.task.rejected.v1": TaskRejectedData;
  readonly "dev.ocf.task.started.v1": TaskStartedData;
  readonly "dev.ocf.task.completed.v1": TaskCompletedData;
  readonly "dev.ocf.task.failed.v1": TaskFailedData;
  readonly "dev.ocf.task.cancelled.v1": TaskCancelledData;
  readonly "dev.ocf.task.timed_out.v1": TaskTimedOutData;
  readonly "dev.ocf.task.published.v1": TaskPublishedData;
  readonly "dev.ocf.task.archived.v1": TaskArchivedData;
  readonly "dev.ocf.task.cleaned.v1": TaskCleanedData;
  readonly "dev.ocf.task.output.v1": TaskOutputData;
  readonly "dev.ocf.session.create.v1": SessionCreateData;
  readonly "dev.ocf.session.attach.v1": SessionAttachData;
  readonly "dev.ocf.session.detach.v1": SessionDetachData;
  readonly "dev.ocf.session.destroy.v1": SessionDestroyData;
  readonly "dev.ocf.session.created.v1": SessionCreatedData;
  readonly "dev.ocf.session.attached.v1": SessionAttachedData;
  readonly "dev.ocf.session.detached.v1": SessionDetachedData;
  readonly "dev.ocf.session.destroyed.v1": SessionDestroyedData;
  readonly "dev.ocf.session.rejected.v1": SessionRejectedData;
}
