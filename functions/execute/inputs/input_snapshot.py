"""The input of a run: named in `input.json`, its files stored once per content (ADR 0025).

The files are packed beside the agent's first request. Until they are, no answer of the model reaches the agent, so they
are those from before its work.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import structlog

from ocf.events.command_payloads import Execute
from ocf.events.errors import Retry
from ocf.events.execution_ref import ExecutionRef
from ocf.events.input_manifest import INPUT, INPUT_CONVERSATION, TREE_BYTES, ExecutionInput
from ocf.functions import workspace
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.core.object_deletion import input_key, input_user, release_input
from ocf.functions.core.task_limits import effective_recording
from ocf.functions.execute.agent import config
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.models import catalog
from ocf.functions.observability import tracing
from ocf.functions.recording.line_types import Inputs
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()


class InputKeeper:
    """Names what a run begins from, packs its files, and stores them while the run goes on.

    `folder` is private to the run. A run never waits for S3 here, and does not fail without it: then the manifest has
    no input.
    """

    def __init__(self, deps: Dependencies, task: Execute, folder: Path) -> None:
        self._store, self._task, self._settings = deps.store, task, deps.settings
        self._ref = ExecutionRef(task.project_id, task.execution_id)
        self._archive = folder / "input.tar.zst"
        self._packing: asyncio.Task[None] | None = None
        self._storing: asyncio.Task[None] | None = None
        self._conversation: bytes | None = None
        self.found = ExecutionInput()

    def begin(self, known: Inputs, prepared: workspace.Prepared, server: AgentServer) -> None:
        """Note what the run begins from, and begin to pack its files."""
        clone = prepared.commit is not None
        self.found = ExecutionInput(
            source=known.source,
            commit=known.commit,
            clone=clone,
            session_id=self._task.session_id,
            workspace_of=known.workspace_of,
            conversation_of=known.conversation_of,
            agent=f"opencode {server.version}",
            catalog=_catalog(),
            configuration=_configuration(server.spec),
            image=self._settings.image_digest,
            environment=sorted(config.environment(server.spec, "")),
        )
        if effective_recording(self._task, self._settings) == "off":
            self.found = self.found.model_copy(update={"missing": "nothing is recorded of this execution"})
            return
        self._packing = asyncio.create_task(self._pack(prepared, clone=clone))

    async def _pack(self, prepared: workspace.Prepared, *, clone: bool) -> None:
        about: dict[str, object]
        try:
            with tracing.phase("keep input"):
                packed, digest = await workspace.pack_input(prepared, self._archive, TREE_BYTES, clone=clone)
            about = {"tree": digest, "tree_bytes": packed.size, "left_out": packed.skipped_count}
        except (OSError, workspace.InvalidWorkspace) as error:
            about = {"missing": str(error)}
        self.found = self.found.model_copy(update=about)

    async def packed(self) -> None:
        """Wait until the files are packed, or cannot be. The agent must change nothing before."""
        if self._packing is not None:
            await asyncio.wait({self._packing})

    def continued(self, conversation: bytes) -> None:
        """Note the conversation that the run continues."""
        self._conversation = conversation
        self.found = self.found.model_copy(update={"conversation": hashlib.sha256(conversation).hexdigest()})

    def store(self) -> None:
        """Begin to store it."""
        self._storing = asyncio.create_task(self._store_all())

    async def finish(self, seconds: float) -> None:
        """Wait until it is stored, for at most `seconds`. A concurrent deletion may have removed the tree."""
        if self._storing is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._storing
                await self._logged(self._store_tree())
        await self.close()

    async def close(self) -> None:
        """Stop packing and storing, and remove the local copy."""
        await cancel_and_wait([task for task in (self._packing, self._storing) if task is not None])
        self._archive.unlink(missing_ok=True)

    async def _store_all(self) -> None:
        await self._logged(self._describe_and_store())

    async def _describe_and_store(self) -> None:
        if self._packing is not None:
            await self._packing
        # In this order a crash leaves nothing that a deletion of the execution would not find.
        await release_input(self._store, self._ref, but=self.found.tree)  # an earlier attempt's
        about = self.found.model_dump_json(exclude_none=True).encode()
        await self._store.put(self._ref.object_key(INPUT), about, content_type="application/json")
        if self._conversation is not None:
            key = self._ref.object_key(INPUT_CONVERSATION)
            await self._store.put(key, self._conversation, content_type="application/json")
            self._conversation = None
        await self._store_tree()

    async def _store_tree(self) -> None:
        if self.found.tree is None:
            return
        key = input_key(self._ref.project, self.found.tree)
        await self._store.put(input_user(self._ref, self.found.tree), b"{}", content_type="application/json")
        if await self._store.head(key) is None:
            await self._store.put_file(key, self._archive, content_type="application/zstd")

    async def _logged(self, storing: Awaitable[None]) -> None:
        try:
            await storing
        except (Retry, OSError) as error:
            log.warning("input not stored", action="run.input_not_stored", reason=str(error))


def _configuration(spec: config.ServerSpec) -> str:
    """Return a digest of the agent's configuration, without what differs for each server."""
    plain = replace(spec, model_proxy_url="", model_proxy_token="", home=Path("/home"), directory=Path("/workspace"))
    return hashlib.sha256(json.dumps(config.configuration(plain), sort_keys=True).encode()).hexdigest()


@cache
def _catalog() -> str:
    return hashlib.sha256(catalog.FILE.read_bytes()).hexdigest()
