"""Payloads of the `dev.ocf.*` command events (contract: docs/reference/events.md).

All models are frozen. A model that callers fill rejects unknown fields, so that a misspelled field is an error. A model
that functions write for each other accepts them, because two releases run side by side during an upgrade: see
`ForwardCompatible`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ocf.events.base_model import (
    ExecutionId,
    FreeObject,
    GitRef,
    GitUrl,
    Model,
    ProjectId,
    Sealed,
    SessionId,
    Text,
    no_credentials,
    no_websocket,
)
from ocf.events.optional_task_fields import (
    MCP_TOOL,
    Attachments,
    DefinitionName,
    Definitions,
    McpName,
    McpServer,
    OutputSchema,
    Rerun,
    ResolvedRerun,
)
from ocf.events.task_forge_fields import CredentialName, ReplyTo, TaskResult

MAX_EVENT_BYTES = 512 * 1024
MAX_COMMAND_BYTES = 16 * 1024 * 1024
MAX_CHUNK_BYTES = 64 * 1024

_HOST = r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$"
_LABEL = r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"

Host = Annotated[str, StringConstraints(pattern=_HOST), Field(examples=["pypi.org", "*.example.com:8443"])]


class ModelPrice(Model):
    """Prices in US dollars per million tokens. An unknown cache price is left out."""

    input: Annotated[float, Field(ge=0, le=1_000_000)]
    output: Annotated[float, Field(ge=0, le=1_000_000)]
    cache_read: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    cache_write: Annotated[float, Field(ge=0, le=1_000_000)] | None = None


class ModelFactsData(Model):
    """Facts of a model that the catalog (`GET /models`) does not have."""

    context: Annotated[int, Field(ge=1, le=100_000_000, description="tokens of input and output together")]
    output: Annotated[int, Field(ge=1, le=10_000_000, description="tokens of an answer")]
    input: Annotated[list[Literal["text", "image", "pdf", "audio", "video"]], Field(min_length=1, max_length=5)] = [
        "text"
    ]
    reasoning: bool = False
    variants: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]],
        Field(max_length=16, description="reasoning efforts that the endpoint takes"),
    ] = []
    temperature: bool = True
    price: ModelPrice | None = None
    api_format: Annotated[
        Literal["chat", "responses", "messages", "gemini"] | None,
        Field(
            description="API format of `api_endpoint`; the provider's own unless given, else OpenAI's chat completions"
        ),
    ] = None


class ModelConfigData(Model):
    """The model that runs the task, and its parameters. On the bus `api_key` is always sealed."""

    provider: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", examples=["anthropic", "openai", "local"])]
    model: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s/][^\s]*$")]
    model_version: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    api_endpoint: (
        Annotated[
            str,
            Field(
                pattern=r"^https?://[^\s]+$",
                max_length=2_000,
                json_schema_extra={"pattern": r"^https?://(?![^/?#]*@)[^\s]+$"},
            ),
            AfterValidator(no_credentials),
        ]
        | None
    ) = None
    api_key: Sealed | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000, description="output tokens per model call")] | None = None
    enabled_tools: Annotated[list[str], Field(max_length=100)] | None = None
    system_prompt: Annotated[Text, Field(max_length=200_000)] | None = None
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["high"])] | None = None
    facts: (
        Annotated[ModelFactsData, Field(description="of a model at `api_endpoint` that is not in the catalog")] | None
    ) = None


class WorkspaceSource(Model):
    """Fields of every kind of workspace."""

    keep_ignored: Annotated[bool, Field(description="keep what .gitignore excludes in the archive too")] = False


class EmptyWorkspace(WorkspaceSource):
    """A new, empty directory (a git repository without commits)."""

    # `source` distinguishes the kinds of workspace, so an object must have it.
    model_config = ConfigDict(json_schema_extra={"required": ["source"]})

    source: Literal["empty"] = "empty"

    @model_serializer(mode="wrap")
    def _with_its_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Also where defaults are omitted, as in records: without `source` the rest cannot be parsed.
        return {"source": self.source, **handler(self)}


class GitWorkspace(WorkspaceSource):
    """A shallow clone at `ref`, without submodules unless `submodules` is set."""

    source: Literal["git"]
    url: Annotated[GitUrl, Field(examples=["https://example.com/team/app.git"])]
    ref: GitRef | None = None
    depth: Annotated[int, Field(ge=1, le=100_000)] = 1
    submodules: bool = False
    token: Sealed | None = None
    credential: Annotated[CredentialName | None, Field(description="a forge credential instead of a token")] = None

    @model_validator(mode="after")
    def _one_secret(self) -> GitWorkspace:
        if self.token is not None and self.credential is not None:
            raise ValueError("give token or credential, not both")
        return self


class DirectoryWorkspace(WorkspaceSource):
    """A copy of a directory that the execution function can read (`WORKSPACE_SOURCES` lists the allowed roots)."""

    source: Literal["directory"]
    path: Annotated[str, Field(min_length=1, max_length=4_096, pattern=r"^/[^\x00]*$")]


class SnapshotWorkspace(WorkspaceSource):
    """The stored workspace of an earlier execution of the same project."""

    source: Literal["snapshot"]
    execution_id: ExecutionId


class SharedWorkspace(WorkspaceSource):
    """A path below `WORKSPACE_DIR`, used in place: other users of the volume see every change at once."""

    source: Literal["shared"]
    path: Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^/\x00][^\x00]*$")]


Workspace = Annotated[
    EmptyWorkspace | GitWorkspace | DirectoryWorkspace | SnapshotWorkspace | SharedWorkspace,
    Field(discriminator="source"),
]


class Limits(Model):
    """Limits of one execution. An unset limit has the operator's default."""

    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    silence_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    answer_seconds: Annotated[int, Field(ge=1, le=86_400, description="time limit of a question")] | None = None
    max_total_tokens: Annotated[int, Field(ge=1)] | None = None
    max_cost_usd: Annotated[float, Field(gt=0)] | None = None
    max_memory_bytes: Annotated[int, Field(ge=64 * 1024 * 1024)] | None = None
    max_workspace_bytes: Annotated[int, Field(ge=1)] | None = None
    max_output_bytes: Annotated[int, Field(ge=1)] | None = None
    max_processes: Annotated[int, Field(ge=8, le=100_000)] | None = None


