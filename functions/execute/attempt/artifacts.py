"""What remains of a run: its artifacts in S3, and its session's new state."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from ocf.events.commands import Execute
from ocf.events.errors import Conflict, NotYetKnown, Retry
from ocf.events.execution_record import Record
from ocf.events.facts import Artifact, DiffSummary
from ocf.events.limits import shorten
from ocf.events.outcomes import CHANGES_NAME, RESULT_BYTES, RESULT_NAME
from ocf.events.output import ChunkType, Draft
from ocf.events.ports import ObjectInfo
from ocf.events.refs import ExecutionRef, SessionRef
from ocf.events.session_record import Saved, Session
from ocf.functions import workspace
from ocf.functions.core.cancellation import cancel_and_wait as cancel_and_wait
from ocf.functions.core.session_repository import Sessions
from ocf.functions.core.stored_objects import delete_saved, delete_session
from ocf.functions.execute.attempt.outcome import StoredArtifacts
from ocf.functions.execute.attempt.publisher import Ownership
from ocf.functions.execute.context import WorkerContext

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]
T = TypeVar("T")

PATCH, ARCHIVE, CONVERSATION = "workspace.patch", "workspace.tar.zst", "conversation.json"
_NAMED = 10
#: Seconds between two tries, at most.
_PAUSE = 10.0
_TYPES = {
    PATCH: "text/x-patch",
    ARCHIVE: "application/zstd",
    CONVERSATION: "application/json",
    RESULT_NAME: "text/plain; charset=utf-8",
    CHANGES_NAME: "application/json",
}


class ArtifactWriter:
    """Stores what one run left. `folder` is scratch space of its own.

    `hold` is asked before each object: a later attempt's must not be overwritten by one that has lost the execution.
    """

    def __init__(self, context: WorkerContext, task: Execute, folder: Path, hold: Ownership) -> None:
        self._hold = hold
        self._context = context
        self._task = task
        self._folder = folder
        self._stored: list[Artifact] = []
        self._emit: Emit = _nobody
        self._waits_since: float | None = None
        self._why = ""

    async def keep(
        self,
        prepared: workspace.Prepared,
        conversation: dict[str, object] | None,
        emit: Emit,
        seconds: float | None,
        given_up: Callable[[], Awaitable[str]] | None = None,
        *,
        result: str = "",
        keep_ignored: bool = False,
        open_up: Callable[[], Awaitable[None]] | None = None,
    ) -> StoredArtifacts:
        """Store patch, archive (with `keep_ignored` what `.gitignore` excludes too), conversation, the session's state.

        While S3 or NATS is away this waits. What is not stored in the end is stated, and does not change the end.

        Args:
            prepared: the workspace.
            conversation: OpenCode's export of it.
            emit: takes what is said of it in the output.
            seconds: for which it waits at most; None: without limit.
            given_up: returns a reason when nobody wants to wait any more.
            result: the agent's last words; long ones become an object.
            keep_ignored: see above.
            open_up: makes the workspace readable first.
        """
        diff, self._emit = DiffSummary(), emit
        try:
            if open_up is not None:
                await open_up()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            diff, _ = await workspace.conclude(prepared, self._folder / PATCH, self._folder / CHANGES_NAME)
            packed = await workspace.pack(prepared, self._folder / ARCHIVE, include_ignored=keep_ignored)
            if packed.skipped:
                await emit(_left_out(packed))
            await asyncio.to_thread(self._write, conversation, result)
            lost = await self._within(seconds, given_up, self._store(conversation))
        except (OSError, Retry, workspace.InvalidWorkspace) as error:
            lost = str(error)
        waited = self._waited_ms()
        if lost is None:
            if waited:
                await emit(_status(f"the workspace is stored, after {waited / 1000:.0f} s"))
            return StoredArtifacts(diff, tuple(self._stored), waited_ms=waited)
        said = f"the workspace could not be stored: {lost}"
        if self._task.session_id is not None:
            said += "; the session goes on from the turn before"
        await emit(_not_stored(said))
        return StoredArtifacts(diff, tuple(self._stored), "lost", said, waited)

    def _write(self, conversation: dict[str, object] | None, result: str) -> None:
        if conversation is not None:
            # ASCII: half a surrogate pair has no other form.
            (self._folder / CONVERSATION).write_text(json.dumps(conversation))
        if shorten(result, RESULT_BYTES) != result:
            (self._folder / RESULT_NAME).write_text(result, encoding="utf-8", errors="replace")

    async def _store(self, conversation: dict[str, object] | None) -> None:
        self._stored = []
        async for artifact in self._artifacts(ExecutionRef(self._task.project_id, self._task.execution_id).prefix, ""):
            self._stored.append(artifact)
        await self._session(conversation, self._emit)

    async def _within(
        self,
        seconds: float | None,
        given_up: Callable[[], Awaitable[str]] | None,
        storing: Coroutine[None, None, None],
    ) -> str | None:
        """Run `storing`; why it did not end, if it did not. Raises what it raises."""
        task = asyncio.ensure_future(storing)
        ends = [] if given_up is None else [asyncio.ensure_future(given_up())]
        late = [] if seconds is None else [asyncio.ensure_future(self._context.deps.clock.sleep(seconds))]
        try:
            await asyncio.wait({task, *ends, *late}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return None
            why = f": {self._why}" if self._why else ""
            if ends and ends[0].done():
                return f"{ends[0].result()}{why}"
            return f"S3 did not take it within {seconds:.0f} s (ARTIFACT_WAIT){why}"
        finally:
            await cancel_and_wait([task, *ends, *late])

    async def _artifacts(
        self, prefix: str, start: str, names: tuple[str, ...] = tuple(_TYPES)
    ) -> AsyncIterator[Artifact]:
        for name in names:
            path = self._folder / name
            if path.is_file():
                info = await self._put(f"{prefix}/{start}{name}", path, _TYPES[name])
                yield Artifact(name=f"{start}{name}", size=info.size, sha256=info.sha256 or "")

    async def _put(self, key: str, path: Path, content_type: str) -> ObjectInfo:
        store = self._context.deps.store
        return await self._until_stored(
            lambda: store.put_file(key, path, content_type=content_type), action="run.artifact_retry", key=key
        )

    async def _changed(self, session: str, decide: Callable[[Session], Session | None]) -> Session:
        """The session's record, changed: what is stored and not pointed to would be lost."""
        sessions = Sessions(self._context.deps.sessions, self._context.deps.clock)
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
        pause = 1.0
        while True:
            if not await self._hold.sure():
                raise Conflict("another worker has it")
            try:
                return await store()
            except Retry as error:
                if isinstance(error, but):
                    raise
                log.warning("not stored yet", action=action, reason=str(error), **about)
                await self._begin_wait(str(error))
                await self._context.deps.clock.sleep(pause)
                pause = min(pause * 2, _PAUSE)

    async def _begin_wait(self, why: str) -> None:
        """The first time, say that the end waits: in the output, and in the record."""
        self._why = why
        if self._waits_since is not None:
            return
        self._waits_since = self._context.deps.clock.monotonic()
        await self._emit(_status("waiting for S3 to store the workspace"))

        def waits(record: Record) -> Record | None:
            pending = {"artifacts": "pending", "artifacts_message": "waiting for S3 to store the workspace"}
            return None if record.terminal else record.model_copy(update=pending)

        with suppress(Retry):  # only the record says so, and its end will say more
            await self._context.deps.records.change(self._task.project_id, self._task.execution_id, waits)

    def _waited_ms(self) -> int:
        """Milliseconds since the end began to wait, 0 if it did not."""
        since = self._waits_since
        return 0 if since is None else max(1, round((self._context.deps.clock.monotonic() - since) * 1000))

    async def _session(self, conversation: dict[str, object] | None, emit: Emit) -> None:
        """Save the session's state under names of this attempt's; the record then points to them, or not at all."""
        task, deps = self._task, self._context.deps
        if task.session_id is None:
            return
        ref = SessionRef(task.project_id, task.session_id)
        names = (ARCHIVE,) if conversation is None else (ARCHIVE, CONVERSATION)
        start = f"{task.execution_id}.{secrets.token_hex(4)}."
        archive, *talk = [artifact async for artifact in self._artifacts(ref.prefix, start, names)]
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
            await delete_session(deps.store, ref)  # destroyed meanwhile
            return
        if not before or now is None:
            for artifact in (archive, *talk):
                await delete_saved(deps.store, ref, artifact.name)
            why = "OpenCode did not give its conversation" if conversation is None else "this turn of it is over"
            await emit(_not_stored(f"the session stays as it was: {why}"))
            return
        # Only what the record pointed to until now: another attempt's may be on its way there.
        for name in _objects(before[0]) - _objects(now):
            await delete_saved(deps.store, ref, name)
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


async def _nobody(_: Draft) -> None:
    """Before `keep` nobody is told anything."""


def _status(said: str) -> Draft:
    return Draft(type=ChunkType.STATUS, data=said, detail={"phase": "artifacts"})


def _not_stored(said: str) -> Draft:
    return Draft(type=ChunkType.GAP, data=said, detail={"reason": "not_stored"})


def _left_out(packed: workspace.Packed) -> Draft:
    """What the archive does not have: whoever goes on from it would miss it without a word."""
    named = [[workspace.readable(path), why] for path, why in packed.skipped[:_NAMED]]
    more = f" and {packed.skipped_count - len(named)} more" if packed.skipped_count > len(named) else ""
    said = f"not in the saved workspace: {'; '.join(f'{path} ({why})' for path, why in named)}{more}"
    detail = {"reason": "left_out", "paths": named, "count": packed.skipped_count}
    return Draft(type=ChunkType.GAP, data=said, detail=detail)
