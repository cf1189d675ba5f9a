"""Results of a run: its artifacts in S3, and the new state of its session."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from ocf.events.command_payloads import Execute
from ocf.events.errors import Conflict, NotYetKnown, Retry
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import Artifact, DiffSummary
from ocf.events.output import Draft, status_draft
from ocf.events.ports import ObjectInfo
from ocf.events.session_record import Saved, Session
from ocf.events.terminal_facts import CHANGES_NAME, RESULT_BYTES, RESULT_NAME
from ocf.events.untrusted_json import shorten
from ocf.functions import workspace
from ocf.functions.core.asyncio_tasks import cancel_and_wait, run_together, wait_for_cleanup
from ocf.functions.core.object_deletion import delete_saved, delete_session
from ocf.functions.core.session_store import Sessions
from ocf.functions.execute.attempt.outcome import StoredArtifacts, not_stored_draft, skipped_draft
from ocf.functions.execute.attempt.output_publisher import Ownership
from ocf.functions.execute.context import WorkerContext
from ocf.functions.observability import tracing

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]
T = TypeVar("T")

PATCH, ARCHIVE, CONVERSATION = "workspace.patch", "workspace.tar.zst", "conversation.json"
#: Longest writing of patch and archive, in seconds: 10 GiB at 17 MB/s, whatever an agent put into its workspace.
_WRITE_SECONDS = 600.0
#: Maximum pause between two tries, in seconds.
_MAX_PAUSE = 10.0
_TYPES = {
    PATCH: "text/x-patch",
    ARCHIVE: "application/zstd",
    CONVERSATION: "application/json",
    RESULT_NAME: "text/plain; charset=utf-8",
    CHANGES_NAME: "application/json",
}


class ArtifactWriter:
    """Stores the results of one run. `folder` is scratch space for it.

    `ownership` is checked before each object: a worker that has lost the execution must not overwrite a later
    attempt's.
    """

    def __init__(self, context: WorkerContext, task: Execute, folder: Path, ownership: Ownership) -> None:
        self._ownership = ownership
        self._context = context
        self._task = task
        self._folder = folder
        self._stored: list[Artifact] = []
        self._emit: Emit = _discard
        self._waits_since: float | None = None
        self._outage = asyncio.Lock()
        self._why = ""
        self._patch: workspace.Patch | None = None
        self._diff = DiffSummary()
        self._base_commit: str | None = None

    async def store(
        self,
        prepared: workspace.Prepared,
        conversation: dict[str, object] | None,
        emit: Emit,
        seconds: float | None,
        give_up: Callable[[], Awaitable[str]] | None = None,
        *,
        result: str = "",
        keep_ignored: bool = False,
        open_up: Callable[[], Awaitable[None]] | None = None,
        base_commit: str | None = None,
    ) -> StoredArtifacts:
        """Store patch, archive, conversation and the session's new state.

        Waits while S3 or NATS is away. Results that cannot be stored are stated in the output and do not change the
        outcome.

        Args:
            prepared: the workspace.
            conversation: OpenCode's export of the conversation.
            emit: publishes status and gap chunks about the storing.
            seconds: maximum wait in total; None: no limit.
            give_up: returns a reason once the wait is to end early.
            result: the agent's last message; a long one becomes an object.
            keep_ignored: archive files that `.gitignore` excludes, too.
            open_up: makes the workspace readable first.
            base_commit: the commit that the workspace began from, for the session's next execution.
        """
        self._emit, self._base_commit = emit, base_commit
        try:
            writing = self._write_all(prepared, keep_ignored, open_up)
            lost = await self._within(
                _WRITE_SECONDS, give_up, writing, f"it was not packed within {_WRITE_SECONDS:.0f} s"
            )
            if lost is None:
                await asyncio.to_thread(self._write, conversation, result)
                with tracing.phase("upload"):
                    late = f"S3 did not take it within {seconds or 0:.0f} s (ARTIFACT_WAIT)"
                    lost = await self._within(seconds, give_up, self._store(conversation), late)
        except (OSError, Retry, workspace.InvalidWorkspace) as error:
            lost = str(error)
        waited = self._waited_ms()
        if lost is None:
            if waited:
                await emit(status_draft(f"the workspace is stored, after {waited / 1000:.0f} s", "artifacts"))
            return StoredArtifacts(self._diff, tuple(self._stored), waited_ms=waited, patch=self._patch)
        text = f"the workspace could not be stored: {lost}"
        if self._task.session_id is not None:
            text += "; the session continues from its previous state"
        await emit(not_stored_draft(text))
        return StoredArtifacts(self._diff, tuple(self._stored), "lost", text, waited, self._patch)

    async def _write_all(
        self, prepared: workspace.Prepared, keep_ignored: bool, open_up: Callable[[], Awaitable[None]] | None
    ) -> None:
        if open_up is not None:
            self._context.boundary.folders.check()  # the agent may have locked the way to its own workspace
            await open_up()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        patching = asyncio.ensure_future(self._write_patch(prepared))
        packing = asyncio.ensure_future(self._write_archive(prepared, keep_ignored))
        await wait_for_cleanup(patching, packing)
        patching.result()
        packed = packing.result()  # a workspace too large for the archive still has a patch and a summary
        if packed.skipped:
            await self._emit(skipped_draft(packed))
        if packed.unapplied:
            files = ", ".join(map(workspace.readable, packed.unapplied))
            await self._emit(status_draft(f"ignore rules not applied, since they are too many: {files}", "artifacts"))

    async def _write_patch(self, prepared: workspace.Prepared) -> None:
        with tracing.phase("write patch"):
            paths = self._folder / PATCH, self._folder / CHANGES_NAME
            self._diff, self._patch = await workspace.conclude(prepared, *paths)

    async def _write_archive(self, prepared: workspace.Prepared, keep_ignored: bool) -> workspace.Packed:
        with tracing.phase("write archive"):
            return await workspace.pack(prepared, self._folder / ARCHIVE, include_ignored=keep_ignored)

    def _write(self, conversation: dict[str, object] | None, result: str) -> None:
        if conversation is not None:
            # ASCII, because a lone surrogate has no UTF-8 encoding.
            (self._folder / CONVERSATION).write_text(json.dumps(conversation))
        if shorten(result, RESULT_BYTES) != result:
            (self._folder / RESULT_NAME).write_text(result, encoding="utf-8", errors="replace")

    async def _store(self, conversation: dict[str, object] | None) -> None:
        self._stored = []
        prefix = ExecutionRef(self._task.project_id, self._task.execution_id).prefix
        self._stored = await self._upload(prefix, "", tuple(_TYPES), self._stored.append)
        await self._save_session(conversation, self._emit)

    async def _within(
        self,
        seconds: float | None,
        give_up: Callable[[], Awaitable[str]] | None,
        storing: Coroutine[None, None, None],
        late: str,
    ) -> str | None:
        """Run `storing` and return None, or why it was stopped (`late`: after `seconds`). Raises what it raises."""
        task = asyncio.ensure_future(storing)
        ends = [] if give_up is None else [asyncio.ensure_future(give_up())]
        clock = [] if seconds is None else [asyncio.ensure_future(self._context.deps.clock.sleep(seconds))]
        try:
            await asyncio.wait({task, *ends, *clock}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return None
            why = f": {self._why}" if self._why else ""
            if ends and ends[0].done():
                return f"{ends[0].result()}{why}"
            return f"{late}{why}"
        finally:
            await cancel_and_wait([task, *ends, *clock])

    async def _upload(
        self, prefix: str, name_prefix: str, names: tuple[str, ...], on_stored: Callable[[Artifact], None] | None = None
    ) -> list[Artifact]:
        """Upload the files of `names` that exist, all at once; return their artifacts in that order."""

        async def put(name: str) -> Artifact:
            key = f"{prefix}/{name_prefix}{name}"
            info = await self._put(key, self._folder / name, _TYPES[name])
            artifact = Artifact(name=f"{name_prefix}{name}", size=info.size, sha256=info.sha256 or "")
            if on_stored is not None:
                on_stored(artifact)
            return artifact

        return await run_together(*(put(name) for name in names if (self._folder / name).is_file()))

    async def _put(self, key: str, path: Path, content_type: str) -> ObjectInfo:
        store = self._context.deps.store
        return await self._retry_until_stored(
            lambda: store.put_file(key, path, content_type=content_type), action="run.artifact_retry", key=key
        )

    async def _change_session(self, session: str, decide: Callable[[Session], Session | None]) -> Session:
        """Change the session's record, retrying: stored objects that no record points to would be lost."""
        sessions = Sessions(self._context.deps.sessions, self._context.deps.clock)
        return await self._retry_until_stored(
            lambda: sessions.change(self._task.project_id, session, decide),
            reraise=NotYetKnown,
            action="run.session_retry",
            session_id=session,
        )

    async def _retry_until_stored(
        self, store: Callable[[], Awaitable[T]], *, action: str, reraise: tuple[()] | type[Retry] = (), **about: str
    ) -> T:
        """Repeat `store` until it succeeds: an outage delays the end, but does not change it. Raises `reraise`."""

        async def store_or_wait() -> T | None:
            if not await self._ownership.wait_until_held():
                raise Conflict("another worker has it")
            try:
                return await store()
            except Retry as error:
                if isinstance(error, reraise):
                    raise
                log.warning("not stored yet", action=action, reason=str(error), **about)
                await self._begin_wait(str(error))
                return None

        if (stored := await store_or_wait()) is not None:
            return stored
        # One upload asks a store that is away; the others wait for it to be back.
        async with self._outage:
            pause = 1.0
            while True:
                await self._context.deps.clock.sleep(pause)
                if (stored := await store_or_wait()) is not None:
                    return stored
                pause = min(pause * 2, _MAX_PAUSE)

    async def _begin_wait(self, why: str) -> None:
        """State once, in the output and in the record, that the end waits."""
        self._why = why
        if self._waits_since is not None:
            return
        self._waits_since = self._context.deps.clock.monotonic()
        await self._emit(status_draft("waiting for S3 to store the workspace", "artifacts"))

        def waits(record: Record) -> Record | None:
            pending = {"artifacts": "pending", "artifacts_message": "waiting for S3 to store the workspace"}
            return None if record.terminal else record.model_copy(update=pending)

        with suppress(Retry):  # only the record's display; the terminal fact states the result
            await self._context.deps.records.change(self._task.project_id, self._task.execution_id, waits)

    def _waited_ms(self) -> int:
        """Return the milliseconds since the wait began, 0 when there was none."""
        since = self._waits_since
        return 0 if since is None else max(1, round((self._context.deps.clock.monotonic() - since) * 1000))

    async def _save_session(self, conversation: dict[str, object] | None, emit: Emit) -> None:
        """Save the session's state under object names of this attempt; the record points to all of them, or none."""
        task, deps = self._task, self._context.deps
        if task.session_id is None:
            return
        ref = SessionRef(task.project_id, task.session_id)
        names = (ARCHIVE,) if conversation is None else (ARCHIVE, CONVERSATION)
        name_prefix = f"{task.execution_id}.{secrets.token_hex(4)}."
        archive, *conversation_files = await self._upload(ref.prefix, name_prefix, names)
        before: list[Saved | None] = []

        def pointed(found: Session) -> Session | None:
            if not self._ownership.held:
                raise Conflict("another worker has it")
            saved = self._new_state(found, archive, conversation_files, conversation)
            if saved is None:
                before.clear()
            elif saved != found.saved:  # equal: the previous try succeeded and its answer was lost
                before[:] = [found.saved]
            return None if saved is None else found.model_copy(update={"saved": saved})

        try:
            now = (await self._change_session(task.session_id, pointed)).saved
        except NotYetKnown:
            await delete_session(deps.store, ref)  # the session was destroyed
            return
        if not before or now is None:
            for artifact in (archive, *conversation_files):
                await delete_saved(deps.store, ref, artifact.name)
            why = "OpenCode exported no conversation" if conversation is None else "this execution has left its queue"
            await emit(not_stored_draft(f"the session keeps its previous state: {why}"))
            return
        # Only objects that the record pointed to before: another attempt's may be about to be recorded.
        for name in _objects(before[0]) - _objects(now):
            await delete_saved(deps.store, ref, name)
        if conversation is None:
            await emit(
                not_stored_draft("OpenCode exported no conversation: the session continues from the previous one")
            )

    def _new_state(
        self,
        found: Session,
        archive: Artifact,
        conversation_files: list[Artifact],
        conversation: dict[str, object] | None,
    ) -> Saved | None:
        """Return the session's new state; None: it keeps the current one."""
        if found.queue[:1] != [self._task.execution_id]:
            return None  # this execution was taken for lost, or deleted; the next one may have begun
        if conversation is None:
            # New files with a conversation one prompt behind are better than neither.
            newer = {"execution_id": self._task.execution_id, "workspace": archive, "commit": self._base_commit}
            return None if found.saved is None else found.saved.model_copy(update=newer)
        info = conversation.get("info")
        return Saved(
            execution_id=self._task.execution_id,
            conversation_id=str(info.get("id", "")) if isinstance(info, dict) else "",
            conversation=conversation_files[0],
            workspace=archive,
            commit=self._base_commit,
        )


def _objects(saved: Saved | None) -> set[str]:
    found = () if saved is None else (saved.conversation, saved.workspace)
    return {artifact.name for artifact in found if artifact is not None}


async def _discard(_: Draft) -> None:
    """Drop drafts emitted before `store` is called."""