class Retry(Model):
    """Retry policy after the loss of a worker. Failures of the agent are never retried."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1


class Network(Model):
    """Hosts that the agent's tools may reach, within the operator's `NETWORK_ALLOW`."""

    allow: Annotated[list[Host], Field(max_length=200)] = []


Permission = Literal["allow", "deny", "ask"]
#: Permissions of OpenCode 1.18 (`PermissionConfig` of its `GET /doc`), and its synonyms of `edit`.
PERMISSIONS = (
    *("bash", "doom_loop", "edit", "external_directory", "glob", "grep", "list", "lsp", "question", "read", "skill"),
    *("task", "todowrite", "webfetch", "websearch"),
    *("apply_patch", "multiedit", "patch", "write"),
)
_PERMISSION = rf"^(\*|({'|'.join(PERMISSIONS)})(:.+)?|{MCP_TOOL})$"
_NOT_A_PERMISSION = (
    f"not a permission; use * or one of {', '.join(PERMISSIONS)}, each also as NAME:PATTERN, "
    "or SERVER_TOOL or SERVER_* of a server in mcp"
)


def _known_permission(value: str) -> str:
    tool, colon, pattern = value.partition(":")
    known = value == "*" or (tool in PERMISSIONS and bool(colon) == bool(pattern))
    if not known and not re.fullmatch(MCP_TOOL, value):
        raise ValueError(_NOT_A_PERMISSION)
    return value


#: `*`, or a permission of OpenCode, whole or limited by a pattern. An unchecked misspelled name would allow the tool.
PermissionName = Annotated[
    str,
    Field(max_length=200, json_schema_extra={"pattern": _PERMISSION}),
    AfterValidator(_known_permission),
]
#: The label that names the rule which has started an execution.
TRIGGER_LABEL = "trigger"
Labels = Annotated[
    dict[Annotated[str, StringConstraints(pattern=_LABEL)], Annotated[Text, Field(max_length=256)]],
    Field(max_length=32, json_schema_extra={"additionalProperties": False}),
]


#: RFC 9110, 5.6.2. The connection's own headers are set by the route.
_ROUTE_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _injectable(value: str) -> str:
    if value.lower() in _ROUTE_HEADERS:
        raise ValueError(f"{value} belongs to the connection and cannot carry a secret")
    return value


class SecretInjection(Model):
    """The header that carries the secret; `{}` in `format` is its value.

    A format that begins with `Basic ` is `Basic USER:{}`; what follows `Basic ` is base64-encoded (RFC 7617).
    """

    header: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=100, examples=["Authorization"]),
        AfterValidator(_injectable),
    ]
    format: Annotated[
        str,
        Field(
            pattern=r"^([\x21-\x7a\x7c\x7e][\x20-\x7a\x7c\x7e]*)?\{\}([\x20-\x7a\x7c\x7e]*[\x21-\x7a\x7c\x7e])?$",
            max_length=500,
            examples=["Bearer {}", "Basic x-access-token:{}"],
        ),
    ] = "Bearer {}"


SecretMethod = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
#: Characters of a URL's path (RFC 3986, 3.3), with `*` for any characters.
SecretPath = Annotated[
    str, StringConstraints(pattern=r"^/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*$", max_length=500)
]


class TaskSecret(Model):
    """A secret that the agent can use and not read: a loopback URL adds it to requests to `url`."""

    value: Annotated[Sealed, Field(repr=False)]
    url: Annotated[
        str,
        Field(
            pattern=r"^https?://[^\s?#]+$",
            max_length=2_000,
            examples=["https://registry.example/npm/"],
            json_schema_extra={"pattern": r"^https?://(?![^/?#]*@)[^\s?#]+$"},
        ),
        AfterValidator(no_credentials),
        BeforeValidator(no_websocket),
    ]
    inject: SecretInjection
    methods: Annotated[list[SecretMethod], Field(min_length=1, max_length=7)] | None = None
    paths: Annotated[list[SecretPath], Field(min_length=1, max_length=50)] | None = None


#: `OCF_SECRET_NAME_URL` is the environment variable.
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=40)]


class Setup(Model):
    """A Bash script that prepares the workspace before the first prompt, inside the sandbox.

    With `cache_key` the files that it made are kept for the project, and used instead of the next run with the same
    key, script and workspace source.
    """

    # Linux limits one argument of a program to 128 KiB, and a character may have four bytes.
    run: Annotated[Text, Field(min_length=1, max_length=30_000, examples=["npm ci"])]
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    cache_key: Annotated[Text, Field(min_length=1, max_length=200, examples=["npm-2f1c"])] | None = None


def _not_blank(field: str) -> dict[str, Any]:
    return {"required": [field], "properties": {field: {"type": "string", "pattern": r"\S"}}}


Mcp = Annotated[dict[McpName, McpServer], Field(max_length=20, json_schema_extra={"additionalProperties": False})]


class TaskRequest(Model):
    """The task of a caller: the body of `POST /tasks/execute`, and `Submit` without its ids."""

    # `_requires_prompt_or_code` as JSON Schema.
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                _not_blank("prompt"),
                _not_blank("code"),
                {"required": ["rerun"], "properties": {"rerun": {"type": "object"}}},
            ]
        }
    )

    task_id: Annotated[Text, Field(max_length=200)] | None = None
    prompt: Annotated[Text, Field(max_length=2_000_000)] | None = None
    code: Annotated[Text, Field(max_length=8_000_000)] | None = None
    context: Annotated[Text, Field(max_length=8_000_000)] | FreeObject | None = None
    workspace: Workspace = EmptyWorkspace()
    session_id: SessionId | None = None
    model: ModelConfigData | None = Field(default=None, alias="model_config")
    limits: Limits = Limits()
    retry: Retry = Retry()
    mcp: Mcp = {}
    permissions: Annotated[
        dict[PermissionName, Permission], Field(json_schema_extra={"additionalProperties": False})
    ] = {}
    network: Network = Network()
    setup: Setup | None = None
    secrets: Annotated[
        dict[SecretName, TaskSecret], Field(max_length=20, json_schema_extra={"additionalProperties": False})
    ] = {}
    labels: Labels = {}
    agent: Annotated[DefinitionName, Field(examples=["plan"])] | None = None
    attachments: Attachments = []
    output_schema: OutputSchema | None = None
    agents: Definitions = {}
    skills: Definitions = {}
    commands: Definitions = {}
    result: TaskResult | None = None
    recording: Annotated[
        Literal["off", "answers", "full"] | None,
        Field(description="what is recorded of its model calls; the operator's `RECORDING` unless given"),
    ] = None
    rerun: Rerun | None = None

    @field_validator("permissions")
    @classmethod
    def _of_known_servers(cls, value: dict[str, Permission], info: ValidationInfo) -> dict[str, Permission]:
        servers = tuple(f"{name}_" for name in info.data.get("mcp", {}))
        for name in value:
            if name != "*" and name.partition(":")[0] not in PERMISSIONS and not name.startswith(servers):
                raise ValueError(f"{name}: {_NOT_A_PERMISSION}")
        return value

    @model_validator(mode="after")
    def _requires_prompt_or_code(self) -> TaskRequest:
        if self.rerun is None and not (self.prompt and self.prompt.strip()) and not (self.code and self.code.strip()):
            raise ValueError("prompt or code is required and must not be blank")
        return self


class Submit(TaskRequest):
    """`dev.ocf.task.submit.v1`: run a task."""

    execution_id: ExecutionId
    project_id: ProjectId
    reply_to: Annotated[ReplyTo | None, Field(description="where the end becomes a comment; rules set it")] = None


class Execute(Submit):
    """`dev.ocf.task.execute.v1`: a validated submit, for the execute function. A newer release may add fields."""

    model_config = ConfigDict(extra="ignore")

    submitted_at: datetime
    rerun: ResolvedRerun | None = None


class Cancel(Model):
    """`dev.ocf.task.cancel.v1`: stop an execution in any state."""

    execution_id: ExecutionId
    project_id: ProjectId
    why: Annotated[Text, Field(max_length=1_000)] | None = None
    requested_by: Annotated[Text, Field(max_length=200)] | None = None


class Cleanup(Model):
    """`dev.ocf.task.cleanup.v1`: remove the data of one execution, or run a periodic job.

    For one execution, `scope` is `everything` (stream, state, S3, workspace) or `workspace` (only the pod's files).
    Schedules send `sweep` (end executions without a worker), `eviction` (remove ended executions from NATS) and
    `retention` (remove expired data).
    """

    project_id: ProjectId
    execution_id: ExecutionId
    scope: Literal["everything", "workspace", "sweep", "eviction", "retention"] = "everything"
    requested_by: Annotated[Text, Field(max_length=200)] | None = None


class Reply(Model):
    """`dev.ocf.task.reply.v1`: an answer to a permission request or a question, or a follow-up prompt."""

    project_id: ProjectId
    execution_id: ExecutionId
    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    answer: Annotated[Text, Field(max_length=100_000)]
    answered_by: Annotated[Text, Field(max_length=200)] | None = None


class PushResult(Model):
    """`dev.ocf.task.result.v1`: push the result of an ended execution again."""

    project_id: ProjectId
    execution_id: ExecutionId
    requested_by: Annotated[Text, Field(max_length=200)] | None = None


class CommentEnd(Model):
    """`dev.ocf.task.comment.v1`: say the end of an execution on its forge: a comment, the end of its commit status."""

    project_id: ProjectId
    execution_id: ExecutionId


class SessionCommand(Model):
    """Fields of the four session commands."""

    project_id: ProjectId
    session_id: SessionId
    requested_by: Annotated[Text, Field(max_length=200)] | None = None


class SessionCreate(SessionCommand):
    """`dev.ocf.session.create.v1`: create a conversation and its workspace, empty or from a finished execution."""

    from_execution_id: ExecutionId | None = None
    workspace: Workspace = EmptyWorkspace()
    ttl_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    labels: Labels = {}


class SessionAttach(SessionCommand):
    """`dev.ocf.session.attach.v1`: a client watches the session and may send follow-ups."""

    client_id: Annotated[str, Field(min_length=1, max_length=200)]


class SessionDetach(SessionCommand):
    """`dev.ocf.session.detach.v1`: a client no longer watches; the session stays."""

    client_id: Annotated[str, Field(min_length=1, max_length=200)]


class SessionDestroy(SessionCommand):
    """`dev.ocf.session.destroy.v1`: remove every trace of the session."""
