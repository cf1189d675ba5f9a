"""Prometheus metrics of the gateway."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The gateway's metrics in a registry of their own, so that two gateways fit in one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "ocf_gateway_requests_total", "answered calls", ("method", "route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "ocf_gateway_request_seconds",
            "time to the end of the answer",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.streams = Gauge("ocf_gateway_streams", "open WebSocket streams", registry=registry)
        self.slow = Counter(
            "ocf_gateway_slow_readers_total", "streams cut off: the reader was too slow", registry=registry
        )
        self.submitted = Counter("ocf_gateway_submitted_total", "accepted executions", registry=registry)
