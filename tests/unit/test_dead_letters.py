"""Dead letters: where they lie, what they keep, how they go."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ocf.events import dead_letters, subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.ports import Message
from tests.support.clock import ManualClock

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"


def composed(message: Message, *, with_data: bool = True, reason: str = "it broke") -> Message:
    subject, data, headers = dead_letters.compose(
        "submit", message, status=503, reason=reason, at=NOW, with_data=with_data
    )
    return Message(subject, data, headers, 1)


def test_a_letter_keeps_the_event_and_says_why() -> None:
    """Headers of the event and its data are kept, so that it can be published again; nothing else of its headers is."""
    forged = {"ce-id": "1", "Content-Type": "application/json", "Nats-Rollup": "all", "ocf-dlq-subject": "ocf.x"}
    letter = composed(Message(f"ocf.cmd.submit.p.{ID}", b"{}", forged, 7, deliveries=3), reason="ärger\r\nX: y")
    assert (letter.subject, letter.data) == (f"ocf.dlq.submit.p.{ID}", b"{}")
    found = dead_letters.read(letter)
    assert (found.consumer, found.subject, found.sequence) == ("submit", f"ocf.cmd.submit.p.{ID}", 7)
    assert (found.deliveries, found.status, found.reason) == (3, 503, "ärger\r\nX: y")
    assert (found.failed_at, found.has_data) == ("2026-01-02T00:00:00.000000Z", True)
    assert dead_letters.event_headers(letter) == {"ce-id": "1", "Content-Type": "application/json"}
    assert "\n" not in "".join(letter.headers.values())


def test_dead_letter_of_an_unreadable_event_has_no_data() -> None:
    """Size and hash stay; of the headers only what identifies it, where that is one word."""
    headers = {"ce-id": "a-1", "ce-type": "my secret prompt", "ce-note": "x", "Authorization": "y"}
    letter = composed(Message(f"ocf.cmd.submit.p.{ID}", b"abc", headers, 7), with_data=False)
    found = dead_letters.read(letter)
    assert (letter.data, found.size, found.has_data) == (b"", 3, False)
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert dead_letters.event_headers(letter) == {"ce-id": "a-1"}


def test_a_message_that_fills_a_letter_is_kept_without_its_data() -> None:
    """A letter that is larger than a message may be could never be written, and its message would come for ever."""
    message = Message(f"ocf.cmd.submit.p.{ID}", b"x" * (1024 * 1024 - 300), {"ce-id": "1"}, 7)
    assert dead_letters.read(composed(message)).size == len(message.data)
    message = Message(f"ocf.cmd.submit.p.{ID}", b"x" * (1024 * 1024 - 64 * 1024), {"ce-id": "1"}, 7)
    assert dead_letters.read(composed(message)).has_data


@pytest.mark.parametrize(
    ("came_on", "lies_on"),
    [
        (f"ocf.evt.p.{ID}.completed", f"ocf.dlq.sink-a.p.{ID}"),
        (f"ocf.evt.p.{ID}.completed.again.archive", f"ocf.dlq.sink-a.p.{ID}"),
        (f"ocf.cmd.session.p.{ID}", f"ocf.dlq.sink-a.p.{ID}"),
        ("ocf.cmd.submit.a b.ä", "ocf.dlq.sink-a.a%20b.%C3%A4"),
        ("ocf.cmd.submit.p.*", "ocf.dlq.sink-a.p.%2A"),
        ("ocf.cmd.submit.p", "ocf.dlq.sink-a._._"),
        ("", "ocf.dlq.sink-a._._"),
    ],
)
def test_a_letter_lies_where_its_execution_is_named(came_on: str, lies_on: str) -> None:
    """Odd names are encoded, so that none breaks out of its token."""
    assert dead_letters.subject("sink-a", subjects.base_subject(came_on)) == lies_on


async def test_the_letters_of_an_execution_go_without_the_others_being_read() -> None:
    """Deleting is one purge of its subjects; what is about others, or the same id of another project, stays."""
    bus = MemoryBus(ManualClock())

    def unread(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be read")

    for consumer, project in (("submit", "p"), ("sink-a", "p"), ("submit", "q")):
        await bus.publish(dead_letters.subject(consumer, f"ocf.cmd.submit.{project}.{ID}"), b"", {})
    history, bus.history = bus.history, unread  # type: ignore[method-assign, assignment]
    assert await dead_letters.delete(bus, "p", ID) == 2
    assert [m.subject async for m in history(subjects.DLQ, dead_letters.ALL)] == [f"ocf.dlq.submit.q.{ID}"]


async def test_letters_of_an_earlier_release_are_read_and_moved() -> None:
    """They lay on the consumer's subject alone; afterwards they are deleted as the others are."""
    bus = MemoryBus(ManualClock())
    old = {"ce-id": "1", "Ocf-Dlq-Consumer": "submit", "Ocf-Dlq-Subject": f"ocf.cmd.submit.p.{ID}"}
    await bus.publish("ocf.dlq.submit", b"{}", {**old, "Ocf-Dlq-Reason": "it%20broke"})
    (before,) = [m async for m in bus.history(subjects.DLQ, dead_letters.ALL)]
    assert (dead_letters.read(before).reason, dead_letters.read(before).has_data) == ("it broke", True)
    assert await dead_letters.move_old(bus) == 1
    (after,) = [m async for m in bus.history(subjects.DLQ, dead_letters.ALL)]
    assert (after.subject, after.data) == (f"ocf.dlq.submit.p.{ID}", b"{}")
    assert dead_letters.read(after) == dead_letters.read(before)
    assert await dead_letters.move_old(bus) == 0
    assert await dead_letters.delete(bus, "p", ID) == 1
