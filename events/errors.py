"""The error tree. A class's name decides what delivery does with the event that caused it.

`Retry` is negatively acknowledged and delivered again with backoff, `Drop` is acknowledged
without effect, `DeadLetter` goes to `OCF_DLQ` with the reason. The docstring of a class is its
default message.
"""

from __future__ import annotations

from typing import ClassVar


class OcfError(Exception):
    """Something went wrong."""

    #: The HTTP status a function answers with, and so what the dispatcher does (see wiring.py).
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class Retry(OcfError):
    """The event cannot be handled now; deliver it again later."""

    http_status = 503


class Busy(Retry):
    """All slots are taken; the dispatcher waits, which is not a failure."""

    http_status = 429


class NotItsTurn(Retry):
    """Others of its session or project come first; it is given back and comes again, which is not a failure."""

    http_status = 425


#: What has to wait, and has not failed: with many of them a cluster is full, and nothing is wrong.
WAITING = (Busy, NotItsTurn)


class Conflict(Retry):
    """Somebody else changed the record first."""

    http_status = 409


class NotYetKnown(Retry):
    """The execution is not known (yet): its submit may still be on the way."""

    http_status = 404


class Unavailable(Retry):
    """A part this function depends on does not answer."""


class Drop(OcfError):
    """The event has no effect any more."""

    http_status = 200


class DeadLetter(OcfError):
    """The event can never be handled."""

    http_status = 422


class InvalidEvent(DeadLetter):
    """The event is not valid."""

    http_status = 400


class TooLarge(DeadLetter):
    """The message is larger than the bus takes."""

    http_status = 413


class Unreadable(DeadLetter):
    """A record cannot be read."""


class IllegalStep(DeadLetter):
    """The life cycle has no such step from this state."""


class SealError(DeadLetter):
    """A sealed key could not be opened."""
