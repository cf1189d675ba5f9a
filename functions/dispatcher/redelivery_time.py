"""Deliveries that record when they will be redelivered, also those of a consumer without data."""

from __future__ import annotations

from dataclasses import replace

from ocf.events.errors import Unavailable
from ocf.events.ports import Bus, Delivery, Message


class TrackedDelivery:
    """A delivery that will be redelivered in `redelivered_in` seconds, or never (None).

    Args:
        delivery: The delivery.
        ack_wait: Seconds until the server redelivers it without a response.
        message: The message with its data, if `delivery` has none.
    """

    def __init__(self, delivery: Delivery, ack_wait: float, message: Message | None = None) -> None:
        self._delivery = delivery
        self._message = message or delivery.message
        self.redelivered_in: float | None = ack_wait

    @property
    def message(self) -> Message:
        """The message."""
        return self._message

    async def ack(self) -> None:
        """Implement `Delivery.ack`."""
        await self._delivery.ack()
        self.redelivered_in = None

    async def ack_soon(self) -> None:
        """Implement `Delivery.ack_soon`."""
        await self._delivery.ack_soon()
        self.redelivered_in = None

    async def nak(self, delay: float) -> None:
        """Implement `Delivery.nak`."""
        await self._delivery.nak(delay)
        self.redelivered_in = delay

    async def in_progress(self) -> None:
        """Implement `Delivery.in_progress`."""
        await self._delivery.in_progress()


async def with_data(bus: Bus, stream: str, delivery: Delivery, ack_wait: float) -> TrackedDelivery | None:
    """Return the delivery with its data; acknowledge it and return None if the message was deleted.

    Raises:
        Unavailable: NATS does not answer, or a replica that lags does; the message is redelivered.
    """
    message = delivery.message
    found = await bus.first(stream, message.subject, after=message.sequence - 1)
    if found is None:
        # A replica that lags may have answered: the leader knows whether there is a message.
        found = await bus.last(stream, message.subject)
        if found is not None and found.sequence > message.sequence:
            raise Unavailable(f"message {message.sequence} of {stream} cannot be read yet")
    if found is None or found.sequence != message.sequence:
        await delivery.ack()
        return None
    return TrackedDelivery(delivery, ack_wait, replace(found, time=message.time, deliveries=message.deliveries))
