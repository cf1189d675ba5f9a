"""The error tree. The base class of an error decides the delivery of the event that caused it.

`Retry`: negative acknowledgement, redelivery with backoff. `Drop`: acknowledgement without effect. `DeadLetter`: a
dead letter in `OCF_DLQ` with the reason. The docstring of a class is its default message.
"""

from __future__ import annotations

from typing import ClassVar


class OcfError(Exception):
    """Something went wrong."""

    #: HTTP status of a function's response, by which the dispatcher decides (`dispatcher/delivery_result.py`).
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class Retry(OcfError):
    """The event cannot be handled now; redeliver it later."""

    http_status = 503


class Busy(Retry):
    """All slots are taken; the dispatcher waits. This is not a failure."""

    http_status = 429


class NotItsTurn(Retry):
    """Other executions of its session or project come first; the event is requeued. This is not a failure."""

    http_status = 425


#: Errors that mean "wait", not "failed": many of them mean that the cluster is full.
WAITING = (Busy, NotItsTurn)


class Conflict(Retry):
    """The record was changed concurrently."""

    http_status = 409


class NotYetKnown(Retry):
    """The execution does not exist yet: its submit may still be on the way."""

    http_status = 404


class KeyNotYetKnown(Retry):
    """A secret was sealed under a key that this process does not know; a rotation may be under way."""


class Unavailable(Retry):
    """A dependency of this function does not answer."""


class Drop(OcfError):
    """The event no longer has an effect."""

    http_status = 200


class DeadLetter(OcfError):
    """The event can never be handled."""

    http_status = 422


class InvalidEvent(DeadLetter):
    """The event is not valid."""

    http_status = 400


class TooLarge(DeadLetter):
    """The message is larger than the bus accepts."""

    http_status = 413


class Unreadable(DeadLetter):
    """A record cannot be read."""


class IllegalStep(DeadLetter):
    """The life cycle does not allow this step from this state."""


class SealError(DeadLetter):
    """A sealed key could not be opened."""
