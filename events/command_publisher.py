"""Publishing of commands, and the marks (CloudEvents extensions) that the dispatcher puts on a delivered event."""

from __future__ import annotations

from ocf.events.envelope import Event
from ocf.events.ports import Bus

#: NATS subject of the event's message.
NATS_SUBJECT = "natssubject"
#: Stream sequence of the message.
NATS_SEQUENCE = "natssequence"
#: Subject of the NATS schedule that published the message; absent or empty for any other publisher.
NATS_SCHEDULER = "natsscheduler"
#: Number of deliveries of the message, including this one.
NATS_DELIVERIES = "natsdeliveries"


async def publish_command(bus: Bus, event: Event, project: str, *, only_first: bool = False) -> int:
    """Publish a command about the execution or session in its `subject`; return its stream sequence.

    A repeated publish of the same event is stored once (within two minutes), by its random id as `Nats-Msg-Id`. With
    `only_first` the message has no id, and the stream refuses a second message on the subject. All publishers of
    commands share the stream's message ids, so another publisher could occupy an id that it can guess.

    Raises:
        Conflict: `only_first` is set, and the subject has a message.
        Unavailable: The message was not stored in time.
    """
    identity = {} if only_first else {"Nats-Msg-Id": event.id}
    subject = event.spec.subject(project, event.subject or "")
    return await bus.publish(subject, event.data, {**event.headers(), **identity}, only_first=only_first)
