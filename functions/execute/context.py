"""Worker context: settings, model client, warm servers and boundary, shared by all runs of this process."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from pydantic import SecretStr

from ocf.events.base_model import Sealed
from ocf.events.command_payloads import Execute, Limits
from ocf.events.errors import SealError, Unavailable
from ocf.functions.core import syscalls
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.task_limits import effective_limit
from ocf.functions.execute.agent.available_memory import available_memory
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.warm_pool import MIN_FREE_BYTES, WarmPool
from ocf.functions.execute.agent.warm_server import WarmServerConfig
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.execute.sandbox import policy
from ocf.functions.execute.sandbox.isolation_boundary import Boundary
from ocf.functions.models.endpoint_check import BadEndpoint
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.resolve import ModelSettings, NoModel, model_settings, resolve
from ocf.functions.observability import metrics
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.settings.settings import Settings
from ocf.functions.workers import parent_channel, state_folders

log = structlog.get_logger()


@dataclass
class WorkerContext:
    """State shared by all runs of one worker."""

    deps: Dependencies
    binary: Path | None
    sandboxed: bool
    models: ModelSettings
    slots: WarmPool
    boundary: Boundary

    def opened(self, sealed: Sealed, project: str) -> SecretStr:
        """Open a sealed secret.

        Raises:
            SealError: it cannot be opened.
        """
        if self.deps.keyring is None:
            raise SealError("the key is sealed, and this worker has no ENCRYPTION_KEY")
        return SecretStr(self.deps.keyring.open(sealed, project))

    def target(self, task: Execute) -> ModelTarget:
        """Return the model of a task.

        Raises:
            SealError: its key cannot be opened.
            NoModel, BadEndpoint: it cannot be reached.
        """
        sealed = task.model.api_key if task.model else None
        key = self.opened(sealed, task.project_id) if sealed else None
        return resolve(task.model, self.models, key)

    def server_spec(self, limits: Limits) -> ServerSpec:
        """Return the server settings for a task with these limits; its models come with the task."""
        return server_spec(self.deps.settings, self.binary, sandboxed=self.sandboxed, limits=limits)

    async def opencode_present(self) -> None:
        """Check readiness: the agent is installed.

        Raises:
            Unavailable: it is not.
        """
        if self.binary is None or not self.binary.is_file():
            raise Unavailable(f"OpenCode is not at {self.binary}; set OPENCODE_BIN")

    async def boundary_in_force(self) -> str:
        """Check that the agent's container answers; return the boundary between executions, for display."""
        if self.boundary.host is not None:
            await self.boundary.host.check()
        return self.boundary.description

    async def workspace_writable(self) -> None:
        """Check readiness: runs can have files.

        Raises:
            Unavailable: STATE_DIR cannot be written.
        """
        self.boundary.folders.check()
        probe = self.deps.settings.state_dir / ".writable"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise Unavailable(f"STATE_DIR {probe.parent}: {error.strerror}") from None


@asynccontextmanager
async def open_context(deps: Dependencies) -> AsyncIterator[WorkerContext]:
    """Open the context of a worker, and close it at the end.

    Raises:
        SandboxUnavailable: `SANDBOX=required`, and this kernel does not support it.
    """
    settings = deps.settings
    support = policy.sandbox_support()
    sandboxed = policy.decide(settings.sandbox, support)
    if settings.sandbox == "preferred" and support.missing:
        # The operator may have chosen it on another machine, so this one reports what it lacks.
        log.warning("sandbox incomplete", action="sandbox.incomplete", sandboxed=sandboxed, missing=support.missing)
    syscalls.protect_self()
    async with state_folders.locked(settings.state_dir) as leftovers:
        if settings.agent_host_socket is not None:
            os.umask(0o002)  # the agent's container is another user of the same group
        boundary = Boundary(settings, lambda project: _busy(deps, project))
        log.info("boundary", action="boundary.in_force", boundary=boundary.description)
        tidying = asyncio.create_task(_tidy(leftovers, boundary))
        upstream = Upstream(deps.clock, read_timeout=settings.model_silence_seconds)
        models = model_settings(settings)
        slots = _slots(deps, upstream, models, boundary, sandboxed=sandboxed)
        slots.start()
        metrics.warm_slots.set_function(lambda: int(slots.ready))
        try:
            yield WorkerContext(deps, settings.opencode_bin, sandboxed, models, slots, boundary)
        finally:
            await cancel_and_wait([tidying])
            await slots.close()
            if boundary.host is not None:
                boundary.host.close()
            await upstream.close()


async def _tidy(leftovers: list[Path], boundary: Boundary) -> None:
    """Remove the files, and then release the users, of dead processes."""
    await state_folders.remove_leftovers(leftovers)
    if boundary.users is not None:
        await boundary.users.recover()


def server_spec(settings: Settings, binary: Path | None, *, sandboxed: bool, limits: Limits) -> ServerSpec:
    """Return server settings without directory, home and model proxy, which each server has of its own."""
    nowhere = settings.state_dir
    return ServerSpec(
        binary=binary,
        directory=nowhere,
        home=nowhere,
        model_proxy_url="",
        model_proxy_token="",
        models=(),
        sandboxed=sandboxed,
        max_processes=effective_limit(limits, "max_processes", settings),
        max_memory_bytes=effective_limit(limits, "max_memory_bytes", settings),
        tools=tools(binary),
    )


def tools(binary: Path | None) -> tuple[Path, ...]:
    """Return executables that the agent's own tools need: OpenCode's grep and glob would download ripgrep.

    Ripgrep is looked up on PATH and among the npm packages that OpenCode's executable came with.
    """
    found = shutil.which("rg")
    if found is not None:
        return (Path(found),)
    packages = binary.resolve().parents[2] if binary is not None and len(binary.parents) > 2 else None
    return tuple(packages.glob("@vscode/ripgrep-*/bin/rg"))[:1] if packages is not None else ()


async def _busy(deps: Dependencies, project: str) -> bool:
    """Return whether an execution of `project` runs or waits."""
    async for record in deps.records.maybe_open(project=project):
        if not record.terminal:
            return True
    return False


def _slots(
    deps: Dependencies, upstream: Upstream, models: ModelSettings, boundary: Boundary, *, sandboxed: bool
) -> WarmPool:
    settings = deps.settings
    spec = server_spec(settings, settings.opencode_bin, sandboxed=sandboxed, limits=Limits())
    size = settings.warm_slots
    try:
        target = resolve(None, models)
        spec = replace(spec, models=(AgentModel.of(target),))
    except (NoModel, BadEndpoint):
        size = 0  # no model is known in advance; each task brings its own

    async def make_model_proxy() -> ModelProxy:
        return await ModelProxy(upstream, deps.clock).start()

    plan = WarmServerConfig(
        boundary.slots, spec, make_model_proxy, boundary.users, parent_channel.boot_turn, parent_channel.demand_boot
    )
    # The agent's container has a limit of its own, and nothing else runs there.
    free = available_memory if boundary.host is None else lambda: MIN_FREE_BYTES
    return WarmPool(plan, deps.clock, wanted=size > 0, free=free)
