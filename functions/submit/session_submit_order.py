"""Order of the submits of a session: that of their publication, also when one of them is delivered again."""

from __future__ import annotations

from ocf.events import subjects, untrusted_json
from ocf.events.command_payloads import Submit
from ocf.events.command_publisher import NATS_DELIVERIES, NATS_SEQUENCE
from ocf.events.envelope import Event, decode
from ocf.events.errors import InvalidEvent, NotItsTurn
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bus, Message
from ocf.functions.core.execution_store import Records

#: Stream sequences before a submit in which an earlier one is looked for. A later submit overtakes only one whose
#: delivery was lost with its dispatcher, and that lies close by.
_LOOK_BACK = 256
#: Bytes of them that are read: more would let one project's large submits take the time of the others.
_BYTES = 8 * untrusted_json.MIB
#: Deliveries of a submit, a second or more apart, until it no longer waits: the earlier one may be a dead letter.
_PATIENCE = 120


async def check_order(event: Event, data: Submit, bus: Bus, records: Records) -> None:
    """Check that no earlier submit of the task's session is still to be delivered.

    A dispatcher keeps the order of what it delivers itself. What a dead or frozen one had in flight comes again after
    the ack wait, behind later submits.

    Raises:
        NotItsTurn: An earlier submit of the session is not recorded; the event is requeued.
    """
    sequence = int(event.extensions.get(NATS_SEQUENCE) or 0)
    if int(event.extensions.get(NATS_DELIVERIES) or 1) > _PATIENCE:
        return
    after, unread, of_project = max(0, sequence - _LOOK_BACK), _BYTES, f"ocf.cmd.submit.{data.project_id}.*"
    while unread > 0 and (message := await bus.first(subjects.COMMANDS, of_project, after=after)) is not None:
        if message.sequence >= sequence:
            return
        after, unread = message.sequence, unread - len(message.data)
        if await _comes_first(message, str(data.session_id), bus, records):
            raise NotItsTurn(f"{message.subject} of session {data.session_id} was published before and comes first")


async def _comes_first(message: Message, session: str, bus: Bus, records: Records) -> bool:
    """Return whether a message submits to the session and was neither handled nor rejected."""
    if session.encode() not in message.data:
        return False
    try:
        about = subjects.parse(message.subject)
        ref = ExecutionRef(about.project, subjects.check_id(about.entity))
        event = decode(message.headers, message.data)
    except InvalidEvent:
        return False  # the dispatcher or the function rejects it
    return untrusted_json.text_member(event.data, "session_id") == session and await _undecided(ref, bus, records)


async def _undecided(ref: ExecutionRef, bus: Bus, records: Records) -> bool:
    """Return whether a submit was neither recorded nor rejected, and its execution was not deleted."""
    if await records.get(ref.project, ref.execution) is not None:
        return False
    facts = [await bus.last(subjects.EVENTS, ref.fact(what)) for what in ("rejected", "cleaned")]
    return not any(facts)
