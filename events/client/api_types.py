"""Types of the REST API. Generated from schemas/openapi.json by `make generate`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

ChunkType = Literal[
    "text",
    "reasoning",
    "tool_call",
    "tool_result",
    "stdout",
    "stderr",
    "file_change",
    "status",
    "usage",
    "todo",
    "permission",
    "question",
    "gap",
]

Definition = TypedDict(
    "Definition", {"content": "NotRequired[str | None]", "from": "NotRequired[GitDefinitions | None]"}
)

DefinitionFolder = TypedDict("DefinitionFolder", {"from": "GitDefinitions"})

Reason = Literal[
    "agent_error",
    "model_error",
    "model_auth",
    "invalid_workspace",
    "permission_denied",
    "out_of_memory",
    "stalled",
    "worker_lost",
    "budget_exceeded",
    "output_limit",
    "output_invalid",
    "setup_failed",
    "result_rejected",
    "diverged",
]

State = Literal["pending", "running", "completed", "failed", "cancelled", "timed_out", "rejected"]


class Accepted(TypedDict):
    """202: the command is published."""

    execution_id: str
    status: State


class Actors(TypedDict):
    """Users who may cause the event on a forge, which is asked for their permission. Bots and own accounts may not."""

    permission: NotRequired[Literal["write", "triage", "any"]]
    credential: NotRequired[str | None]
    users: NotRequired[list[str]]


class Answer(TypedDict):
    """An answer to the agent's request, or a follow-up prompt."""

    answer: str


class AttachSession(TypedDict):
    """The client that attaches or detaches; the caller's name by default."""

    client_id: NotRequired[str | None]


class Attachment(TypedDict):
    """A file for the model: its content, or a file of the workspace that an earlier execution left."""

    name: str
    media_type: str
    data: NotRequired[str | None]
    execution_id: NotRequired[str | None]
    path: NotRequired[str | None]


class Attempt(TypedDict):
    """One attempt of one worker. `ended` is its terminal state, an `AttemptState`, or one of a later release."""

    number: int
    worker: str
    started_at: str
    ended_at: NotRequired[str | None]
    ended: NotRequired[str | None]


class CancelTask(TypedDict):
    """Reason of a cancel, shown in the record."""

    why: NotRequired[str | None]


class ChangedFile(TypedDict):
    """One changed file of the workspace."""

    path: str
    change: str
    additions: NotRequired[int | None]
    deletions: NotRequired[int | None]


class Check(TypedDict):
    """One dependency of the gateway."""

    ok: bool
    detail: NotRequired[str]
    ms: float


class Chunk(TypedDict):
    """One piece of output. `seq` counts without gaps from 1 per execution, over all attempts."""

    seq: int
    type: ChunkType
    data: NotRequired[str]
    timestamp: str
    attempt: NotRequired[int]
    detail: NotRequired[dict[str, Any] | None]


class Compared(TypedDict):
    """One of the two executions. `missing` names what is no longer stored, or is too large to be compared whole."""

    execution_id: str
    status: State
    reason: NotRequired[Reason | None]
    model: NotRequired[str | None]
    duration_ms: NotRequired[int | None]
    usage: NotRequired[Usage]
    steps: NotRequired[int]
    tool_calls: NotRequired[int]
    calls: NotRequired[str]
    missing: NotRequired[list[str]]


class Comparison(TypedDict):
    """The difference of two executions. Tokens, cost and time are stated for each and are not part of `same`."""

    same: bool
    differs: list[Literal["end", "plan", "tool_calls", "output", "files"]]
    common_steps: int
    a: Compared
    b: Compared
    rows: list[Row]
    steps_left_out: NotRequired[int]
    files: NotRequired[list[FileDifference]]
    files_left_out: NotRequired[int]


class CreateCredential(TypedDict):
    """A token of a forge, or a GitHub App with its installation. A credential of the same name is replaced."""

    name: str
    project_id: NotRequired[str | None]
    forge: Literal["github", "gitlab", "gitea"]
    api_url: NotRequired[str | None]
    token: NotRequired[str | None]
    app_id: NotRequired[int | None]
    installation_id: NotRequired[int | None]
    private_key: NotRequired[str | None]


