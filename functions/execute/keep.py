"""What remains of a run: its artifacts in S3, and its session's new state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from events.errors import Conflict, NotYetKnown, Retry
from events.facts import Artifact, DiffSummary
from events.models import Execute
from events.output import ChunkType, Draft
from events.ports import ObjectInfo
from events.session_record import Saved, Session, session_prefix
from functions import workspace
from functions.common.sessions import Sessions
from functions.execute.outcome import Kept
from functions.execute.publisher import Hold
from functions.execute.shop import Shop

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]

PATCH, ARCHIVE, CONVERSATION = "workspace.patch", "workspace.tar.zst", "conversation.json"
_TYPES = {PATCH: "text/x-patch", ARCHIVE: "application/zstd", CONVERSATION: "application/json"}


class Keeper:
    """Stores what one run left. `folder` is scratch space of its own.

    `hold` is asked before each object: a later attempt's must not be overwritten by one that has lost the execution.
    """

    def __init__(self, shop: Shop, task: Execute, folder: Path, hold: Hold) -> None:
        self._hold = hold
        self._shop = shop
        self._task = task
        self._folder = folder

    async def keep(
        self, prepared: workspace.Prepared, conversation: dict[str, object] | None, emit: Emit, seconds: float
    ) -> Kept:
        """Store patch, archive and conversation, and the session's state.

        What cannot be stored in time is said, and does not hold the end up.
        """
        diff = DiffSummary()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            diff, _ = await workspace.conclude(prepared, self._folder / PATCH)
            await workspace.pack(prepared, self._folder / ARCHIVE)
            if conversation is not None:
                text = json.dumps(conversation)  # ASCII: half a surrogate pair has no other form
                await asyncio.to_thread((self._folder / CONVERSATION).write_text, text)
            async with asyncio.timeout(seconds):
                artifacts = await self._artifacts(f"{self._task.project_id}/{self._task.execution_id}", "")
                await self._session(conversation)
            return Kept(diff, tuple(artifacts))
        except (OSError, Retry, workspace.InvalidWorkspace) as error:  # TimeoutError is one of the first
            said = f"the workspace could not be stored: {error or 'S3 did not answer in time'}"
            await emit(Draft(type=ChunkType.GAP, data=said, detail={"reason": "not_stored"}))
            return Kept(diff)

    async def _artifacts(self, prefix: str, start: str, names: tuple[str, ...] = tuple(_TYPES)) -> list[Artifact]:
        found = []
        for name in names:
            path = self._folder / name
            if path.is_file():
                info = await self._put(f"{prefix}/{start}{name}", path, _TYPES[name])
                found.append(Artifact(name=f"{start}{name}", size=info.size, sha256=info.sha256 or ""))
        return found

    async def _put(self, key: str, path: Path, content_type: str) -> ObjectInfo:
        """Again and again: an outage of S3 delays the end of a run, and does not change it."""
        while True:
            if not await self._hold.sure():
                raise Conflict("another worker has it")
            try:
                return await self._shop.parts.store.put_file(key, path, content_type=content_type)
            except Retry as error:
                log.warning("artifact not stored yet", action="run.artifact_retry", key=key, reason=str(error))
                await self._shop.parts.clock.sleep(1.0)

    async def _session(self, conversation: dict[str, object] | None) -> None:
        """Save the session's state under names of this execution's; the record then points to them, or not at all."""
        task, parts = self._task, self._shop.parts
        if task.session_id is None or conversation is None:
            return
        prefix = session_prefix(task.project_id, task.session_id)
        start = f"{task.execution_id}."
        archive, talk = await self._artifacts(prefix, start, (ARCHIVE, CONVERSATION))
        info = conversation.get("info")
        saved = Saved(
            execution_id=task.execution_id,
            conversation_id=str(info.get("id", "")) if isinstance(info, dict) else "",
            conversation=talk,
            workspace=archive,
        )

        def pointed(found: Session) -> Session:
            return found.model_copy(update={"saved": saved})

        try:
            await Sessions(parts.sessions, parts.clock).change(task.project_id, task.session_id, pointed)
        except NotYetKnown:
            await parts.store.delete_prefix(f"{prefix}/")  # destroyed meanwhile
            return
        async for old in parts.store.list(f"{prefix}/"):
            if not old.key.startswith(f"{prefix}/{start}"):
                await parts.store.delete_prefix(old.key)
