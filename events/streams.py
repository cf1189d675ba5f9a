"""The JetStream streams and buckets as data. `ocf.functions.runtime.setup` applies it idempotently."""

from __future__ import annotations

from dataclasses import dataclass, field

from ocf.events import subjects as s

DAY = 86_400
#: Longer than any command waits: the sweep ends an execution that has not started within two days. A submit that no
#: function has taken is rejected before (`ocf.functions.cleanup.undelivered`). Schedules never expire (`Nats-TTL`).
COMMANDS_AGE = 30 * DAY


@dataclass(frozen=True)
class StreamSpec:
    """One stream. Times are in seconds, sizes in bytes; 0 means unlimited."""

    name: str
    subjects: tuple[str, ...]
    description: str
    max_age: int = 0
    max_bytes: int = 0
    max_msg_size: int = 1024 * 1024
    duplicate_window: int = 120
    republish: tuple[str, str] | None = None
    schedules: bool = False


@dataclass(frozen=True)
class BucketSpec:
    """One key-value bucket. Keys may have a TTL of their own (leases)."""

    name: str
    description: str
    options: dict[str, object] = field(default_factory=dict)


STREAMS: tuple[StreamSpec, ...] = (
    StreamSpec(
        s.COMMANDS, ("ocf.cmd.>", "ocf.schedule.>"), "commands and schedules", max_age=COMMANDS_AGE, schedules=True
    ),
    StreamSpec(s.EVENTS, ("ocf.evt.>",), "facts", max_age=30 * DAY),
    StreamSpec(
        s.OUTPUT, ("ocf.out.>",), "output of the agents", max_age=7 * DAY, republish=("ocf.out.>", "ocf.live.>")
    ),
    StreamSpec(
        s.INBOX,
        ("ocf.in.>", "ocf.cron.>", "ocf.poll.>"),
        "events of other systems, and schedules",
        max_age=7 * DAY,
        schedules=True,
    ),
    StreamSpec(s.DLQ, ("ocf.dlq.>",), "dead letters, with the reason", max_age=30 * DAY),
)

BUCKETS: tuple[BucketSpec, ...] = (
    BucketSpec(s.EXECUTIONS_BUCKET, "the record and the lease of every execution"),
    BucketSpec(s.OPEN_BUCKET, "the keys of the executions that may be open, for the sweep"),
    BucketSpec(s.SESSIONS_BUCKET, "the record of every session"),
    BucketSpec(s.CREDENTIALS_BUCKET, "the sealed forge credentials of every project"),
    BucketSpec(s.TRIGGERS_BUCKET, "rules, schedules and hooks of every project, and what they last did"),
)
