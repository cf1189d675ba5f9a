"""Order of the submits of a session: that of their publication, also when one of them is delivered again."""

from __future__ import annotations

from ocf.events import input_limits, subjects
from ocf.events.command_payloads import Submit
from ocf.events.command_publisher import NATS_DELIVERIES, NATS_SEQUENCE
from ocf.events.envelope import Event, decode
from ocf.events.errors import InvalidEvent, NotItsTurn
from ocf.events.ports import Bus, Message
from ocf.events.refs import ExecutionRef
from ocf.functions.core.execution_store import Records

#: Stream sequences before a submit in which an earlier one is looked for. A later submit overtakes only one whose
#: delivery was lost with its dispatcher, and that lies close by.
_LOOK_BACK = 256
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
    after, session = max(0, sequence - _LOOK_BACK), str(data.session_id)
    while (
        message := await bus.first(subjects.COMMANDS, f"ocf.cmd.submit.{data.project_id}.>", after=after)
    ) is not None:
        if message.sequence >= sequence:
            return
        after = message.sequence
        earlier = _submit_of(message, data.project_id, session)
        if earlier is not None and await _undecided(earlier, bus, records):
            raise NotItsTurn(f"submit {earlier.execution} of session {session} was published before and comes first")


def _submit_of(message: Message, project: str, session: str) -> ExecutionRef | None:
    """Return the execution that a message submits to the session, or None."""
    if session.encode() not in message.data:
        return None
    try:
        data = input_limits.parse_json(decode(message.headers, message.data).data, input_limits.EVENT)
    except InvalidEvent:
        return None  # the dispatcher or the function rejects it
    if not isinstance(data, dict) or data.get("session_id") != session:
        return None
    return ExecutionRef(project, message.subject.rpartition(".")[2])


async def _undecided(ref: ExecutionRef, bus: Bus, records: Records) -> bool:
    """Return whether a submit was neither recorded nor rejected, and its execution was not deleted."""
    if await records.get(ref.project, ref.execution) is not None:
        return False
    facts = [await bus.last(subjects.EVENTS, ref.fact(what)) for what in ("rejected", "cleaned")]
    return not any(facts)
