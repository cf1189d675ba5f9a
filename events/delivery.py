"""CloudEvents extensions that the dispatcher sets on an event. It overwrites values set by a publisher."""

from __future__ import annotations

#: NATS subject of the event's message.
NATS_SUBJECT = "natssubject"
#: Stream sequence of the message.
NATS_SEQUENCE = "natssequence"
#: Number of deliveries of the message, including this one.
NATS_DELIVERIES = "natsdeliveries"
