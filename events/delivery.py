"""Marks that the dispatcher puts on an event: CloudEvents extensions. A publisher's own are overwritten."""

from __future__ import annotations

#: The NATS subject that the event came on.
NATS_SUBJECT = "natssubject"
#: Its sequence in its stream.
NATS_SEQUENCE = "natssequence"
#: Its deliveries, this one included.
NATS_DELIVERIES = "natsdeliveries"