class CreateHook(TypedDict):
    """A hook of a project. `source` names one of several Knative sources; for others it is the kind."""

    kind: Literal["github", "gitlab", "gitea", "generic", "knative"]
    project_id: NotRequired[str | None]
    source: NotRequired[str | None]


class CreateSession(TypedDict):
    """A conversation and its workspace, empty or forked from a finished execution."""

    session_id: NotRequired[str | None]
    project_id: NotRequired[str | None]
    from_execution_id: NotRequired[str | None]
    workspace: NotRequired[EmptyWorkspace | GitWorkspaceIn | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace]
    ttl_seconds: NotRequired[int | None]
    labels: NotRequired[dict[str, str]]


class CredentialList(TypedDict):
    """The credentials of a project."""

    credentials: list[CredentialView]


class CredentialView(TypedDict):
    """A credential without its secret."""

    name: str
    project_id: str
    forge: Literal["github", "gitlab", "gitea"]
    api_url: str
    kind: str
    app_id: NotRequired[int | None]
    installation_id: NotRequired[int | None]
    key_id: str
    created_at: str


class DeadLetter(TypedDict):
    """An event that could not be handled: the reason, and the event itself."""

    seq: int
    consumer: str
    subject: str
    project_id: str | None
    reason: str
    status: NotRequired[int | None]
    deliveries: int
    failed_at: str
    type: NotRequired[str | None]
    event_id: NotRequired[str | None]
    data: NotRequired[str | None]
    size: NotRequired[int | None]
    sha256: NotRequired[str | None]


class DeadLetters(TypedDict):
    """One page, oldest first. `next` is the `after` of the next page."""

    items: list[DeadLetter]
    next: NotRequired[int | None]


class DiffSummary(TypedDict):
    """Changes of the workspace since the start of the execution."""

    files: NotRequired[int]
    additions: NotRequired[int]
    deletions: NotRequired[int]
    changed: NotRequired[list[ChangedFile]]
    truncated: NotRequired[bool]


class DirectoryWorkspace(TypedDict):
    """A copy of a directory that the execution function can read (`WORKSPACE_SOURCES` lists the allowed roots)."""

    keep_ignored: NotRequired[bool]
    source: Literal["directory"]
    path: str


class Divergence(TypedDict):
    """A part of a request that differs from the recording: `system`, `tools`, `message N`, or `call`."""

    call: int
    part: str
    text: NotRequired[str | None]


class EmptyWorkspace(TypedDict):
    """A new, empty directory (a git repository without commits)."""

    keep_ignored: NotRequired[bool]
    source: Literal["empty"]


class EventRef(TypedDict):
    """An event, the time of its handling, and why it was held back."""

    id: str
    time: str
    reason: NotRequired[str]


class ExecuteTask(TypedDict):
    """Body of `POST /tasks/execute`: task, workspace, model and limits."""

    task_id: NotRequired[str | None]
    prompt: NotRequired[str | None]
    code: NotRequired[str | None]
    context: NotRequired[str | dict[str, Any] | None]
    workspace: NotRequired[EmptyWorkspace | GitWorkspaceIn | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace]
    session_id: NotRequired[str | None]
    model_config: NotRequired[ModelConfigIn | None]
    limits: NotRequired[Limits]
    retry: NotRequired[Retry]
    mcp: NotRequired[dict[str, LocalMcp | RemoteMcpIn]]
    permissions: NotRequired[dict[str, Literal["allow", "deny", "ask"]]]
    network: NotRequired[Network]
    setup: NotRequired[Setup | None]
    secrets: NotRequired[dict[str, TaskSecretIn]]
    labels: NotRequired[dict[str, str]]
    agent: NotRequired[str | None]
    attachments: NotRequired[list[Attachment]]
    output_schema: NotRequired[dict[str, Any] | None]
    agents: NotRequired[dict[str, Definition] | DefinitionFolder]
    skills: NotRequired[dict[str, Definition] | DefinitionFolder]
    commands: NotRequired[dict[str, Definition] | DefinitionFolder]
    result: NotRequired[TaskResult | None]
    recording: NotRequired[Literal["off", "answers", "full"] | None]
    rerun: NotRequired[Rerun | None]
    execution_id: NotRequired[str | None]
    project_id: NotRequired[str | None]


