"""What the record shows while a run lasts: todo list, usage, changed files, what it waits for, the newest sequence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import structlog

from ocf.events import outcomes
from ocf.events.errors import NotYetKnown, Retry
from ocf.events.execution_record import Record
from ocf.events.facts import DiffSummary
from ocf.events.limits import KIB
from ocf.events.output import ChunkType, Draft, PendingRequest, TodoItem, Usage
from ocf.events.ports import Clock
from ocf.functions import workspace
from ocf.functions.core.execution_repository import Records

log = structlog.get_logger()

_AT_MOST_EVERY = 0.5
#: A look at a large workspace takes seconds of a processor that the agents want too: at most a twentieth of the time.
LOOK_EVERY = 2.0
_SHARE = 20
#: The record is written often: of the files so far it names some, of those at the end a thousand.
NAMED = 200
_NAMED_BYTES = 32 * KIB


class Progress:
    """Collects changes and writes them to the record, at most twice a second."""

    def __init__(self, records: Records, clock: Clock, project: str, execution: str) -> None:
        self._records = records
        self._clock = clock
        self._ids = (project, execution)
        self._changes: dict[str, Any] = {}
        self._dirty = asyncio.Event()
        self._asked: dict[str, PendingRequest] = {}

    def _set(self, **changes: Any) -> None:
        self._changes.update(changes)
        self._dirty.set()

    def note(self, draft: Draft) -> None:
        """Take what a draft says about the state."""
        detail = draft.detail or {}
        if draft.type is ChunkType.TODO:
            items = [TodoItem.model_validate(item) for item in detail.get("items", [])]
            self._set(todo=outcomes.fit_todo(items))
        elif draft.type in (ChunkType.PERMISSION, ChunkType.QUESTION):
            waiting = outcomes.fit_waiting(PendingRequest.model_validate(detail))
            self._asked[waiting.request_id] = waiting
            self._set(waiting_for=next(iter(self._asked.values())))

    def still_waiting(self, requests: Collection[str]) -> None:
        """Only these are waited for; the record shows the oldest."""
        left = {key: waiting for key, waiting in self._asked.items() if key in requests}
        if len(left) < len(self._asked):
            self._asked = left
            self._set(waiting_for=next(iter(left.values()), None))

    def usage(self, usage: Usage) -> None:
        """New totals."""
        self._set(usage=usage)

    async def look_at(self, prepared: Callable[[], workspace.Prepared | None]) -> None:
        """Show which files have changed so far, for ever; `prepared` gives the workspace, once there is one."""
        shown, pause = DiffSummary(), LOOK_EVERY
        while True:
            await self._clock.sleep(pause)
            if (found := prepared()) is None:
                continue
            began = self._clock.monotonic()
            try:
                diff = await workspace.changed_files(found)
            except OSError as error:
                # The agent works in it, and may take away what is just looked at.
                log.info("workspace not looked at", action="run.not_looked_at", reason=str(error), **self._named)
                continue
            finally:
                pause = max(LOOK_EVERY, _SHARE * (self._clock.monotonic() - began))
            if len(diff.changed) > NAMED:
                diff = diff.model_copy(update={"changed": diff.changed[:NAMED], "truncated": True})
            diff = outcomes.fit_diff(diff, _NAMED_BYTES)
            if diff != shown:
                shown = diff
                self._set(diff=diff)

    @property
    def _named(self) -> dict[str, str]:
        return {"project_id": self._ids[0], "execution_id": self._ids[1]}

    async def keep(self, last_sequence: Callable[[], int]) -> None:
        """Write what has changed, for ever. A write that fails is repeated with the next."""
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
            await self._clock.sleep(_AT_MOST_EVERY)

    async def _write(self, changes: dict[str, Any], last_sequence: int) -> None:
        def updated(record: Record) -> Record | None:
            return None if record.terminal else record.model_copy(update={**changes, "last_sequence": last_sequence})

        await self._records.change(*self._ids, updated)
