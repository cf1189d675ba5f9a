"""Routes from event types to functions: one table for the local stack, the cluster and the docs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ocf.events import subjects
from ocf.events.event_types import TERMINAL_TYPES, TYPES
from ocf.events.ports import ConsumerSpec

_ENDED = tuple(spec.verb for spec in TERMINAL_TYPES.values())
#: A rejected session command has the subject of a rejected submit.
_SESSION_REJECTED = "dev.ocf.session.rejected.v1"
#: Every fact about an execution, and those by which a session begins and ends.
_HISTORY = tuple(
    spec
    for spec in TYPES.values()
    if spec.kind == "evt" and (spec.entity == "execution" or spec.verb in ("created", "destroyed"))
)
#: High enough that messages waiting for a retry do not block later ones.
_MAX_ACK_PENDING = 1_000


@dataclass(frozen=True)
class Route:
    """One durable consumer and its function.

    Args:
        consumer: Durable name.
        function: The function.
        stream: Stream of the consumer.
        subjects: Subject filters.
        types: Event types of the function; other types on these subjects become dead letters. Empty: every type.
        in_flight: Concurrent deliveries of one dispatcher.
        max_deliveries: Failures (5xx, 404, 409, no response) until an event becomes a dead letter; 0 means no limit.
        timeout: Seconds for a response; None means the duration of the execution.
        ack_wait: Seconds until an unacknowledged message is redelivered.
        ordering_key: A field of the data. Events with the same value reach the function one by one, in stream order.
        strict_order: Later events of the same key also wait while one of them is to be redelivered.
        max_ack_pending: Maximum of unsettled messages, including those waiting for a retry; 0 means `in_flight`.
        from_now: A new consumer starts with new messages.
        requeues: The function lets events wait (425). Deliveries then say nothing about failures.
        by_project: Subject filters of one project. Each project then has its own consumer, and they share the slots.
    """

    consumer: str
    function: str
    stream: str
    subjects: tuple[str, ...]
    types: tuple[str, ...]
    in_flight: int
    max_deliveries: int
    timeout: float | None
    ack_wait: float = 30.0
    ordering_key: str | None = None
    strict_order: bool = False
    max_ack_pending: int = 0
    from_now: bool = False
    requeues: bool = False
    by_project: tuple[str, ...] = ()

    def spec(self) -> ConsumerSpec:
        """Return the durable consumer."""
        unsettled = self.max_ack_pending or self.in_flight
        return ConsumerSpec(self.consumer, self.stream, self.subjects, self.ack_wait, unsettled, self.from_now)

    def shared(self) -> ConsumerSpec:
        """Return the shared consumer, which shows the projects with messages (ADR 0012).

        It has no limit of unsettled messages, which could block it.
        """
        return replace(self.spec(), max_in_flight=0, headers_only=True)

    def own(self, project: str, start: int) -> ConsumerSpec:
        """Return the durable consumer of one project, from stream sequence `start` on."""
        filters = tuple(template.format(project=project) for template in self.by_project)
        return replace(self.spec(), name=f"{self.consumer}-{project}", subjects=filters, start=start)

    def owner(self, name: str) -> str | None:
        """Return the project of a consumer of this route by the consumer's name, or None."""
        prefix = f"{self.consumer}-"
        return subjects.project_name(name.removeprefix(prefix)) if name.startswith(prefix) and self.by_project else None


def _command(
    verb: str,
    *,
    in_flight: int,
    max_deliveries: int,
    timeout: float | None,
    ordering_key: str | None = None,
    strict_order: bool = False,
    max_ack_pending: int = _MAX_ACK_PENDING,
) -> Route:
    prefix = f"ocf.cmd.{verb}."
    types = tuple(name for name, spec in TYPES.items() if spec.subject_template.startswith(prefix))
    route = Route(verb, verb, subjects.COMMANDS, (f"{prefix}>",), types, in_flight, max_deliveries, timeout)
    of_project = (f"{prefix}{{project}}.>",)
    return replace(
        route,
        ordering_key=ordering_key,
        strict_order=strict_order,
        max_ack_pending=max_ack_pending,
        by_project=of_project,
    )


ROUTES: tuple[Route, ...] = (
    # Submits of one session are queued in the order of their publication.
    _command("submit", in_flight=32, max_deliveries=20, timeout=60.0, ordering_key="session_id", strict_order=True),
    # An execution waits for a free slot without limit, and is never dropped. `in_flight` is above the number of slots
    # in the cluster (max-scale times its concurrency), also for a single project, which may use three quarters.
    _command("execute", in_flight=160, max_deliveries=0, timeout=None, max_ack_pending=20_000),
    # A forge that is away for long is a dead letter, and the result can be pushed again. Both verbs are one function's.
    _command("result", in_flight=4, max_deliveries=5, timeout=900.0),
    replace(_command("comment", in_flight=4, max_deliveries=40, timeout=120.0), function="result"),
    _command("cancel", in_flight=32, max_deliveries=12, timeout=60.0),
    _command("cleanup", in_flight=8, max_deliveries=60, timeout=300.0),
    # Not strict: an attach that arrived before its create must let the create pass.
    _command("session", in_flight=8, max_deliveries=20, timeout=300.0, ordering_key="session_id"),
    Route(
        "archive",
        "archive",
        subjects.EVENTS,
        (*(f"ocf.evt.*.*.{what}" for what in _ENDED), subjects.redelivery_subject("ocf.evt.*.*.*", "archive")),
        (*(f"dev.ocf.task.{what}.v1" for what in _ENDED), _SESSION_REJECTED),
        in_flight=4,
        max_deliveries=0,
        timeout=900.0,
        max_ack_pending=_MAX_ACK_PENDING,
        by_project=(
            *(f"ocf.evt.{{project}}.*.{what}" for what in _ENDED),
            subjects.redelivery_subject("ocf.evt.{project}.*.*", "archive"),
        ),
    ),
    # Events of other systems. `max_concurrent` of a rule and `overlap: queue` of a schedule let them wait (425).
    Route(
        "trigger",
        "trigger",
        subjects.INBOX,
        ("ocf.in.>",),
        (),
        in_flight=32,
        max_deliveries=20,
        timeout=60.0,
        max_ack_pending=_MAX_ACK_PENDING,
        requeues=True,
        by_project=("ocf.in.{project}.>",),
    ),
    # Apart from events, so that a slow forge holds no event back. The next tick of a rule repeats a poll.
    Route(
        "poll",
        "trigger",
        subjects.INBOX,
        ("ocf.poll.>",),
        (),
        in_flight=8,
        max_deliveries=1,
        timeout=60.0,
        max_ack_pending=_MAX_ACK_PENDING,
        by_project=("ocf.poll.{project}.>",),
    ),
    # One consumer for all projects, so that its backlog tells how far the history is behind.
    Route(
        "history",
        "history",
        subjects.EVENTS,
        (*(f"ocf.evt.*.*.{spec.verb}" for spec in _HISTORY), subjects.redelivery_subject("ocf.evt.*.*.*", "history")),
        (*(spec.type for spec in _HISTORY), _SESSION_REJECTED),
        in_flight=16,
        max_deliveries=0,
        timeout=30.0,
        max_ack_pending=_MAX_ACK_PENDING,
    ),
)


def backoff(failures: int) -> float:
    """Return the seconds until the next attempt after so many failures: 0.5, 1, 2, 4 … 30."""
    return min(30.0, 0.5 * 2.0 ** min(failures - 1, 10))