class FieldError(TypedDict):
    """One error of an input: the field, the fault, and the expected value."""

    field: str
    message: str


class FileDifference(TypedDict):
    """A file that the two executions changed differently. `lines` is the difference of the two patches of the file."""

    path: str
    change: Literal["only_a", "only_b", "differs"]
    lines: list[str]


class Files(TypedDict):
    """Changes of the run in the workspace; `final`: the run has ended."""

    execution_id: str
    final: bool
    files: list[ChangedFile]
    additions: int
    deletions: int
    truncated: bool


class GitDefinitions(TypedDict):
    """A path in a public git repository."""

    git: str
    ref: NotRequired[str | None]
    path: NotRequired[str | None]


class GitWorkspaceIn(TypedDict):
    """A clone. `token` is plain text or sealed."""

    keep_ignored: NotRequired[bool]
    source: Literal["git"]
    url: str
    ref: NotRequired[str | None]
    depth: NotRequired[int]
    submodules: NotRequired[bool]
    token: NotRequired[str | Sealed | None]
    credential: NotRequired[str | None]


class Health(TypedDict):
    """The process answers."""

    status: NotRequired[Literal["ok"]]
    open: bool
    instance: str | None


class HookList(TypedDict):
    """The hooks of a project, without their secrets."""

    hooks: list[HookView]


class HookView(TypedDict):
    """A hook without its secrets, of which the latest is first."""

    kind: Literal["github", "gitlab", "gitea", "generic", "knative"]
    source: str
    project_id: str
    secrets: list[SecretTimes]


class Imported(TypedDict):
    """201: the bundle is an archived execution of the project. `imported_from` is `project/execution` of its origin."""

    execution_id: str
    project_id: str
    imported_from: str


class LatestEvents(TypedDict):
    """The latest events of a project, newest first, each with every rule's decision by the rules of now."""

    events: list[dict[str, Any]]


class Limits(TypedDict):
    """Limits of one execution. An unset limit has the operator's default."""

    timeout_seconds: NotRequired[int | None]
    silence_seconds: NotRequired[int | None]
    answer_seconds: NotRequired[int | None]
    max_total_tokens: NotRequired[int | None]
    max_cost_usd: NotRequired[float | None]
    max_memory_bytes: NotRequired[int | None]
    max_workspace_bytes: NotRequired[int | None]
    max_output_bytes: NotRequired[int | None]
    max_processes: NotRequired[int | None]


class LocalMcp(TypedDict):
    """An MCP server that runs beside the agent in its sandbox, over standard input and output."""

    type: Literal["local"]
    command: list[str]
    env: NotRequired[dict[str, str]]


class ModelConfigIn(TypedDict):
    """The model of the task. `api_key` is plain text or sealed; plain text is sealed before use."""

    provider: str
    model: str
    model_version: NotRequired[str | None]
    api_endpoint: NotRequired[str | None]
    api_key: NotRequired[str | Sealed | None]
    temperature: NotRequired[float | None]
    max_tokens: NotRequired[int | None]
    enabled_tools: NotRequired[list[str] | None]
    system_prompt: NotRequired[str | None]
    variant: NotRequired[str | None]
    facts: NotRequired[ModelFactsData | None]


class ModelFactsData(TypedDict):
    """Facts of a model that the catalog (`GET /models`) does not have."""

    context: int
    output: int
    input: NotRequired[list[Literal["text", "image", "pdf", "audio", "video"]]]
    reasoning: NotRequired[bool]
    variants: NotRequired[list[str]]
    temperature: NotRequired[bool]
    price: NotRequired[ModelPrice | None]
    api_format: NotRequired[Literal["chat", "responses", "messages", "gemini"] | None]


class ModelList(TypedDict):
    """The models of all providers, or of one."""

    models: list[ModelView]
    agent_version: str


class ModelPrice(TypedDict):
    """Prices in US dollars per million tokens. An unknown cache price is left out."""

    input: float
    output: float
    cache_read: NotRequired[float | None]
    cache_write: NotRequired[float | None]


