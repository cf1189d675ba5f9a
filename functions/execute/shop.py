"""What every run of this process shares: settings made ready, the way out to models, warm slots, who runs here."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from pydantic import SecretStr

from events.errors import SealError, Unavailable
from events.models import Execute, Limits, Sealed
from functions import metrics
from functions.common.limits import bound
from functions.composition import Parts
from functions.execute import sandbox
from functions.execute.agent_config import AgentModel, ServerSpec
from functions.execute.broker import Broker, Upstream
from functions.execute.slots import SlotPlan, SlotPool
from functions.models.endpoints import BadEndpoint
from functions.models.resolve import ModelSettings, NoModel, resolve
from functions.models.target import ModelTarget
from functions.settings import Settings
from functions.workspace import discard_tree

log = structlog.get_logger()


@dataclass
class Shop:
    """Shared by all runs of one worker."""

    parts: Parts
    binary: Path | None
    sandboxed: bool
    models: ModelSettings
    slots: SlotPool

    def opened(self, sealed: Sealed, project: str) -> SecretStr:
        """A sealed secret, opened. Raises SealError."""
        if self.parts.keyring is None:
            raise SealError("a sealed key came, and this worker has no ENCRYPTION_KEY")
        return SecretStr(self.parts.keyring.open(sealed, project))

    def target(self, task: Execute) -> ModelTarget:
        """The model of a task.

        Raises:
            SealError: its key cannot be opened.
            NoModel, BadEndpoint: it cannot be reached.
        """
        sealed = task.model.api_key if task.model else None
        key = self.opened(sealed, task.project_id) if sealed else None
        return resolve(task.model, self.models, key)

    def model_name(self, task: Execute) -> str | None:
        """How people see the task's model; None when it cannot be had (the run will say why)."""
        try:
            return self.target(task).display_name
        except (SealError, NoModel, BadEndpoint):
            return None

    def server_spec(self, limits: Limits) -> ServerSpec:
        """What a server for a task with these limits must be like; its models come with the task."""
        return server_spec(self.parts.settings, self.binary, sandboxed=self.sandboxed, limits=limits)

    async def opencode_present(self) -> None:
        """Readiness: the agent is installed."""
        if self.binary is None or not self.binary.is_file():
            raise Unavailable(f"OpenCode is not at {self.binary}; set OPENCODE_BIN")

    async def workspace_writable(self) -> None:
        """Readiness: runs can have files."""
        probe = self.parts.settings.state_dir / ".writable"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise Unavailable(f"STATE_DIR {probe.parent}: {error.strerror}") from None


def model_settings(settings: Settings) -> ModelSettings:
    """The operator's models."""
    return ModelSettings(
        model=settings.model,
        endpoint=settings.model_endpoint,
        api_key=settings.opencode_api_key,
        anthropic_api_key=settings.anthropic_api_key,
        openai_api_key=settings.openai_api_key,
        offline_url=settings.offline_endpoint,
    )


@asynccontextmanager
async def open_shop(parts: Parts) -> AsyncIterator[Shop]:
    """Made ready, and put away at the end.

    Raises:
        SandboxUnavailable: `SANDBOX=required`, and this kernel cannot.
    """
    settings = parts.settings
    support = sandbox.sandbox_support()
    sandboxed = sandbox.decide(settings.sandbox, support)
    if settings.sandbox == "preferred" and support.missing:
        # Whoever chose it on another machine has to hear what this one does not give.
        log.warning("sandbox incomplete", action="sandbox.incomplete", sandboxed=sandboxed, missing=support.missing)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    sandbox.protect_self()
    upstream = Upstream(parts.clock, read_timeout=settings.model_silence_seconds)
    models = model_settings(settings)
    slots = await _slots(parts, upstream, models, sandboxed=sandboxed)
    slots.start()
    metrics.warm_slots.set_function(lambda: slots.ready)
    try:
        yield Shop(parts, settings.opencode_bin, sandboxed, models, slots)
    finally:
        await slots.close()
        await upstream.close()


def server_spec(settings: Settings, binary: Path | None, *, sandboxed: bool, limits: Limits) -> ServerSpec:
    """A server without directory, home and broker, which each slot has of its own."""
    nowhere = settings.state_dir
    return ServerSpec(
        binary=binary,
        directory=nowhere,
        home=nowhere,
        broker_url="",
        broker_token="",
        models=(),
        sandboxed=sandboxed,
        max_processes=bound(limits, "max_processes", settings),
        max_memory_bytes=bound(limits, "max_memory_bytes", settings),
        tools=tools(binary),
    )


def tools(binary: Path | None) -> tuple[Path, ...]:
    """Executables the agent's own tools need: OpenCode's grep and glob call ripgrep, and would download it.

    It is looked for on PATH and among the npm packages that OpenCode's executable came with.
    """
    found = shutil.which("rg")
    if found is not None:
        return (Path(found),)
    packages = binary.resolve().parents[2] if binary is not None and len(binary.parents) > 2 else None
    return tuple(packages.glob("@vscode/ripgrep-*/bin/rg"))[:1] if packages is not None else ()


async def _slots(parts: Parts, upstream: Upstream, models: ModelSettings, *, sandboxed: bool) -> SlotPool:
    settings = parts.settings
    spec = server_spec(settings, settings.opencode_bin, sandboxed=sandboxed, limits=Limits())
    size = settings.warm_slots
    try:
        target = resolve(None, models)
        spec = replace(spec, models=(AgentModel(kind=target.kind, name=target.wire_model),))
    except (NoModel, BadEndpoint):
        size = 0  # nothing is known to warm for; each task brings its own model

    async def make_broker() -> Broker:
        return await Broker(upstream, parts.clock).start()

    folder = settings.state_dir / "slots"
    await discard_tree(folder)  # of an earlier process, whose agents died with it
    return SlotPool(SlotPlan(folder, spec, make_broker), size, parts.clock)
