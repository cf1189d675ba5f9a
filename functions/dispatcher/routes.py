"""Which event goes to which function: one table, for the local stack, the cluster and the docs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ocf.events import subjects
from ocf.events.event_types import TYPES
from ocf.events.ports import ConsumerSpec

_ENDED = ("completed", "failed", "cancelled", "timed_out")
#: What waits for its next try must not hold up what comes behind it.
_PENDING = 1_000


@dataclass(frozen=True)
class Route:
    """One durable consumer and the function it feeds.

    `types` are the event types the function takes; anything else on these subjects is dead-lettered.
    `max_deliveries` counts failures (5xx, 404, 409, no answer); 0 means for ever. `timeout` is how long an
    answer may take in seconds; None means as long as the run lasts. `ordering_key` names a field of the data: events
    with the same value there are given to the function one after the other, in stream order; with `strict_order` those
    behind wait, too, while one of them is to be repeated. `pending` is how many may be unsettled, those that wait for
    their next try included (0: as many as in flight); `from_now`: what was said before there was a consumer is not for
    it. `by_project`, the subjects of one project: each project has a consumer of its own, and they share the slots.
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
    by_project: tuple[str, ...] = ()

    def spec(self) -> ConsumerSpec:
        """The durable consumer."""
        unsettled = self.max_ack_pending or self.in_flight
        return ConsumerSpec(self.consumer, self.stream, self.subjects, self.ack_wait, unsettled, self.from_now)

    def shared(self) -> ConsumerSpec:
        """The durable consumer that tells which project has something (ADR 0012). Nothing may keep it from that: it
        has no limit of what is unsettled."""
        return replace(self.spec(), max_in_flight=0, headers_only=True)

    def own(self, project: str, start: int) -> ConsumerSpec:
        """The durable consumer of one project, from stream sequence `start` on."""
        filters = tuple(template.format(project=project) for template in self.by_project)
        return replace(self.spec(), name=f"{self.consumer}-{project}", subjects=filters, start=start)

    def owner(self, name: str) -> str | None:
        """The project whose consumer in this row has that name; None: it is none of these."""
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
    max_ack_pending: int = _PENDING,
) -> Route:
    prefix = f"ocf.cmd.{verb}."
    types = tuple(name for name, spec in TYPES.items() if spec.subject_template.startswith(prefix))
    row = Route(verb, verb, subjects.COMMANDS, (f"{prefix}>",), types, in_flight, max_deliveries, timeout)
    of_project = (f"{prefix}{{project}}.>",)
    return replace(
        row,
        ordering_key=ordering_key,
        strict_order=strict_order,
        max_ack_pending=max_ack_pending,
        by_project=of_project,
    )


ROUTES: tuple[Route, ...] = (
    # Follow-ups of a session queue up in the order in which they were published.
    _command("submit", in_flight=32, max_deliveries=20, timeout=60.0, ordering_key="session_id", strict_order=True),
    # An execution waits for a free slot as long as it takes: it is never dropped. More in flight than there are slots
    # in the cluster (max-scale times its requests), also for a project that is alone and may have three quarters.
    _command("execute", in_flight=160, max_deliveries=0, timeout=None, max_ack_pending=20_000),
    _command("cancel", in_flight=32, max_deliveries=12, timeout=60.0),
    _command("cleanup", in_flight=8, max_deliveries=60, timeout=300.0),
    # An attach may have come before its create, and must let it pass.
    _command("session", in_flight=8, max_deliveries=20, timeout=300.0, ordering_key="session_id"),
    Route(
        "archive",
        "archive",
        subjects.EVENTS,
        (*(f"ocf.evt.*.*.{what}" for what in _ENDED), subjects.redelivery_subject("ocf.evt.*.*.*", "archive")),
        tuple(f"dev.ocf.task.{what}.v1" for what in _ENDED),
        in_flight=4,
        max_deliveries=0,
        timeout=900.0,
        max_ack_pending=_PENDING,
        by_project=(
            *(f"ocf.evt.{{project}}.*.{what}" for what in _ENDED),
            subjects.redelivery_subject("ocf.evt.{project}.*.*", "archive"),
        ),
    ),
)


def backoff(failures: int) -> float:
    """Seconds until the next try after that many failures: 0.5, 1, 2, 4 … 30."""
    return min(30.0, 0.5 * 2.0 ** min(failures - 1, 10))
