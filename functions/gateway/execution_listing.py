"""The list of executions: rows of the database, with the state of open ones from their records.

A gateway remembers only what was submitted through any gateway in the last minute, so that a caller finds an execution
in the list at once. Gateways announce submits to each other.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from pydantic import ValidationError

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import FieldError
from ocf.events.lifecycle import TERMINAL, State
from ocf.events.ports import Bucket, Bus, Clock
from ocf.functions.database.history_upserts import words_of
from ocf.functions.database.reading import Filter, Position
from ocf.functions.database.store import CONSUMER, History
from ocf.functions.gateway.problems import invalid
from ocf.functions.gateway.response_schemas import TaskPage, TaskSummary

#: Time and number of remembered submits. The submit function may have to start first.
_RECENT, _MOST_RECENT = timedelta(seconds=60), 1_000


#: Announcements of submits, on which only functions may publish, and facts of new sessions.
_BEGINNINGS = ("ocf.gateway.submitted.*.*", "ocf.evt.*.*.created")
#: Less than a readiness check may take, so that a silent database leaves time to count what is missing.
_READY_SECONDS = 1.0
#: Seconds between two tries to subscribe.
_RETRY = 1.0
_Ref = TypeVar("_Ref", ExecutionRef, SessionRef)


class Recent(Generic[_Ref]):
    """Executions or sessions of the last minute, which the history may not have yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times: dict[_Ref, datetime] = {}

    def add(self, ref: _Ref) -> None:
        """Remember it; forget the oldest above the limit."""
        if ref in self._times:  # a gateway hears its own announcements, too
            return
        if len(self._times) >= _MOST_RECENT:
            del self._times[next(iter(self._times))]
        self._times[ref] = self._clock.now()

    def times(self) -> dict[_Ref, datetime]:
        """Return them with the times at which they were added."""
        since = self._clock.now() - _RECENT
        self._times = {ref: at for ref, at in self._times.items() if at > since}
        return self._times


