"""What remains of a run: its artifacts in S3, and its session's new state."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from events.errors import Conflict, NotYetKnown, Retry
from events.facts import Artifact, DiffSummary
from events.models import Execute
from events.output import ChunkType, Draft
from events.ports import ObjectInfo
from events.refs import SessionRef
from events.session_record import Saved, Session
from functions import workspace
from functions.common.objects import delete_saved, delete_session
from functions.common.sessions import Sessions
from functions.execute.outcome import Kept
from functions.execute.publisher import Hold
from functions.execute.shop import Shop

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]
T = TypeVar("T")

PATCH, ARCHIVE, CONVERSATION = "workspace.patch", "workspace.tar.zst", "conversation.json"
_NAMED = 10
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
        self,
        prepared: workspace.Prepared,
        conversation: dict[str, object] | None,
        emit: Emit,
        seconds: float,
        *,
        keep_ignored: bool = False,
    ) -> Kept:
        """Store patch, archive (with `keep_ignored` what `.gitignore` excludes too), conversation, the session's state.

        What cannot be stored in time is said, and does not hold the end up.
        """
        diff = DiffSummary()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            diff, _ = await workspace.conclude(prepared, self._folder / PATCH)
            packed = await workspace.pack(prepared, self._folder / ARCHIVE, include_ignored=keep_ignored)
            if packed.skipped:
                await emit(_left_out(packed))
            if conversation is not None:
                text = json.dumps(conversation)  # ASCII: half a surrogate pair has no other form
                await asyncio.to_thread((self._folder / CONVERSATION).write_text, text)
            async with asyncio.timeout(seconds):
                artifacts = await self._artifacts(f"{self._task.project_id}/{self._task.execution_id}", "")
                await self._session(conversation, emit)
            return Kept(diff, tuple(artifacts))
        except (OSError, Retry, workspace.InvalidWorkspace) as error:  # TimeoutError is one of the first
            said = f"the workspace could not be stored: {error or 'S3 did not answer in time'}"
            await emit(_not_stored(said))
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
        store = self._shop.parts.store
        return await self._until_stored(
            lambda: store.put_file(key, path, content_type=content_type), action="run.artifact_retry", key=key
        )

    async def _changed(self, session: str, decide: Callable[[Session], Session | None]) -> Session:
        """The session's record, changed: what is stored and not pointed to would be lost."""
        sessions = Sessions(self._shop.parts.sessions, self._shop.parts.clock)
        return await self._until_stored(
            lambda: sessions.change(self._task.project_id, session, decide),
            but=NotYetKnown,
            action="run.session_retry",
            session_id=session,
        )

    async def _until_stored(
        self, store: Callable[[], Awaitable[T]], *, action: str, but: tuple[()] | type[Retry] = (), **about: str
    ) -> T:
        """Again and again: an outage of S3 or NATS delays the end of a run, and does not change it. `but` is raised."""
        while True:
            if not await self._hold.sure():
                raise Conflict("another worker has it")
            try:
                return await store()
            except Retry as error:
                if isinstance(error, but):
                    raise
                log.warning("not stored yet", action=action, reason=str(error), **about)
                await self._shop.parts.clock.sleep(1.0)

    async def _session(self, conversation: dict[str, object] | None, emit: Emit) -> None:
        """Save the session's state under names of this attempt's; the record then points to them, or not at all."""
        task, parts = self._task, self._shop.parts
        if task.session_id is None:
            return
        ref = SessionRef(task.project_id, task.session_id)
        names = (ARCHIVE,) if conversation is None else (ARCHIVE, CONVERSATION)
        archive, *talk = await self._artifacts(ref.prefix, f"{task.execution_id}.{secrets.token_hex(4)}.", names)
        before: list[Saved | None] = []

        def pointed(found: Session) -> Session | None:
            if not self._hold.held:
                raise Conflict("another worker has it")
            saved = self._saved(found, archive, talk, conversation)
            if saved is None:
                before.clear()
            elif saved != found.saved:  # else it was written by the last try, whose answer got lost
                before[:] = [found.saved]
            return None if saved is None else found.model_copy(update={"saved": saved})

        try:
            now = (await self._changed(task.session_id, pointed)).saved
        except NotYetKnown:
            await delete_session(parts.store, ref)  # destroyed meanwhile
            return
        if not before or now is None:
            for artifact in (archive, *talk):
                await delete_saved(parts.store, ref, artifact.name)
            why = "OpenCode did not give its conversation" if conversation is None else "this turn of it is over"
            await emit(_not_stored(f"the session stays as it was: {why}"))
            return
        # Only what the record pointed to until now: another attempt's may be on its way there.
        for name in _objects(before[0]) - _objects(now):
            await delete_saved(parts.store, ref, name)
        if conversation is None:
            await emit(_not_stored("OpenCode did not give its conversation: the session goes on from the one before"))

    def _saved(
        self, found: Session, archive: Artifact, talk: list[Artifact], conversation: dict[str, object] | None
    ) -> Saved | None:
        """The session's new state; None: it keeps the one it has."""
        if found.queue[:1] != [self._task.execution_id]:
            return None  # judged to be lost, or deleted: the next turn may have begun
        if conversation is None:
            # The files are new; a conversation that is one turn behind is better than none.
            newer = {"execution_id": self._task.execution_id, "workspace": archive}
            return None if found.saved is None else found.saved.model_copy(update=newer)
        info = conversation.get("info")
        return Saved(
            execution_id=self._task.execution_id,
            conversation_id=str(info.get("id", "")) if isinstance(info, dict) else "",
            conversation=talk[0],
            workspace=archive,
        )


def _objects(saved: Saved | None) -> set[str]:
    found = () if saved is None else (saved.conversation, saved.workspace)
    return {artifact.name for artifact in found if artifact is not None}


def _not_stored(said: str) -> Draft:
    return Draft(type=ChunkType.GAP, data=said, detail={"reason": "not_stored"})


def _left_out(packed: workspace.Packed) -> Draft:
    """What the archive does not have: whoever goes on from it would miss it without a word."""
    named = [[workspace.readable(path), why] for path, why in packed.skipped[:_NAMED]]
    more = f" and {packed.skipped_count - len(named)} more" if packed.skipped_count > len(named) else ""
    said = f"not in the saved workspace: {'; '.join(f'{path} ({why})' for path, why in named)}{more}"
    detail = {"reason": "left_out", "paths": named, "count": packed.skipped_count}
    return Draft(type=ChunkType.GAP, data=said, detail=detail)
