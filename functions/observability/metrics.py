"""Prometheus metrics of functions and dispatcher. Labels contain no ids, so that the number of series is bounded.

Each process has one registry, which `/metrics` exposes. docs/reference/traces-and-logs.md lists names and labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ocf.events.execution_record import Record
from ocf.events.lifecycle import TERMINAL, Reason, State
from ocf.events.output import Usage
from ocf.events.terminal_facts import duration_ms

_LONG = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_SHORT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: In a full cluster an execution may wait for the duration of another.
_WAIT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)

REGISTRY = CollectorRegistry()

ended = Counter(
    "ocf_executions_ended_total", "executions ended by this process", ("state", "reason"), registry=REGISTRY
)
duration = Histogram("ocf_execution_seconds", "first start to end", ("state",), buckets=_LONG, registry=REGISTRY)
queued = Histogram(
    "ocf_queue_wait_seconds",
    "submit to first start, including waits for a project's quota, excluding executions that waited in their session",
    buckets=_WAIT,
    registry=REGISTRY,
)
first_output = Histogram(
    "ocf_first_output_seconds", "start of the attempt to its first `text` chunk", buckets=_SHORT, registry=REGISTRY
)
cancel_seconds = Histogram(
    "ocf_cancel_seconds", "receipt of a cancel to the end of the last process", buckets=_SHORT, registry=REGISTRY
)
tasks = Gauge("ocf_asyncio_tasks", "tasks of this process's event loop", registry=REGISTRY)
running = Gauge("ocf_executions_running", "running executions of this process and its workers", registry=REGISTRY)
warm_slots = Gauge("ocf_warm_slots", "free warm slots", registry=REGISTRY)
slots_taken = Counter("ocf_slots_taken_total", "executions by kind of slot", ("kind",), registry=REGISTRY)
tokens = Counter("ocf_model_tokens_total", "tokens by model and direction", ("model", "direction"), registry=REGISTRY)
cost = Counter("ocf_model_cost_usd_total", "US dollars by model", ("model",), registry=REGISTRY)
#: The GenAI conventions' `gen_ai.client.*`, in Prometheus' names of them; buckets as the conventions advise.
_BY_MODEL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
call_tokens = Histogram(
    "gen_ai_client_token_usage",
    "input and output tokens of a model call",
    (*_BY_MODEL, "gen_ai_token_type"),
    buckets=tuple(4**power for power in range(14)),
    registry=REGISTRY,
)
call_seconds = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "duration of a model call",
    (*_BY_MODEL, "error_type"),
    buckets=tuple(0.01 * 2**power for power in range(14)),
    registry=REGISTRY,
)
output_bytes = Counter("ocf_output_bytes_total", "bytes of output published, over all attempts", registry=REGISTRY)
leases_lost = Counter("ocf_leases_lost_total", "executions taken over by another worker", registry=REGISTRY)
artifacts_lost = Counter(
    "ocf_artifacts_lost_total", "executions whose workspace was not stored in time", registry=REGISTRY
)
item_failures = Counter(
    "ocf_item_failures_total",
    "failures of single records and executions in a loop",
    ("loop",),
    registry=REGISTRY,
)
connections_dropped = Counter(
    "ocf_connections_dropped_total",
    "connections closed because of a missing request or an unread response",
    registry=REGISTRY,
)
swept = Counter("ocf_swept_total", "executions ended by the sweep", ("state",), registry=REGISTRY)

deliveries = Counter(
    "ocf_deliveries_total", "responses of functions to events", ("consumer", "answer"), registry=REGISTRY
)
redeliveries = Counter("ocf_redeliveries_total", "redelivered messages", ("consumer",), registry=REGISTRY)
dead_letters = Counter("ocf_dead_letters_total", "messages moved to OCF_DLQ", ("consumer",), registry=REGISTRY)
sinks_closed = Gauge("ocf_sinks_closed", "sinks that responded with 410 Gone", ("consumer",), registry=REGISTRY)
in_flight = Gauge("ocf_deliveries_in_flight", "messages that a function is handling", ("consumer",), registry=REGISTRY)
dispatcher_leads = Gauge("ocf_dispatcher_leads", "1 while this dispatcher handles the routes", registry=REGISTRY)
consumer_lag = Gauge("ocf_consumer_lag", "messages not yet delivered to a function", ("consumer",), registry=REGISTRY)
consumer_unsettled = Gauge(
    "ocf_consumer_unsettled",
    "messages delivered and not settled, including those that wait for redelivery",
    ("consumer",),
    registry=REGISTRY,
)

#: Label values of `item_failures`.
LOOPS = ("sweep", "retention")
#: Label values of `deliveries`. `none`: no response. `early` (425: others come first) and `conflict` (409: another
#: worker has it) are separate from 4xx, because they are not failures.
ANSWERS = ("2xx", "3xx", "4xx", "5xx", "none", "early", "conflict")
#: Callers choose the names of models: beyond this number, further models share one label.
_MODELS: set[str] = set()
_MAX_MODELS = 50


def bounded_model(name: str | None) -> str:
    """Return `name`, or `other` beyond `_MAX_MODELS` distinct names."""
    known = name or "unknown"
    if known not in _MODELS and len(_MODELS) >= _MAX_MODELS:
        return "other"
    _MODELS.add(known)
    return known


def count_end(record: Record) -> None:
    """Count the terminal step of an execution; the process that took the step calls it once."""
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


def count_call(provider: str, model: str, usage: Usage, seconds: float, error: str | None) -> None:
    """Count a model call; `error` is the kind of its failure."""
    # Callers choose the names of providers too.
    name = bounded_model(f"{provider}/{model}")
    labels = ("chat", *(name.split("/", 1) if "/" in name else (name, name)))
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    call_tokens.labels(*labels, "input").observe(read)
    call_tokens.labels(*labels, "output").observe(usage.output_tokens)
    call_seconds.labels(*labels, error or "").observe(seconds)


def expect_ends() -> None:
    """Create the series of all ends: `increase()` does not count the first value of a new series."""
    for state in TERMINAL:
        for reason in Reason if state is State.FAILED else ("",):
            ended.labels(state.value, reason)
    for state in (State.FAILED, State.TIMED_OUT, State.CANCELLED):
        swept.labels(state.value)
    for loop in LOOPS:
        item_failures.labels(loop)


def expect_deliveries(consumer: str) -> None:
    """Create the dispatcher's series of one consumer, as `expect_ends` does."""
    for answer in ANSWERS:
        deliveries.labels(consumer, answer)
    for each in (redeliveries, dead_letters, sinks_closed, in_flight):
        each.labels(consumer)


def forget_backlog(consumer: str) -> None:
    """Remove the backlog series of a consumer whose backlog is unknown."""
    for each in (consumer_lag, consumer_unsettled):
        each.remove(consumer)


def came_through_a_proxy(headers: Mapping[str, str]) -> bool:
    """Return whether a proxy passed a request on, as Knative's do with all that comes by a route.

    Prometheus asks the pod itself.
    """
    return "x-forwarded-for" in headers or "forwarded" in headers


def exposition() -> bytes:
    """Return the metrics in Prometheus's text format. Must be called in the measured event loop."""
    tasks.set(len(asyncio.all_tasks()))
    return generate_latest(REGISTRY)