class ModelView(TypedDict):
    """A model and its facts; null where they are not known."""

    provider: str
    model: str
    name: str
    context: int | None
    output: int | None
    input: list[str] | None
    reasoning: bool | None
    variants: list[str] | None
    temperature: bool | None
    price: Price | None


class Network(TypedDict):
    """Hosts that the agent's tools may reach, within the operator's `NETWORK_ALLOW`."""

    allow: NotRequired[list[str]]


class NewHook(TypedDict):
    """A hook with its secret, which is not shown again. A Knative hook has it in the URL."""

    kind: str
    project_id: str
    url: str
    secret: str | None


class On(TypedDict):
    """The events of a rule. Every given field must match."""

    type: NotRequired[str | None]
    source: NotRequired[str | None]
    subject: NotRequired[str | None]
    where: NotRequired[str | None]
    actors: NotRequired[Actors]


class PendingRequest(TypedDict):
    """A permission request or question of the agent; the reply names `request_id`."""

    request_id: str
    kind: Literal["permission", "question"]
    title: str
    options: NotRequired[list[str]]
    deadline: NotRequired[str | None]


class Poll(TypedDict):
    """The questions to a forge that cannot send webhooks here, and their interval."""

    forge: Literal["github", "gitlab", "gitea"]
    api_url: NotRequired[str | None]
    repository: str
    what: Literal["issues", "comments", "pull_requests"]
    every: NotRequired[str]
    credential: str


class Price(TypedDict):
    """Prices of a call."""

    input: float
    output: float
    cache_read: float | None
    cache_write: float | None
    tiers: list[Tier]
    unit: str


class ProblemDocument(TypedDict):
    """RFC 9457. `errors` names each wrong field and the correct form."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: NotRequired[list[FieldError]]


class Published(TypedDict):
    """202: the events are stored, each with the executions that its rules start unless a guard holds it back."""

    events: list[dict[str, Any]]


class PullRequestFields(TypedDict):
    """Texts of the pull request. The title is the task's first line unless given, the body the agent's last message."""

    title: NotRequired[str | None]
    body: NotRequired[str | None]
    draft: NotRequired[bool]
    labels: NotRequired[list[str]]
    reviewers: NotRequired[list[str]]


class PullRequestRef(TypedDict):
    """A pull or merge request."""

    number: int
    url: str


class Readiness(TypedDict):
    """Readiness to serve calls, with each check by name."""

    ready: bool
    offline_model: bool
    checks: dict[str, Check]


class RemoteMcpIn(TypedDict):
    """An MCP server at a URL. Plain header values are sealed before use."""

    type: Literal["remote"]
    url: str
    headers: NotRequired[dict[str, str | Sealed]]


class ReplyAccepted(TypedDict):
    """202: the answer is published for the worker."""

    execution_id: str
    request_id: str


class Rerun(TypedDict):
    """Run an ended execution again: the model's answers come from its recording, its other fields from its task."""

    of: str
    until: NotRequired[int | None]
    then: NotRequired[Literal["live"] | None]
    on_divergence: NotRequired[Literal["nearest", "fail", "live"]]


class RerunResult(TypedDict):
    """The model calls of a rerun: how many the recording answered, and which requests differed."""

    of: str
    calls: NotRequired[int]
    live_calls: NotRequired[int]
    divergences: NotRequired[list[Divergence]]
    more: NotRequired[int]


class RerunSubmitted(TypedDict):
    """202: published; `rerun_of` is the execution that runs again."""

    execution_id: str
    status: State
    rerun_of: str


class Retry(TypedDict):
    """Retry policy after the loss of a worker. Failures of the agent are never retried."""

    max_attempts: NotRequired[int]


class Row(TypedDict):
    """Steps of both executions that stand at the same place; a side without one is null."""

    same: bool
    a: NotRequired[Step | None]
    b: NotRequired[Step | None]


class Rule(TypedDict):
    """One rule of a project. Texts of `task` are templates over `event`."""

    name: str
    project_id: NotRequired[str | None]
    on: On
    task: dict[str, Any]
    poll: NotRequired[Poll | None]
    reply: NotRequired[Literal["comment"] | None]
    follow_up: NotRequired[bool]
    max_concurrent: NotRequired[int | None]
    cooldown_seconds: NotRequired[int | None]
    daily_budget_usd: NotRequired[float | None]
    own_events: NotRequired[bool]


