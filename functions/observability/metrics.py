"""What functions and dispatcher count, for Prometheus. No ids in labels: the number of series is bounded.

One registry per process; `/metrics` serves it. Names and labels are listed in docs/reference/metrics.md.
"""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ocf.events.execution_record import Record
from ocf.events.lifecycle import TERMINAL, Reason, State
from ocf.events.outcomes import duration_ms

_LONG = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_SHORT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: A full cluster lets somebody wait for as long as a run lasts.
_WAIT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)

REGISTRY = CollectorRegistry()

ended = Counter("ocf_executions_ended_total", "executions that ended here", ("state", "reason"), registry=REGISTRY)
duration = Histogram("ocf_execution_seconds", "first start to end", ("state",), buckets=_LONG, registry=REGISTRY)
queued = Histogram(
    "ocf_queue_wait_seconds",
    "submit to first start, a project's quota included, turns that waited in their session left out",
    buckets=_WAIT,
    registry=REGISTRY,
)
first_output = Histogram(
    "ocf_first_output_seconds", "start of the attempt to the agent's first word", buckets=_SHORT, registry=REGISTRY
)
cancel_seconds = Histogram("ocf_cancel_seconds", "cancel heard to last process gone", buckets=_SHORT, registry=REGISTRY)
tasks = Gauge("ocf_asyncio_tasks", "tasks of this process's event loop", registry=REGISTRY)
running = Gauge("ocf_executions_running", "executions that run in this process and its workers", registry=REGISTRY)
warm_slots = Gauge("ocf_warm_slots", "warm slots that could be taken now", registry=REGISTRY)
slots_taken = Counter("ocf_slots_taken_total", "executions by kind of slot", ("kind",), registry=REGISTRY)
tokens = Counter("ocf_model_tokens_total", "tokens by model and direction", ("model", "direction"), registry=REGISTRY)
cost = Counter("ocf_model_cost_usd_total", "US dollars by model", ("model",), registry=REGISTRY)
output_bytes = Counter("ocf_output_bytes_total", "bytes of output published, by whichever attempt", registry=REGISTRY)
leases_lost = Counter("ocf_leases_lost_total", "executions taken over by another worker", registry=REGISTRY)
artifacts_lost = Counter(
    "ocf_artifacts_lost_total", "executions whose workspace could not be stored in time", registry=REGISTRY
)
item_failures = Counter(
    "ocf_item_failures_total",
    "records and executions that a loop could not handle; the others went on",
    ("loop",),
    registry=REGISTRY,
)
connections_dropped = Counter(
    "ocf_connections_dropped_total",
    "connections closed because they brought no request, or nobody read their answer",
    registry=REGISTRY,
)
swept = Counter("ocf_swept_total", "executions ended by the sweep", ("state",), registry=REGISTRY)

deliveries = Counter(
    "ocf_deliveries_total", "answers of functions to events", ("consumer", "answer"), registry=REGISTRY
)
redeliveries = Counter("ocf_redeliveries_total", "messages that came again", ("consumer",), registry=REGISTRY)
dead_letters = Counter("ocf_dead_letters_total", "messages that went to OCF_DLQ", ("consumer",), registry=REGISTRY)
sinks_closed = Gauge("ocf_sinks_closed", "sinks that said they are gone", ("consumer",), registry=REGISTRY)
in_flight = Gauge("ocf_deliveries_in_flight", "messages a function is working on", ("consumer",), registry=REGISTRY)
consumer_lag = Gauge("ocf_consumer_lag", "messages no function has been given yet", ("consumer",), registry=REGISTRY)
consumer_unsettled = Gauge(
    "ocf_consumer_unsettled",
    "messages given out and not settled, those that wait for their next try included",
    ("consumer",),
    registry=REGISTRY,
)

#: The loops that `item_failures` tells apart.
LOOPS = ("sweep", "retention")
#: The kinds of answers that `deliveries` tells apart. `none`: there was none. `early` (425: others come first) and
#: `conflict` (409: another has it) are not among the 4xx, they say that all is well.
ANSWERS = ("2xx", "3xx", "4xx", "5xx", "none", "early", "conflict")
#: Models are named by callers: beyond this many, the rest is counted together.
_MODELS: set[str] = set()
_MAX_MODELS = 50


def bounded_model(name: str | None) -> str:
    """`name`, or `other` once there are too many."""
    known = name or "unknown"
    if known not in _MODELS and len(_MODELS) >= _MAX_MODELS:
        return "other"
    _MODELS.add(known)
    return known


def count_end(record: Record) -> None:
    """The record of an execution has taken its terminal step; whoever took it counts, once."""
    ended.labels(record.state.value, record.reason.value if record.reason else "").inc()
    if record.artifacts == "lost":
        artifacts_lost.inc()
    if record.started_at is not None and record.ended_at is not None:
        ran = duration_ms(record, record.ended_at, record.waited_ms)
        duration.labels(record.state.value).observe(ran / 1000)
    if not record.attempts:
        return  # nothing ran
    model, usage = bounded_model(record.model), record.usage
    tokens.labels(model, "input").inc(usage.input_tokens)
    tokens.labels(model, "output").inc(usage.output_tokens)
    tokens.labels(model, "cache_read").inc(usage.cache_read_tokens)
    cost.labels(model).inc(usage.cost_usd)


def expect_ends() -> None:
    """Expose every way to end from the start: `increase()` does not see the step from no series to its first value."""
    for state in TERMINAL:
        for reason in Reason if state is State.FAILED else ("",):
            ended.labels(state.value, reason)
    for state in (State.FAILED, State.TIMED_OUT, State.CANCELLED):
        swept.labels(state.value)
    for loop in LOOPS:
        item_failures.labels(loop)


def expect_deliveries(consumer: str) -> None:
    """The same for what the dispatcher counts of one consumer."""
    for answer in ANSWERS:
        deliveries.labels(consumer, answer)
    for each in (redeliveries, dead_letters, sinks_closed, in_flight):
        each.labels(consumer)


def forget_backlog(consumer: str) -> None:
    """Expose nothing of what waits for it: that is not known now."""
    for each in (consumer_lag, consumer_unsettled):
        each.remove(consumer)


def exposition() -> bytes:
    """The text format of Prometheus. Called in the event loop that is looked at."""
    tasks.set(len(asyncio.all_tasks()))
    return generate_latest(REGISTRY)
