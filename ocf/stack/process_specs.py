"""Processes of the stack: one table, made from data directory, keys, ports and environment."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ocf.functions.models.offline_model import OfflineSpec
from ocf.functions.runtime.nats_auth import public_key
from ocf.functions.settings.settings import Settings
from ocf.functions.workers.sealed_environment import needs_parent
from ocf.stack import tools
from ocf.stack.keys import Keys
from ocf.stack.nats_config import nats_argv
from ocf.stack.ports import LOOPBACK
from ocf.stack.processes import Spec
from ocf.stack.seaweedfs_config import WEED_GRPC_PORTS, WEED_PORTS, weed_argv

PORTS = ("gateway", "execute", "dispatcher", "model", "nats", "nats_ws", *WEED_PORTS, *WEED_GRPC_PORTS)
CONTROL = ("submit", "cancel", "cleanup", "session", "archive", "history", "trigger", "result", "gateway")
#: Only execute calls models: no other process gets their keys.
MODEL_KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENCODE_API_KEY")
#: Only the dispatcher signs requests to the outside.
SINK_SECRETS = "EVENT_SINK_SECRETS"
#: Only setup and the control process open the history.
DATABASE = "DATABASE_URL"
REAL_MODEL = (*MODEL_KEYS, "OCF_MODEL", "OCF_MODEL_ENDPOINT")
#: With either of these variables callers have tokens, and projects of their own.
TENANTS = ("GATEWAY_JWT_SECRET", "GATEWAY_JWKS_URL")
OFFLINE_NOTICE = "offline scripted model"
#: Seconds that running work may continue after Ctrl-C before its worker is ended (the next start retries it).
_DRAIN_SECONDS = "3"
_PYTHON = {"PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Layout:
    """Paths below the data directory."""

    data_dir: Path

    def folder(self, name: str) -> Path:
        """Return a directory of the stack."""
        return self.data_dir / name

    @property
    def logs(self) -> Path:
        """Return the directory of the log files."""
        return self.folder("logs")

    @property
    def nats_config(self) -> Path:
        """Return the path of nats-server's configuration."""
        return self.data_dir / "nats.conf"

    @property
    def s3_config(self) -> Path:
        """Return the path of the S3 server's identities file."""
        return self.data_dir / "s3.json"

    @property
    def functions_creds(self) -> Path:
        """Return the path of the functions' NATS credentials."""
        return self.data_dir / "functions.creds"

    @property
    def backend_creds(self) -> Path:
        """Return the path of a backend's NATS credentials."""
        return self.data_dir / "backend.creds"

    @property
    def ports(self) -> Path:
        """Return the path of the saved ports."""
        return self.data_dir / "ports.json"

    @property
    def answer(self) -> Path:
        """Return the path of the line of `ocf up --json`; the file exists while the stack is up."""
        return self.data_dir / "stack.json"

    def folders(self) -> tuple[Path, ...]:
        """Return every directory that the processes expect."""
        return tuple(self.folder(name) for name in ("logs", "nats", "s3", "workspaces", "state"))


@dataclass(frozen=True)
class Plan:
    """One start of the stack: `environ` is the user's environment."""

    layout: Layout
    keys: Keys
    ports: Mapping[str, int]
    environ: Mapping[str, str]
    bucket: str
    #: Random id of this start, which distinguishes its gateway from any other server on the port.
    instance: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def offline(self) -> bool:
        """Return whether the offline scripted model answers, because no real one is configured."""
        return not any(self.environ.get(name) for name in REAL_MODEL)

    def url(self, name: str, scheme: str = "http") -> str:
        """Return `scheme://127.0.0.1:port` of a process."""
        return f"{scheme}://{LOOPBACK}:{self.ports[name]}"

    def answer(self) -> dict[str, str | None]:
        """Return the line of `ocf up --json` (contract: Command line)."""
        return {
            "gateway": self.url("gateway"),
            "nats": self.url("nats", "nats"),
            "nats_ws": self.url("nats_ws", "ws"),
            "nats_creds": str(self.layout.backend_creds),
            "s3_endpoint": self.url("s3"),
            "s3_bucket": self.bucket,
            "s3_access_key": self.keys.s3_access_key,
            "s3_secret_key": self.keys.s3_secret_key,
            "console": self.url("gateway") + "/" if tools.console() else None,
            "data_dir": str(self.layout.data_dir),
        }