class RuleList(TypedDict):
    """The rules of a project, each with its matches."""

    triggers: list[dict[str, Any]]


class RunAgain(TypedDict):
    """Changes of a rerun: how far the recording answers, and the prompt and model of what follows."""

    until: NotRequired[int | None]
    then: NotRequired[Literal["live"] | None]
    on_divergence: NotRequired[Literal["nearest", "fail", "live"]]
    prompt: NotRequired[str | None]
    model_config: NotRequired[ModelConfigIn | None]
    labels: NotRequired[dict[str, str]]
    recording: NotRequired[Literal["off", "answers", "full"] | None]


class Schedule(TypedDict):
    """A schedule. `overlap` says what a tick does while the execution of an earlier one runs."""

    name: str
    project_id: NotRequired[str | None]
    cron: str
    timezone: NotRequired[str]
    overlap: NotRequired[Literal["skip", "queue", "cancel"]]
    task: dict[str, Any]


class ScheduleList(TypedDict):
    """The schedules of a project, each with its next and last ticks."""

    schedules: list[ScheduleView]


class ScheduleView(TypedDict):
    """A schedule with its next ticks, its last one, and the latest that were skipped or missed."""

    name: str
    project_id: str | None
    cron: str
    timezone: str
    overlap: Literal["skip", "queue", "cancel"]
    task: dict[str, Any]
    next: str | None
    upcoming: list[str]
    last: EventRef | None
    paused: bool
    refused: list[EventRef]


class Sealed(TypedDict):
    """A secret encrypted with AES-256-GCM (NIST SP 800-38D); the project id is its associated data."""

    alg: NotRequired[Literal["A256GCM"]]
    kid: str
    nonce: str
    ciphertext: str


class SecretInjection(TypedDict):
    """The header that carries the secret; `{}` in `format` is its value. A format that begins with `Basic ` is `Basic USER:{}`; what follows `Basic ` is base64-encoded (RFC 7617)."""

    header: str
    format: NotRequired[str]


class SecretTimes(TypedDict):
    """When a secret of a hook was made, and when it expires: one that was rotated does."""

    created_at: str
    expires_at: str | None


class SessionAccepted(TypedDict):
    """202: the session command is published; `open`: the session exists."""

    session_id: str
    status: Literal["open", "creating", "attaching", "detaching", "destroying"]


class SessionList(TypedDict):
    """One page of the sessions, newest first. `next` is the `cursor` of the next page."""

    items: list[dict[str, Any]]
    next: NotRequired[str | None]


class Setup(TypedDict):
    """A Bash script that prepares the workspace before the first prompt, inside the sandbox. With `cache_key` the files that it made are kept for the project, and used instead of the next run with the same key, script and workspace source."""

    run: str
    timeout_seconds: NotRequired[int]
    cache_key: NotRequired[str | None]


class SharedWorkspace(TypedDict):
    """A path below `WORKSPACE_DIR`, used in place: other users of the volume see every change at once."""

    keep_ignored: NotRequired[bool]
    source: Literal["shared"]
    path: str


class SnapshotWorkspace(TypedDict):
    """The stored workspace of an earlier execution of the same project."""

    keep_ignored: NotRequired[bool]
    source: Literal["snapshot"]
    execution_id: str


class Step(TypedDict):
    """One action or text of an execution. `text` is shortened; `seq` is the sequence of its first chunk."""

    seq: int
    type: str
    text: str


class Submits(TypedDict):
    """The submits that a rule would publish for an event; empty with the reason when it does not match."""

    submits: list[dict[str, Any]]
    mismatch: NotRequired[str | None]


class Submitted(TypedDict):
    """202: published. `status` is `pending`, or the state of the execution that an earlier identical call made."""

    execution_id: str
    status: State


class TaskPage(TypedDict):
    """One page of the history, newest first. `next` is the `cursor` of the next page."""

    items: list[TaskSummary]
    next: NotRequired[str | None]
    behind: NotRequired[int | None]


