"""history: write the rows of an execution for each of its facts.

The rows come from the record, which is at least as new as the fact. A repeated, late or reordered fact therefore
changes nothing, and executions of earlier releases, whose facts have fewer fields, get complete rows too.
"""

from __future__ import annotations

from ocf.events import subjects
from ocf.events.command_publisher import NATS_DELIVERIES
from ocf.events.envelope import Event, parse
from ocf.events.errors import DeadLetter, Drop, InvalidEvent, NotYetKnown, OcfError
from ocf.events.event_types import TERMINAL_TYPES
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.fact_payloads import Fact, SessionCreated, SessionDestroyed
from ocf.events.ports import Bus
from ocf.functions.core.command_parsing import ids_of
from ocf.functions.core.execution_store import Records
from ocf.functions.core.session_store import Sessions
from ocf.functions.database.store import History

#: Deliveries after which a fact that fails unexpectedly becomes a dead letter.
MAX_TRIES = 30
_ENDS = frozenset(spec.type for spec in TERMINAL_TYPES.values())


async def history(event: Event, *, bus: Bus, records: Records, session_records: Sessions, history: History) -> None:
    """Handle a fact about an execution or a session.

    Raises:
        Unavailable: The database does not answer; the fact waits.
        NotYetKnown: A lagging replica of the bucket does not have the fact's change yet.
        Drop: There is no record any more, or the fact changes no row.
        DeadLetter: The fact cannot become a row. Other executions are not affected.
    """
    try:
        fact = parse(event)
        if isinstance(fact, SessionCreated | SessionDestroyed):
            await _project_session(fact, bus, session_records, history)
        elif isinstance(fact, Fact):
            await _project(event, bus, records, history)
        else:
            raise Drop("not a fact that changes a row")
    except (OcfError, OSError):
        raise
    except Exception as error:
        if isinstance(error, (ArithmeticError, ValueError)) or _deliveries(event) >= MAX_TRIES:
            raise DeadLetter(f"the fact cannot become a row: {type(error).__name__}") from None
        raise


def _deliveries(event: Event) -> int:
    return int(event.extensions.get(NATS_DELIVERIES, "1"))


async def _project(event: Event, bus: Bus, records: Records, history: History) -> None:
    ref = ExecutionRef(*ids_of(event))
    try:
        subjects.check_project(ref.project)
        subjects.check_id(ref.execution)
    except InvalidEvent:
        raise Drop("rejected under an invalid id: there is no execution") from None
    if event.type == "dev.ocf.task.cleaned.v1":
        await history.remove(ref)
        return
    record = await records.get(ref.project, ref.execution)
    if record is None:
        raise Drop(f"execution {ref} has no record any more")
    if (event.type in _ENDS and not record.terminal and event.type != "dev.ocf.task.rejected.v1") or (
        event.type == "dev.ocf.task.archived.v1" and not record.archived
    ):
        raise NotYetKnown(f"the record of {ref} does not show {event.type} yet")
    await history.save(record, [event])
    # Cleanup removes the record, then publishes `cleaned`. If it did so meanwhile, these rows would stay.
    if await records.get(ref.project, ref.execution) is None and await bus.last(subjects.EVENTS, ref.fact("cleaned")):
        await history.remove(ref)


async def _project_session(
    fact: SessionCreated | SessionDestroyed, bus: Bus, sessions: Sessions, history: History
) -> None:
    ref = SessionRef(fact.project_id, fact.session_id)
    session = await sessions.get(ref.project, ref.session) if isinstance(fact, SessionCreated) else None
    if session is not None:
        await history.save_session(session)
    # `destroyed` is published before the record is deleted, and may have been handled meanwhile.
    if session is None or await bus.last(subjects.EVENTS, subjects.fact(ref.project, ref.session, "destroyed")):
        await history.remove_session(ref)
