"""Setup of a workspace: the task's script before the first prompt, and the layer that is kept of its result."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import structlog

from ocf.events.command_payloads import Setup
from ocf.events.errors import NotYetKnown, Retry
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, status_draft
from ocf.events.ports import Clock, ObjectStore
from ocf.functions import workspace
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.object_deletion import setup_key
from ocf.functions.execute.agent import config
from ocf.functions.execute.agent.server import AgentServer, policy, reached
from ocf.functions.execute.attempt.workspace_source import WorkspaceInput
from ocf.functions.execute.sandbox.process import AgentFailed, AgentProcess, ProcessSpec, start_process

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]

#: Pieces of output that wait for the publisher; then the script waits.
_QUEUED = 16
_TICK_SECONDS = 1.0


class WorkspaceSetup:
    """The setup of one run.

    Args:
        setup: the task's.
        project: owns the kept layers.
        origin: the workspace.
        store: holds the layers.
        folder: scratch space out of the agent's reach.
    """

    def __init__(self, setup: Setup, project: str, origin: WorkspaceInput, store: ObjectStore, folder: Path) -> None:
        self._setup = setup
        self._origin = origin
        self._store = store
        self._folder = folder
        self._limits = origin.limits
        self._key: str | None = None
        if setup.cache_key is not None and not origin.shared:
            # Another source with the same key must not get these files; a token is no part of the source.
            source = origin.source.model_dump(mode="json", exclude={"token", "keep_ignored", "ref", "depth"})
            identity = json.dumps([setup.cache_key, setup.run, source], sort_keys=True)
            self._key = setup_key(project, hashlib.sha256(identity.encode()).hexdigest())
        #: Whether a kept layer replaces the script.
        self.restored = False

    async def layer(self, emit: Emit) -> Path | None:
        """Return the kept layer, unpacked in a folder of its own; None: the script has to run."""
        if self._key is None:
            return None
        archive, folder = self._folder / "layer.tar.zst", self._folder / "layer"
        try:
            await self._fetch(self._key, archive)
            unpacked = await workspace.unpack(archive, folder, self._limits)
        except NotYetKnown:
            return None
        except (Retry, OSError, workspace.InvalidWorkspace) as error:
            await emit(status_draft(f"the kept setup cannot be used: {error}", "setup"))
            return None
        finally:
            archive.unlink(missing_ok=True)
        self.restored = True
        await emit(status_draft(f"setup restored: {unpacked.files} files, {unpacked.content_bytes} bytes", "setup"))
        return folder

    async def _fetch(self, key: str, archive: Path) -> None:
        size = 0
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with archive.open("wb") as file:
            async for piece in self._store.stream(key):
                size += len(piece)
                if size > self._limits.max_bytes:
                    raise workspace.WorkspaceTooLarge(f"it is longer than {self._limits.max_bytes} bytes")
                file.write(piece)

    async def run(self, server: AgentServer, clock: Clock, emit: Emit, on_activity: Callable[[], None]) -> None:
        """Run the script as the agent would: same user, sandbox, environment and limits.

        Raises:
            AgentFailed: `setup_failed`, it ended with another code than 0 or ran too long.
        """
        await emit(status_draft("running the setup", "setup"))
        output: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(_QUEUED)
        began = clock.monotonic()
        process = await start_process(
            _process(self._setup.run, server), on_output=lambda name, data: output.put((name, data))
        )
        ending = asyncio.create_task(_end_of(process, output))
        decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        try:
            while True:
                if clock.monotonic() - began > self._setup.timeout_seconds:
                    raise _failed(f"setup ran longer than {self._setup.timeout_seconds} s", process)
                on_activity()  # a silent script has a limit of its own
                try:
                    async with asyncio.timeout(_TICK_SECONDS):
                        piece = await output.get()
                except TimeoutError:
                    continue
                if piece is None:
                    break
                if text := decoders[piece[0]].decode(piece[1]):
                    await emit(Draft(type=ChunkType(piece[0]), data=text, merge_key=f"setup:{piece[0]}"))
            code = await process.exited()
        finally:
            await cancel_and_wait([ending])
            await process.stop(0.3)
        if process.limit_hit is not None:
            hit = process.limit_hit
            raise _failed(f"setup was ended: {hit.what} {hit.value} over the limit of {hit.limit}", process)
        if code != 0:
            raise _failed(f"setup ended with code {code}", process)
        await emit(status_draft(f"setup done in {clock.monotonic() - began:.1f} s", "setup"))

    async def keep(self, prepared: workspace.Prepared, emit: Emit) -> None:
        """Store what the script has made; a failure is stated and does not end the run.

        Not in the workspace that a session has saved: the agent has worked there before.
        """
        if self._key is None or self._origin.continued:
            return
        archive = self._folder / "made.tar.zst"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            packed = await workspace.pack_layer(prepared, archive)
            if packed is None:
                await emit(status_draft("the setup is not kept: it removed files of the workspace", "setup"))
            elif packed.skipped_count:
                path, why = packed.skipped[0]
                await emit(status_draft(f"the setup is not kept: {workspace.readable(path)}: {why}", "setup"))
            else:
                await self._store.put_file(self._key, archive, content_type="application/zstd")
                await emit(status_draft(f"setup kept: {packed.files} files, {packed.size} bytes stored", "setup"))
        except (Retry, OSError, workspace.InvalidWorkspace) as error:
            await emit(status_draft(f"the setup is not kept: {error}", "setup"))
        finally:
            archive.unlink(missing_ok=True)


def _process(script: str, server: AgentServer) -> ProcessSpec:
    """Return the process of the script, without access to the model and to OpenCode's own API."""
    spec, binary = server.spec, server.spec.binary
    assert binary is not None
    environment = config.environment(spec, server.password)
    rules = policy(spec, binary, server.port)
    return ProcessSpec(
        argv=("bash", "-e", "-c", script),
        cwd=spec.directory,
        env={name: value for name, value in environment.items() if not name.startswith("OPENCODE_")},
        sandbox=None if rules is None else replace(rules, connect_ports=spec.connect_ports, bind_port=None),
        max_processes=spec.max_processes,
        max_memory_bytes=spec.max_memory_bytes,
        user=spec.user,
        paths=reached(spec, binary),
    )


async def _end_of(process: AgentProcess, output: asyncio.Queue[tuple[str, bytes] | None]) -> None:
    await process.exited()
    await process.output_read()
    await output.put(None)


def _failed(message: str, process: AgentProcess) -> AgentFailed:
    return AgentFailed(Reason.SETUP_FAILED, message, tuple(process.stderr_tail))