class TaskResult(TypedDict):
    """A branch with the changes of a completed execution, and a pull request from it to `base`."""

    branch: str
    base: NotRequired[str | None]
    commit_message: NotRequired[str | None]
    author: NotRequired[str | None]
    pull_request: NotRequired[PullRequestFields]
    forge: NotRequired[Literal["github", "gitlab", "gitea"] | None]
    api_url: NotRequired[str | None]
    credential: NotRequired[str | None]
    allow_ci_changes: NotRequired[bool]


class TaskSecretIn(TypedDict):
    """A secret of the task. `value` is plain text or sealed."""

    value: str | Sealed
    url: str
    inject: SecretInjection
    methods: NotRequired[list[Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]] | None]
    paths: NotRequired[list[str] | None]


class TaskStatus(TypedDict):
    """The state of an execution, without its output."""

    execution_id: str
    project_id: str
    task_id: str | None
    session_id: str | None
    status: State
    reason: Reason | None
    message: str | None
    progress: int
    title: str
    labels: dict[str, str]
    model: str | None
    submitted_at: str
    updated_at: str
    started_at: str | None
    ended_at: str | None
    duration_ms: int | None
    attempt: int
    waiting: bool
    cancel_requested: bool
    usage: Usage
    files_changed: int
    archived: bool
    rerun_of: str | None
    queue_position: int | None
    timeout_seconds: int | None
    max_attempts: int
    attempts: list[Attempt]
    waiting_for: PendingRequest | None
    todo: list[TodoItem]
    errors: list[FieldError]
    diff: DiffSummary
    result: str
    result_bytes: int | None
    output: Any
    artifacts: Literal["stored", "pending", "lost"] | None
    artifacts_message: str | None
    last_sequence: int
    commit: str | None
    branch: str | None
    pull_request: PullRequestRef | None
    result_message: str | None
    comment_url: str | None
    output_expired: bool
    archive_expired: bool
    cancel_why: str | None
    rerun: RerunResult | None
    imported_from: str | None


class TaskSummary(TypedDict):
    """An execution in lists. Times in UTC, durations in milliseconds."""

    execution_id: str
    project_id: str
    task_id: str | None
    session_id: str | None
    status: State
    reason: Reason | None
    message: str | None
    progress: int
    title: str
    labels: dict[str, str]
    model: str | None
    submitted_at: str
    updated_at: str
    started_at: str | None
    ended_at: str | None
    duration_ms: int | None
    attempt: int
    waiting: bool
    cancel_requested: bool
    usage: Usage
    files_changed: int
    archived: bool
    rerun_of: str | None


class Tier(TypedDict):
    """Prices of a call whose input is longer."""

    input: float
    output: float
    cache_read: float | None
    cache_write: float | None
    above: int


class TodoItem(TypedDict):
    """One line of the agent's todo list."""

    content: str
    status: Literal["pending", "in_progress", "completed", "cancelled"]


class Usage(TypedDict):
    """Totals of an execution so far: tokens as counted by the model's provider, cost in US dollars."""

    requests: NotRequired[int]
    input_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    reasoning_tokens: NotRequired[int]
    cache_read_tokens: NotRequired[int]
    cache_write_tokens: NotRequired[int]
    cost_usd: NotRequired[float]


class UsageReport(TypedDict):
    """Usage by group, and the failures by reason."""

    usage: list[UsageRow]
    reasons: dict[str, int]


class UsageRow(TypedDict):
    """Sums of one group; of the fields `project`, `model`, `day` and `label` only those of `group_by` are set."""

    project: NotRequired[str | None]
    model: NotRequired[str | None]
    day: NotRequired[str | None]
    label: NotRequired[str | None]
    runs: int
    completed: int
    failed: int
    cancelled: int
    timed_out: int
    rejected: int
    first_output_ms: NotRequired[int | None]
    first_outputs: NotRequired[int]
    requests: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float


class ViewerToken(TypedDict):
    """Credentials for one execution's live subject over the NATS WebSocket, and the URL of its history."""

    nats_ws: str | None
    jwt: str
    seed: str
    subject: str
    history_url: str
    expires_at: str
