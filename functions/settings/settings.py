"""Settings: one frozen model, read once at start, printed by `ocf doctor` with secrets masked.

The names are the environment variables of docs/reference/configuration.md (contract: Environment).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ocf.events.sealing import parse_key
from ocf.events.subjects import PROJECT_PATTERN
from ocf.functions.settings import event_sinks, host_rules
from ocf.functions.settings import retention_rules as retention
from ocf.functions.settings.event_sinks import Sink
from ocf.functions.settings.retention_rules import RetentionRule

_Number = TypeVar("_Number", int, float)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _split(value: object) -> object:
    return tuple(_parts(value)) if isinstance(value, str) else value


#: A comma-separated list.
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Settings of every process. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=True, env_ignore_empty=True)

    port: int = Field(3003, alias="PORT", ge=0, le=65535, description="port of this process")
    host: str = Field("127.0.0.1", alias="HOST", description="address of this process")
    function_target: str = Field("", alias="FUNCTION_TARGET", description="functions of this process, comma separated")
    project_id: str = Field(
        "default", alias="PROJECT_ID", pattern=PROJECT_PATTERN, description="project of requests that name none"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="LOG_LEVEL", description="debug, info, warning or error"
    )
    worker_id: str = Field("", alias="WORKER_ID", description="name of this worker; host name and pid when empty")

    workspace_dir: Path = Field(Path("/workspace"), alias="WORKSPACE_DIR", description="shared volume")
    workspace_sources: CommaList = Field(
        (), alias="WORKSPACE_SOURCES", description="allowed roots of `directory` and file:// sources"
    )
    private_dirs: CommaList = Field(
        (),
        alias="PRIVATE_DIRS",
        description="directories that are never a source, such as the data of the embedded stack",
    )
    state_dir: Path = Field(Path("/tmp/ocf"), alias="STATE_DIR", description="private files of running executions")  # noqa: S108

    max_concurrent_tasks: int = Field(
        5,
        alias="MAX_CONCURRENT_TASKS",
        ge=1,
        le=1000,
        description="concurrent executions, each in its own process; 1: in this process",
    )
    max_project_tasks: int = Field(
        0,
        alias="MAX_PROJECT_TASKS",
        ge=0,
        description="concurrent executions of one project over all workers, limited by the dispatcher; 0: no quota",
    )
    task_timeout: int = Field(
        3600,
        alias="TASK_TIMEOUT",
        ge=1,
        le=86_400,
        description="time limit of an execution; default and maximum of limits.timeout_seconds",
    )
    silence_timeout: int = Field(
        600,
        alias="SILENCE_TIMEOUT",
        ge=1,
        le=86_400,
        description="seconds without model or tool until `stalled`; default and maximum of limits.silence_seconds",
    )
    model_silence_seconds: int = Field(
        300,
        alias="MODEL_SILENCE_SECONDS",
        ge=1,
        le=86_400,
        description="seconds without a byte until a model's answer is aborted as a failure of its endpoint",
    )
    repeated_calls: int = Field(
        4,
        alias="REPEATED_CALLS",
        ge=0,
        le=100,
        description="equal tool calls with equal results in a row (or as many of each of two that alternate) until the "
        "agent gets a message, and then ends as `stalled`; 0: never",
    )
    model_provider_tools: CommaList = Field(
        (),
        alias="MODEL_PROVIDER_TOOLS",
        description="types of model providers' own tools (web_search, mcp, ...) that agents may use: NETWORK_ALLOW "
        "does not apply to them, and costs other than tokens are not counted",
    )
    max_memory_bytes: int = Field(
        4 * 1024**3,
        alias="MAX_MEMORY_BYTES",
        ge=64 * 1024**2,
        description="memory of one agent's process tree; default and maximum of limits.max_memory_bytes",
    )
    max_workspace_bytes: int = Field(
        10 * 1024**3,
        alias="MAX_WORKSPACE_BYTES",
        ge=1,
        description="size of one workspace and its home; default and maximum of limits.max_workspace_bytes",
    )
    max_output_bytes: int = Field(
        100 * 1024**2,
        alias="MAX_OUTPUT_BYTES",
        ge=1,
        description="size of one execution's output; default and maximum of limits.max_output_bytes",
    )
    max_processes: int = Field(
        512,
        alias="MAX_PROCESSES",
        ge=8,
        description="processes of one agent; default and maximum of limits.max_processes",
    )
    recording: Literal["off", "answers", "full"] = Field(
        "answers",
        alias="RECORDING",
        description="what is recorded of model calls, unless a task says otherwise: off, answers, full",
    )
    image_digest: str | None = Field(
        None,
        alias="IMAGE_DIGEST",
        max_length=200,
        description="digest of the container image, which manifests of archives then name",
    )
    artifact_wait: int = Field(
        900,
        alias="ARTIFACT_WAIT",
        ge=0,
        le=86_400,
        description="seconds that the end of an execution waits for S3 before its workspace is lost; 0: no limit",
    )
    drain_seconds: int = Field(
        3600, alias="DRAIN_SECONDS", ge=0, description="grace period of executions after SIGTERM"
    )

    opencode_bin: Path | None = Field(None, alias="OPENCODE_BIN", description="the OpenCode executable")
    opencode_api_key: SecretStr | None = Field(
        None, alias="OPENCODE_API_KEY", description="default key for `OCF_MODEL`; only execute needs it"
    )
    anthropic_api_key: SecretStr | None = Field(
        None, alias="ANTHROPIC_API_KEY", description="used if no model is named"
    )
    openai_api_key: SecretStr | None = Field(None, alias="OPENAI_API_KEY", description="used if no model is named")
    model: str | None = Field(
        None, alias="OCF_MODEL", pattern=r"^[a-z0-9][a-z0-9_-]*/\S+$", description="provider/model"
    )
    model_endpoint: str | None = Field(
        None,
        alias="OCF_MODEL_ENDPOINT",
        pattern=r"^https?://\S+$",
        description="OpenAI-compatible base URL of the default model",
    )
    models_file: Path | None = Field(
        None,
        alias="OCF_MODELS_FILE",
        description="JSON file with facts of models that the catalog does not have, in the form of `GET /models`",
    )
    offline_endpoint: str | None = Field(
        None, alias="OCF_OFFLINE_ENDPOINT", description="the embedded stack's scripted model, used if no other is set"
    )
    offline_key: SecretStr | None = Field(None, alias="OCF_OFFLINE_KEY", description="key of the scripted model")

    sandbox: Literal["required", "preferred", "off"] = Field(
        "required", alias="SANDBOX", description="required, preferred or off"
    )
    agent_uids: Annotated[tuple[int, int], NoDecode] = Field(
        (200_000, 265_535),
        alias="AGENT_UIDS",
        description="FIRST-LAST: ids of users and groups; each execution has one, if this process may change users",
    )
    allow_shared_user: bool = Field(
        False,
        alias="ALLOW_SHARED_USER",
        description="run the agents of several projects as one user, if this process may not change users",
    )
    allow_repository_config: bool = Field(
        False,
        alias="ALLOW_REPOSITORY_CONFIG",
        description="use the agents, skills and commands of the workspace; never its plugins and MCP servers",
    )
    allow_ci_changes: bool = Field(
        False,
        alias="ALLOW_CI_CHANGES",
        description="let a task's `result.allow_ci_changes` push changes of workflows, CI files and CODEOWNERS",
    )
    console_url: str | None = Field(
        None,
        alias="CONSOLE_URL",
        pattern=r"^https?://[^\s?#]+$",
        description="public URL of the console, for links in pull requests and comments; no links if empty",
    )
    agent_host_socket: Path | None = Field(
        None,
        alias="AGENT_HOST_SOCKET",
        description="socket of the agent's container in a shared folder; requires MAX_CONCURRENT_TASKS=1",
    )
    network_allow: CommaList = Field((), alias="NETWORK_ALLOW", description="hosts that tasks may request")
    warm_slots: int = Field(
        0,
        alias="WARM_SLOTS",
        ge=0,
        le=100,
        description="idle workers with an OpenCode server ready; 1 in the embedded stack",
    )
    session_ttl: int = Field(7 * 86_400, alias="SESSION_TTL", ge=1, description="seconds until an idle session expires")

    encryption_key: SecretStr | None = Field(None, alias="ENCRYPTION_KEY", description="32 bytes, base64")
    encryption_keys_retired: SecretStr | None = Field(
        None, alias="ENCRYPTION_KEYS_RETIRED", description="earlier keys, comma separated; only for decryption"
    )

    nats_url: str = Field("nats://127.0.0.1:4222", alias="NATS_URL", description="one or more servers, comma separated")
    nats_creds: Path | None = Field(None, alias="NATS_CREDS", description="credentials file")
    nats_ws_url: str | None = Field(None, alias="NATS_WS_URL", description="WebSocket URL for browsers")
    nats_signing_seed: SecretStr | None = Field(None, alias="NATS_SIGNING_SEED", description="mints viewer tokens")
    nats_account: str | None = Field(None, alias="NATS_ACCOUNT", description="public key of the account")
    dry_run: bool = Field(False, alias="DRY_RUN", description="functions in memory, for `ocf replay --to`")
    retention: Annotated[tuple[RetentionRule, ...], NoDecode] = Field(
        (),
        alias="RETENTION",
        description="PROJECT[/LABEL=VALUE]=7d/90d, comma separated: retention of output and archive",
    )

    project_budgets: Annotated[dict[str, float], NoDecode] = Field(
        {},
        alias="PROJECT_BUDGETS",
        description="PROJECT=USD, comma separated: budget of a project per day (UTC), then submits are rejected; "
        "`default` stands for every other project",
    )
    trigger_max_concurrent: Annotated[dict[str, int], NoDecode] = Field(
        {},
        alias="TRIGGER_MAX_CONCURRENT",
        description="PROJECT=N, comma separated: executions that the rules of a project have at a time, then events "
        "wait; `default` stands for every other project",
    )
    trigger_cooldown_seconds: Annotated[dict[str, int], NoDecode] = Field(
        {},
        alias="TRIGGER_COOLDOWN_SECONDS",
        description="PROJECT=SECONDS, comma separated: events so soon after a start by any rule of the project "
        "are dropped; `default` stands for every other project",
    )
    record_grace: int = Field(
        3600,
        alias="RECORD_GRACE",
        ge=0,
        description="seconds after which an ended execution leaves NATS, once archive and history have it",
    )
    idempotency_days: int = Field(
        7, alias="IDEMPOTENCY_DAYS", ge=1, le=365, description="days for which NATS remembers the id of an execution"
    )

    stream_replicas: int = Field(
        1, alias="STREAM_REPLICAS", ge=1, le=5, description="replicas of every stream and bucket; 3 in a NATS cluster"
    )

    output_stream_bytes: int = Field(
        0,
        alias="OUTPUT_STREAM_BYTES",
        ge=0,
        description="size of stream OCF_OUTPUT, beyond which the oldest output is removed; 0: unlimited",
    )

    s3_endpoint_url: str | None = Field(
        None, alias="S3_ENDPOINT_URL", pattern=r"^https?://\S+$", description="any S3-compatible store; AWS if empty"
    )
    s3_bucket: str = Field("ocf", alias="S3_BUCKET", min_length=3, max_length=63, description="bucket of the archive")
    aws_access_key_id: str | None = Field(None, alias="AWS_ACCESS_KEY_ID", description="boto3's default chain if empty")
    aws_secret_access_key: SecretStr | None = Field(
        None, alias="AWS_SECRET_ACCESS_KEY", description="boto3's default chain if empty"
    )
    aws_region: str = Field("us-east-1", alias="AWS_REGION", description="region of the bucket")

    database_url: SecretStr | None = Field(
        None,
        alias="DATABASE_URL",
        description="`postgresql://...` or `sqlite:////FILE` of the history; a file in `STATE_DIR` if empty",
    )

    dispatch_token: SecretStr | None = Field(
        None, alias="DISPATCH_TOKEN", description="shared by dispatcher and functions, which refuse events without it"
    )
    function_urls: str = Field(
        "http://{function}.ocf.svc.cluster.local",
        alias="FUNCTION_URLS",
        description="a URL in which {function} is replaced, `NAME=URL` pairs, or both, separated by commas",
    )
    k_sink: str | None = Field(None, alias="K_SINK", description="URL of sinks without one; set by Knative")
    dispatch_consumers: CommaList = Field(
        (), alias="DISPATCH_CONSUMERS", description="names of routes, `sinks`, or `sink-NAME`; all if empty"
    )
    dispatch_leader: str = Field(
        "", alias="DISPATCH_LEADER", description="key of the election among replicas; empty: each dispatcher leads"
    )
    dispatch_wake: bool = Field(
        False, alias="DISPATCH_WAKE", description="wake `execute` when a submit arrives, `history` later"
    )
    event_sinks: Annotated[tuple[Sink, ...], NoDecode] = Field(
        (),
        alias="EVENT_SINKS",
        description="[NAME:]PROJECT[/FACT+FACT]=URL, comma separated: receivers of life-cycle events; `*` is every "
        "project; without a URL, `K_SINK`",
    )
    event_sink_secrets: SecretStr | None = Field(
        None, alias="EVENT_SINK_SECRETS", description="NAME=whsec_..., comma separated: signing keys of the sinks"
    )
    event_sink_tries: int = Field(
        13, alias="EVENT_SINK_TRIES", ge=1, le=100, description="failed deliveries until an event becomes a dead letter"
    )

    gateway_jwt_secret: SecretStr | None = Field(None, alias="GATEWAY_JWT_SECRET", description="HS256")
    gateway_jwks_url: str | None = Field(
        None, alias="GATEWAY_JWKS_URL", pattern=r"^https?://\S+$", description="keys of the identity provider"
    )
    gateway_jwt_issuer: str | None = Field(None, alias="GATEWAY_JWT_ISSUER", description="required `iss`")
    gateway_jwt_audience: str | None = Field(None, alias="GATEWAY_JWT_AUDIENCE", description="required `aud`")
    cors_origins: CommaList = Field(
        (), alias="CORS_ORIGINS", description="origins that may call the gateway, comma separated"
    )
    rate_limit: int = Field(0, alias="RATE_LIMIT", ge=0, description="requests per second and caller; 0: none")
    console_dir: Path | None = Field(None, alias="CONSOLE_DIR", description="the built console")
    instance: str | None = Field(
        None,
        alias="OCF_INSTANCE",
        description="set by `ocf up`: the gateway's `/health` reports it to the command line",
    )

    otel_endpoint: str | None = Field(
        None, alias="OTEL_EXPORTER_OTLP_ENDPOINT", description="OTLP/HTTP receiver of traces; no traces if empty"
    )
    otel_traces_endpoint: str | None = Field(
        None,
        alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        description="its whole URL, path included; wins over the above",
    )
    otel_service_name: str = Field("ocf", alias="OTEL_SERVICE_NAME", description="prefix of the service name in traces")

    @field_validator("agent_uids", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        first, dash, last = value.partition("-")
        # System users end below 1000; the two highest numbers mean "nobody" and "no change".
        if not (dash and first.isdigit() and last.isdigit() and 1000 <= int(first) <= int(last) < 2**32 - 2):
            raise ValueError("must be FIRST-LAST, two numbers from 1000 up, for example 200000-265535")
        return int(first), int(last)

    @field_validator("agent_host_socket")
    @classmethod
    def _one_execution(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("max_concurrent_tasks") != 1:
            raise ValueError("the agent's container serves one execution at a time: set MAX_CONCURRENT_TASKS=1")
        return value

    @field_validator("network_allow")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for host in value:
                host_rules.parse_rule(host)
        except host_rules.InvalidRule as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("encryption_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_key(value.get_secret_value())
        return value

    @field_validator("encryption_keys_retired")
    @classmethod
    def _retired_keys(cls, value: SecretStr | None) -> SecretStr | None:
        for key in comma_list(value):
            parse_key(key, "ENCRYPTION_KEYS_RETIRED")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "sqlite:///")):
            raise ValueError("must begin with postgresql:// or sqlite:///")
        return value

    @field_validator("retention", mode="before")
    @classmethod
    def _rules(cls, value: object) -> object:
        return retention.rules(value) if isinstance(value, str) else value

    @field_validator("project_budgets", "trigger_max_concurrent", "trigger_cooldown_seconds", mode="before")
    @classmethod
    def _by_project(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in _parts(value)]
        if wrong := [name for name, _, usd in pairs if not name or not usd.replace(".", "", 1).isdecimal()]:
            raise ValueError(f"{wrong[0]!r} is not PROJECT=NUMBER, for example default=5,team-a=20")
        return {name: usd for name, _, usd in pairs}

    @field_validator("event_sinks", mode="before")
    @classmethod
    def _sinks(cls, value: object) -> object:
        return event_sinks.sinks(value) if isinstance(value, str) else value

    @field_validator("event_sink_secrets")
    @classmethod
    def _keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            event_sinks.keys(value.get_secret_value())
        return value

    def history_url(self) -> str:
        """Return the URL of the history's database."""
        url = self.database_url
        return url.get_secret_value() if url is not None else f"sqlite:///{self.state_dir}/history.db"

    def event_sink_keys(self) -> Mapping[str, tuple[bytes, ...]]:
        """Return the keys of `EVENT_SINK_SECRETS` by the name of the sink."""
        secret = self.event_sink_secrets
        return event_sinks.keys(secret.get_secret_value()) if secret is not None else {}


def of_project(table: Mapping[str, _Number], project: str) -> _Number | None:
    """Return the number of a project in a table `PROJECT=NUMBER`, or that of `default`, or None."""
    return table.get(project, table.get("default"))


def comma_list(secret: SecretStr | None) -> list[str]:
    """Split a secret that is a comma-separated list."""
    return _parts(secret.get_secret_value()) if secret is not None else []


def masked(settings: Settings) -> dict[str, object]:
    """Return the settings by environment variable, with secrets as asterisks."""
    values = {str(field.alias): getattr(settings, name) for name, field in Settings.model_fields.items()}
    return {name: "********" if isinstance(value, SecretStr) else value for name, value in values.items()}


def load() -> Settings:
    """Read the settings from this process's environment.

    Raises:
        pydantic.ValidationError: One or more settings are malformed.
    """
    return Settings()


def load_or_exit() -> Settings:
    """Read the settings; on an error print one line that names the variables, and exit with status 2."""
    try:
        return load()
    except ValidationError as error:
        _exit(error)


def _exit(error: ValidationError) -> NoReturn:
    # Omit the value, which may be a secret.
    problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
    sys.stderr.write(f"ocf: bad environment: {problems}\n")
    raise SystemExit(2)
