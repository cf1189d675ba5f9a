"""Publishing a command: the one place that puts it on its subject."""

from __future__ import annotations

from ocf.events.envelope import Event
from ocf.events.ports import Bus


async def publish_command(bus: Bus, event: Event, project: str, *, only_first: bool = False) -> int:
    """Publish the command `event` about the execution or session that is its subject; return its stream sequence.

    A repeated call of one event is kept once (for two minutes): its id is a random one of ours, and nobody else has
    seen it. With `only_first` the subject itself decides, and no id: everybody who may publish any command shares the
    stream's message ids, so that one that can be guessed could be used up before (`Nats-Msg-Id`, JetStream).

    Raises:
        Conflict: `only_first`, and the subject has a message already.
        Unavailable: not kept in time.
    """
    identity = {} if only_first else {"Nats-Msg-Id": event.id}
    subject = event.spec.subject(project, event.subject or "")
    return await bus.publish(subject, event.data, {**event.headers(), **identity}, only_first=only_first)