def environment(plan: Plan) -> dict[str, str]:
    """Return the environment of every function: the user's without model keys, and the stack's addresses.

    The user's settings win where the user may choose (limits, sandbox, model); addresses and keys are the stack's.
    """
    layout, keys = plan.layout, plan.keys
    # Callers with tokens are tenants, not the user of this machine, so they may not read the user's files by default.
    theirs = not any(plan.environ.get(name) for name in TENANTS)
    sources = ",".join(dict.fromkeys((str(Path.cwd()), str(Path.home()), tempfile.gettempdir()))) if theirs else ""
    functions = {name: f"{plan.url('gateway')}/fn/{name}" for name in CONTROL if name != "gateway"}
    functions["execute"] = f"{plan.url('execute')}/fn/execute"
    chosen = {
        "WORKSPACE_SOURCES": sources,
        "ARTIFACT_WAIT": "0",  # on one machine the user sees that S3 is away, and can cancel
        "DRAIN_SECONDS": _DRAIN_SECONDS,
        "ENCRYPTION_KEY": keys.encryption_key,
        "LOG_LEVEL": "info",
        "CONSOLE_URL": plan.url("gateway"),
        "WARM_SLOTS": "1",
        "SANDBOX": "preferred" if sys.platform == "darwin" else "required",
    }
    fixed = {
        "HOST": LOOPBACK,
        "WORKSPACE_DIR": str(layout.folder("workspaces")),
        "STATE_DIR": str(layout.folder("state")),
        "PRIVATE_DIRS": str(layout.data_dir),
        "NATS_URL": plan.url("nats", "nats"),
        "NATS_CREDS": str(layout.functions_creds),
        "NATS_WS_URL": plan.url("nats_ws", "ws"),
        "NATS_ACCOUNT": public_key(keys.trust.account),
        "S3_ENDPOINT_URL": plan.url("s3"),
        "S3_BUCKET": plan.bucket,
        "AWS_ACCESS_KEY_ID": keys.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": keys.s3_secret_key,
        "DISPATCH_TOKEN": keys.dispatch_token,
        "FUNCTION_URLS": ",".join(f"{name}={url}" for name, url in functions.items()),
        **_PYTHON,
        **_python_path(),
        **({"OCF_OFFLINE_ENDPOINT": plan.url("model") + "/v1"} if plan.offline else {}),
        **({"CONSOLE_DIR": str(found)} if (found := tools.console()) else {}),
    }
    if (binary := tools.opencode()) is not None:
        chosen["OPENCODE_BIN"] = str(binary)
    others = (*MODEL_KEYS, SINK_SECRETS, DATABASE, "K_SINK", "PORT")
    given = {name: value for name, value in plan.environ.items() if name not in others}
    return {**given, **{k: v for k, v in chosen.items() if not given.get(k)}, **fixed}


def database(plan: Plan) -> dict[str, str]:
    """Return the setting of the history's database: the user's, or a file in the data directory."""
    return {DATABASE: plan.environ.get(DATABASE) or f"sqlite:///{plan.layout.data_dir}/history.db"}


def settings_of(plan: Plan) -> Settings:
    """Return the functions' settings for `ocf doctor`: those of all processes together."""
    keys = {name: plan.environ.get(name, "") for name in (*MODEL_KEYS, SINK_SECRETS)}
    given = {**environment(plan), **keys, **database(plan), "PORT": str(plan.ports["gateway"])}
    names = {str(field.alias) for field in Settings.model_fields.values()}
    # A variable of this process that the functions do not get must not appear as theirs.
    unset = {name: field.get_default() for field in Settings.model_fields.values() if (name := str(field.alias))}
    return Settings.model_validate(unset | {name: value for name, value in given.items() if value and name in names})


def fork_server_environment(plan: Plan) -> dict[str, str]:
    """Return the fork server's environment: enough to import. Its children get the rest one by one."""
    return {**_plain(plan), **_PYTHON, **_python_path()}


def _plain(plan: Plan) -> dict[str, str]:
    return {name: plan.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in plan.environ}


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": str(tools.CHECKOUT)} if tools.IN_CHECKOUT else {}


def table(plan: Plan) -> tuple[Spec, ...]:
    """Return the processes. Those of one stage start together; a stage begins when the previous one is ready."""
    plain = _plain(plan)
    layout, ports = plan.layout, dict(plan.ports)
    python = environment(plan)

    def row(name: str, stage: int, argv: tuple[str, ...], env: Mapping[str, str], **more: object) -> Spec:
        values: dict[str, object] = {"port": ports.get(name, 0), "cwd": layout.data_dir, **more}
        return Spec(name=name, argv=argv, env=env, stage=stage, log=layout.logs / f"{name}.log", **values)  # type: ignore[arg-type]

    def ours(name: str, stage: int, module: str, env: Mapping[str, str], **more: object) -> Spec:
        return row(name, stage, (sys.executable, "-m", module), env, module=module, **more)

    def function(name: str, target: tuple[str, ...], port: str, extra: Mapping[str, str]) -> Spec:
        env = {**python, **extra, "FUNCTION_TARGET": ",".join(target), "PORT": str(ports[port])}
        more = {"parent": needs_parent(env), "port": ports[port], "path": "/ready", "grace": 8.0}
        return ours(name, 2, "ocf.functions.runtime.serve", env, **more)

    keys = {name: plan.environ[name] for name in MODEL_KEYS if plan.environ.get(name)}
    seed = {**database(plan), "NATS_SIGNING_SEED": plan.keys.trust.viewer_signing, "OCF_INSTANCE": plan.instance}
    s3 = layout.folder("s3")
    weed = weed_argv(tools.require("weed"), s3, layout.s3_config, ports, plan.bucket)
    signing = {SINK_SECRETS: plan.environ.get(SINK_SECRETS, "")}
    dispatcher = {**python, **signing, "PORT": str(ports["dispatcher"])}
    rows = [
        row("nats", 0, nats_argv(tools.require("nats-server"), layout.nats_config), plain, greeting=b"INFO"),
        row("s3", 1, weed, plain, cwd=s3, path="/healthz"),
        ours("setup", 1, "ocf.functions.runtime.setup", {**python, **database(plan)}, once=True),
        function("control", CONTROL, "gateway", seed),
        function("execute", ("execute",), "execute", keys),
        ours("dispatcher", 2, "ocf.functions.dispatcher.main", dispatcher, path="/ready", grace=8.0),
    ]
    if plan.offline:
        rows.insert(1, row("model", 1, _offline_argv(ports["model"]), plain, path="/health"))
    return tuple(rows)


def _offline_argv(port: int) -> tuple[str, ...]:
    tools.require("aimock")
    return OfflineSpec(tools.require("node"), tools.home(), (tools.DATA / "model",), port=port).argv()
