"""Progress in the record during a run: todo list, usage, changed files, pending request, newest sequence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

import structlog

from ocf.events import terminal_facts
from ocf.events.errors import NotYetKnown, OcfError, Retry
from ocf.events.execution_record import Record
from ocf.events.fact_payloads import DiffSummary
from ocf.events.output import ChunkType, Draft, FileChange, PendingRequest, TodoItem, Usage
from ocf.events.ports import Clock
from ocf.events.untrusted_json import KIB
from ocf.functions import workspace
from ocf.functions.core.execution_store import Records
from ocf.functions.execute.agent.tool_parts import change_draft

log = structlog.get_logger()

_AT_MOST_EVERY = 0.5
#: Minimum seconds between two scans of the workspace. Scanning a large one takes seconds of CPU that the agents need,
#: so it gets at most a twentieth of the time.
LOOK_EVERY = 2.0
_SHARE = 20
#: Changed files named in the record during a run. The record is written often; the terminal fact names up to a
#: thousand.
NAMED = 200
_NAMED_BYTES = 32 * KIB
#: Changed files, found in the workspace, that the output names at most. The terminal fact names the result anyway.
FOUND = 2000


class Progress:
    """Collects changes and writes them to the record, at most twice a second."""

    def __init__(self, records: Records, clock: Clock, project: str, execution: str) -> None:
        self._records = records
        self._clock = clock
        self._ids = (project, execution)
        self._changes: dict[str, Any] = {}
        self._dirty = asyncio.Event()
        self._asked: dict[str, PendingRequest] = {}
        #: Changed files that the output has named, as (path, change).
        self._named: set[tuple[str, str]] = set()
        self._found = 0
        #: Time of the first text.
        self.first_output_at: datetime | None = None

    def _set(self, **changes: Any) -> None:
        self._changes.update(changes)
        self._dirty.set()

    def note(self, draft: Draft) -> None:
        """Take todo list, requests, changed files and the time of the first text from a draft."""
        detail = draft.detail or {}
        if draft.type is ChunkType.TEXT and self.first_output_at is None:
            self.first_output_at = self._clock.now()
        if draft.type is ChunkType.FILE_CHANGE:
            self._named.add((str(detail.get("path")), str(detail.get("change"))))
        if draft.type is ChunkType.TODO:
            items = [TodoItem.model_validate(item) for item in detail.get("items", [])]
            self._set(todo=terminal_facts.fit_todo(items))
        elif draft.type in (ChunkType.PERMISSION, ChunkType.QUESTION):
            waiting = terminal_facts.fit_waiting(PendingRequest.model_validate(detail))
            self._asked[waiting.request_id] = waiting
            self._set(waiting_for=next(iter(self._asked.values())))

    def unnamed_changes(self, diff: DiffSummary) -> list[Draft]:
        """Return drafts for the changes of `diff` that the output has not named yet, at most `FOUND` in a run.

        Tools name the files that they write; those that a shell command changed are found in the workspace.
        """
        drafts = []
        for file in diff.changed:
            change = "added" if file.change == "renamed" else file.change
            if self._found < FOUND and (file.path, change) not in self._named:
                self._found += 1
                self._named.add((file.path, change))
                drafts.append(change_draft(FileChange.model_validate({**file.model_dump(), "change": change})))
        return drafts

    def retain_requests(self, requests: Collection[str]) -> None:
        """Drop pending requests not in `requests`; the record shows the oldest one left."""
        left = {key: waiting for key, waiting in self._asked.items() if key in requests}
        if len(left) < len(self._asked):
            self._asked = left
            self._set(waiting_for=next(iter(left.values()), None))

    def usage(self, usage: Usage) -> None:
        """Set the new usage totals."""
        self._set(usage=usage)

    async def track_files(
        self, prepared: Callable[[], workspace.Prepared | None], emit: Callable[[Draft], Awaitable[None]]
    ) -> None:
        """Record which files have changed so far, until cancelled.

        Args:
            prepared: returns the workspace; None until it is prepared.
            emit: publishes a change that the output has not named yet.
        """
        shown, pause = DiffSummary(), LOOK_EVERY
        before: set[tuple[str, str]] = set()
        while True:
            await self._clock.sleep(pause)
            if (found := prepared()) is None:
                continue
            began = self._clock.monotonic()
            try:
                diff = await workspace.changed_files(found)
            except OSError as error:
                # The agent works in the folder and may remove files during the scan.
                log.info("workspace not scanned", action="run.not_looked_at", reason=str(error), **self._log_fields)
                continue
            finally:
                pause = max(LOOK_EVERY, _SHARE * (self._clock.monotonic() - began))
            # A tool reports its change shortly after it has written; so only what an earlier scan has found is named.
            settled = [file for file in diff.changed if (file.path, file.change) in before]
            before = {(file.path, file.change) for file in diff.changed}
            for draft in self.unnamed_changes(DiffSummary(changed=settled)):
                await emit(draft)
            if len(diff.changed) > NAMED:
                diff = diff.model_copy(update={"changed": diff.changed[:NAMED], "truncated": True})
            diff = terminal_facts.fit_diff(diff, _NAMED_BYTES)
            if diff != shown:
                shown = diff
                self._set(diff=diff)

    @property
    def _log_fields(self) -> dict[str, str]:
        return {"project_id": self._ids[0], "execution_id": self._ids[1]}

    async def write_changes(self, last_sequence: Callable[[], int]) -> None:
        """Write changes to the record until cancelled. A failed write is merged into the next one."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            changes, self._changes = self._changes, {}
            try:
                await self._write(changes, last_sequence())
            except NotYetKnown:
                return
            except Retry:
                self._changes = {**changes, **self._changes}
                self._dirty.set()
            except OcfError as error:
                # The next change is tried all the same: it may say that the agent waits for an answer.
                log.warning("progress not stored", action="run.progress_lost", reason=str(error), **self._log_fields)
            await self._clock.sleep(_AT_MOST_EVERY)

    async def _write(self, changes: dict[str, Any], last_sequence: int) -> None:
        def updated(record: Record) -> Record | None:
            return None if record.terminal else record.model_copy(update={**changes, "last_sequence": last_sequence})

        await self._records.change(*self._ids, updated)