class Listing:
    """The history as the gateways show it."""

    def __init__(self, history: History, executions: Bucket, bus: Bus, clock: Clock) -> None:
        self._history = history
        self._executions = executions
        self._bus = bus
        self._clock = clock
        self._recent = Recent[ExecutionRef](clock)
        self.sessions = Recent[SessionRef](clock)
        #: Recent submits that had a record when it was last read.
        self._recorded: set[ExecutionRef] = set()

    async def submitted(self, ref: ExecutionRef) -> None:
        """Remember a submit, and announce it. Without the announcement other gateways list it some moments later."""
        self._recent.add(ref)
        with suppress(Unavailable):
            await self._bus.publish_live(subjects.announcement(ref.project, ref.execution), b"", {})

    async def listen(self) -> None:
        """Remember what begins through any gateway, until cancelled."""
        while True:
            try:
                async with self._bus.listen(*_BEGINNINGS) as messages:
                    async for message in messages:
                        self._heard(message.subject.split("."))
            except Unavailable:
                await self._clock.sleep(_RETRY)

    def _heard(self, parts: Sequence[str]) -> None:
        match parts:
            case ["ocf", "gateway", _, project, execution]:
                self._recent.add(ExecutionRef(project, execution))
            case ["ocf", "evt", project, session, _]:
                self.sessions.add(SessionRef(project, session))

    async def page(self, wanted: Filter, limit: int, after: Position | None) -> TaskPage:
        """Return the newest `limit` executions below `after`.

        Raises:
            Unavailable: The database does not answer.
        """
        rows, behind = await asyncio.gather(self._history.page(wanted, limit + 1, after), self.behind())
        items = [TaskSummary.model_validate(row) for row in rows[:limit]]
        last = items[-1] if len(rows) > limit else None
        listed = {ExecutionRef(item.project_id, item.execution_id): item for item in items}
        open_ = [ref for ref, item in listed.items() if item.status not in TERMINAL]
        shown: dict[ExecutionRef, TaskSummary | None] = {**listed, **dict.fromkeys(open_)}
        shown |= await self._live(open_, wanted)
        if after is None:
            shown |= await self._live([ref for ref in self._unlisted(wanted) if ref not in listed], wanted)
        newest = sorted((item for item in shown.values() if item), key=position_of, reverse=True)
        if len(newest) > limit:
            newest = newest[:limit]
            last = newest[-1]
        return TaskPage(items=newest, next=encode_cursor(position_of(last)) if last else None, behind=behind)

    def _unlisted(self, wanted: Filter) -> list[ExecutionRef]:
        """Return the submits of the last minute."""
        recent = self._recent.times()
        self._recorded &= recent.keys()
        return [ref for ref in recent if wanted.projects is None or ref.project in wanted.projects]

    async def _live(self, refs: Sequence[ExecutionRef], wanted: Filter) -> dict[ExecutionRef, TaskSummary | None]:
        """Return the executions that match by their records; one without a record is new, if it is a recent submit."""
        entries = await asyncio.gather(*(self._executions.get(ref.record_key) for ref in refs))
        found: dict[ExecutionRef, TaskSummary | None] = {}
        recent = self._recent.times()
        for ref, entry in zip(refs, entries, strict=True):
            at = recent.get(ref)
            if entry is None and (at is None or ref in self._recorded):
                continue  # deleted
            if entry is not None and at is not None:
                self._recorded.add(ref)
            try:
                record = Record.read(entry.value) if entry else unrecorded(ref, at or self._clock.now())
                summary = TaskSummary.of(record)
            except ValidationError:
                continue  # the sweep reports it
            if _matches(wanted, summary):
                found[ref] = summary
        return found

    async def behind(self) -> int | None:
        """Return the number of facts that are not in the history yet; None when it is unknown."""
        try:
            backlog = await self._bus.backlog(CONSUMER)
        except Unavailable:
            return None
        return backlog.waiting + backlog.unsettled

    async def ready(self) -> None:
        """Raise Unavailable, with the number of missing facts, unless the database answers within a second."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                return await self._history.ready()
        except TimeoutError:
            why = f"the database did not answer within {_READY_SECONDS:g} s"
        except Unavailable as error:
            why = str(error)
        raise Unavailable(f"{why}; {await self.behind()} facts are not in it yet")

    async def queue_position(self, record: Record) -> int | None:
        """Return the number of pending executions before it, plus one; None unless it is pending, or if unknown."""
        if record.state is not State.PENDING:
            return None
        try:
            return 1 + await self._history.pending_before(position_of(record))
        except Unavailable:
            return None


def unrecorded(ref: ExecutionRef, at: datetime, timeout: int = 0) -> Record:
    """Return the expected record of a submit that the submit function has not recorded yet."""
    return Record(
        execution_id=ref.execution,
        project_id=ref.project,
        state=State.PENDING,
        submitted_at=at,
        updated_at=at,
        timeout_seconds=timeout,
        message="submitted; not picked up yet",
    )


def _matches(wanted: Filter, item: TaskSummary) -> bool:
    """Apply a filter as the database does, except that no result is searched: an open execution has no result."""
    words, submitted_at = words_of(item.title), position_of(item)[0]
    return (
        (wanted.projects is None or item.project_id in wanted.projects)
        and (not wanted.states or item.status in wanted.states)
        and (wanted.since is None or submitted_at >= wanted.since)
        and (wanted.until is None or submitted_at < wanted.until)
        and (wanted.session_id is None or item.session_id == wanted.session_id)
        and (wanted.task_id is None or item.task_id == wanted.task_id)
        and (wanted.rerun_of is None or item.rerun_of == wanted.rerun_of)
        and item.execution_id.startswith(wanted.id_prefix)
        and all(name in item.labels and value in (None, item.labels[name]) for name, value in wanted.labels)
        and (wanted.text is None or all(any(w.startswith(q) for w in words) for q in words_of(wanted.text)))
    )


def position_of(item: TaskSummary | Record) -> Position:
    """Return the place of an execution in the list."""
    at = item.submitted_at
    return at if at.tzinfo else at.replace(tzinfo=UTC), item.execution_id, item.project_id


def encode_cursor(position: Position) -> str:
    """Return a position as an opaque string."""
    at, *names = position
    return base64.urlsafe_b64encode("|".join((at.isoformat(), *names)).encode()).decode().rstrip("=")


def decode_cursor(text: str) -> Position:
    """Return the position encoded by `encode_cursor`.

    Raises:
        Problem: 422, it is not one.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        submitted, execution, project = raw.split("|")
        return datetime.fromisoformat(submitted).astimezone(UTC), execution, project
    except (ValueError, OverflowError, binascii.Error):
        raise invalid([FieldError(field="cursor", message="must be the `next` of an earlier page")]) from None
