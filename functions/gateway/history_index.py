"""History of executions in memory, so that a page of it needs no look-ups.

It follows the bucket: all entries once, then those changed since, after every fact and every second. Revisions only
grow, so a reconnect misses nothing. Deleted records are dropped on their `cleaned` fact, and a full comparison from
time to time finds those whose fact was missed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from ocf.events import subjects
from ocf.events.errors import InvalidEvent, OcfError
from ocf.events.execution_record import Record
from ocf.events.fact_payloads import FieldError
from ocf.events.lifecycle import State
from ocf.events.ports import Bucket, Bus, Clock
from ocf.events.refs import ExecutionRef
from ocf.functions.gateway.auth import Principal
from ocf.functions.gateway.problems import invalid
from ocf.functions.gateway.response_schemas import TaskSummary

log = structlog.get_logger()

_POLL = 1.0
_COMPARE = 600.0

#: Newest last: (submitted, in microseconds since 1970; execution; project).
Position = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One execution: the fields that filters use, and the JSON of its summary, ready to send."""

    position: Position
    revision: int
    state: State
    task_id: str | None
    session_id: str | None
    #: Casefolded, for case-insensitive search.
    title: str
    labels: dict[str, str]
    summary: bytes


@dataclass(frozen=True)
class Query:
    """Filter of executions: every condition that is set must hold. Times limit the submission."""

    projects: frozenset[str] | None
    states: frozenset[State] = frozenset()
    labels: tuple[tuple[str, str | None], ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    session_id: str | None = None
    task_id: str | None = None
    #: Part of the title, casefolded.
    text: str | None = None
    #: Beginning of the execution's id.
    id_prefix: str = ""

    def matches(self, row: Row) -> bool:
        """Return whether `row` matches."""
        return (
            (self.projects is None or row.position[2] in self.projects)
            and (not self.states or row.state in self.states)
            and (self.session_id is None or row.session_id == self.session_id)
            and (self.task_id is None or row.task_id == self.task_id)
            and all(key in row.labels and value in (None, row.labels[key]) for key, value in self.labels)
            and (self.text is None or self.text in row.title)
            and row.position[1].startswith(self.id_prefix)
        )


class Index:
    """Rows by submission time. Single writer: `run`."""

    def __init__(self, bus: Bus, executions: Bucket, clock: Clock) -> None:
        self._bus = bus
        self._executions = executions
        self._clock = clock
        self._rows: dict[Position, Row] = {}
        self._positions: list[Position] = []
        self._position_of: dict[str, Position] = {}
        self._projects: dict[str, set[str]] = {}
        self._revision = 0
        self._cleaned: set[str] = set()
        self._wake = asyncio.Event()
        self.ready = False

    def __len__(self) -> int:
        return len(self._rows)

    # -- following the bucket ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the bucket until cancelled, over every failure of the bus."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen())
                    tasks.create_task(self._follow())
            except* (OcfError, OSError, TimeoutError) as failed:
                log.warning("history is not up to date", action="gateway.index.lost", error=str(failed.exceptions[0]))
            except* Exception:
                # A bug of ours must not end the history of all projects.
                log.exception("history is not up to date", action="gateway.index.failed")
            await self._clock.sleep(_POLL)

    async def _listen(self) -> None:
        async with self._bus.listen("ocf.evt.*.*.*") as facts:
            async for message in facts:
                try:
                    fact = subjects.parse(message.subject)
                except InvalidEvent:
                    continue  # not a subject of this system, so none of its records changed
                if fact.verb == "cleaned":
                    self._cleaned.add(ExecutionRef(fact.project, fact.entity).record_key)
                self._wake.set()

    async def _follow(self) -> None:
        compared = self._clock.monotonic()
        while True:
            await self.refresh()
            if self._clock.monotonic() - compared > _COMPARE:
                await self._compare()
                compared = self._clock.monotonic()
            try:
                async with asyncio.timeout(_POLL):
                    await self._wake.wait()
            except TimeoutError:
                continue
            # Facts come in bursts: one read covers them.
            await self._clock.sleep(0.02)

    async def refresh(self) -> None:
        """Read the changes since the last time."""
        self._wake.clear()
        async for entry in self._executions.entries("*.*", after=self._revision):
            self._put(entry.key, entry.value, entry.revision)
            self._revision = entry.revision
        cleaned, self._cleaned = self._cleaned, set()
        for key in cleaned:
            if await self._executions.get(key) is None:
                self.forget(key)
        self.ready = True

    async def _compare(self) -> None:
        before = set(self._position_of)
        remaining = {entry.key async for entry in self._executions.entries("*.*")}
        for key in before - remaining:
            self.forget(key)

    def _put(self, key: str, value: bytes, revision: int) -> None:
        try:
            record = Record.read(value)
            position = (_micros(record.submitted_at), record.execution_id, record.project_id)
            summary = TaskSummary.of(record).model_dump_json(exclude_none=True).encode()
        except Exception as error:  # one bad record must not hide the others
            log.error("unreadable record", action="gateway.index.unreadable", key=key, error=type(error).__name__)
            return
        old = self._position_of.get(key)
        if old is not None and old != position:
            self.forget(key)
        if old != position:
            self._position_of[key] = position
            insort(self._positions, position)
            self._projects.setdefault(record.execution_id, set()).add(record.project_id)
        self._rows[position] = Row(
            position,
            revision,
            record.state,
            record.task_id,
            record.session_id,
            record.title.casefold(),
            record.labels,
            summary,
        )

    def forget(self, key: str) -> None:
        """Drop a deleted record."""
        position = self._position_of.pop(key, None)
        if position is None:
            return
        del self._rows[position]
        del self._positions[bisect_left(self._positions, position)]
        _, execution, project = position
        self._projects[execution].discard(project)
        if not self._projects[execution]:
            del self._projects[execution]

    # -- asking ----------------------------------------------------------------------------------------------------

    def page(self, query: Query, limit: int, cursor: Position | None) -> tuple[list[Row], Position | None]:
        """Return the newest `limit` rows below `cursor`, and the cursor of the next page if there is one."""
        found: list[Row] = []
        for row in self._newest_first(query, cursor):
            if not query.matches(row):
                continue
            if len(found) == limit:
                return found, found[-1].position
            found.append(row)
        return found, None

    def _newest_first(self, query: Query, cursor: Position | None) -> Iterator[Row]:
        end = len(self._positions) if cursor is None else bisect_left(self._positions, cursor)
        if query.until is not None:
            end = min(end, bisect_left(self._positions, (_micros(query.until), "", "")))
        start = 0 if query.since is None else bisect_left(self._positions, (_micros(query.since), "", ""))
        for at in range(end - 1, start - 1, -1):
            yield self._rows[self._positions[at]]

    def projects_of(self, execution: str, caller: Principal) -> list[str]:
        """Return the caller's projects that have an execution of that id."""
        return sorted(project for project in self._projects.get(execution, ()) if caller.may(project))

    def queue_position(self, record: Record) -> int | None:
        """Return the number of pending executions before it, plus one; None unless it is pending."""
        if record.state is not State.PENDING:
            return None
        mine = (_micros(record.submitted_at), record.execution_id, record.project_id)
        return 1 + sum(row.state is State.PENDING and row.position < mine for row in self._rows.values())


def _micros(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1_000_000)


def encode_cursor(position: Position) -> str:
    """Return a position as an opaque string."""
    return base64.urlsafe_b64encode("|".join(map(str, position)).encode()).decode().rstrip("=")


def decode_cursor(text: str) -> Position:
    """Return the position encoded by `encode_cursor`.

    Raises:
        Problem: 422, it is not one.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        submitted, execution, project = raw.split("|")
        return int(submitted), execution, project
    except (ValueError, binascii.Error):
        raise invalid([FieldError(field="cursor", message="must be the `next` of an earlier page")]) from None
