"""Values of metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge


def value(metric: Counter | Gauge) -> float:
    """The value of a counter or gauge, or of one of its children."""
    (family,) = metric.collect()
    return float(next(one.value for one in family.samples if not one.name.endswith("_created")))
