"""Sum of the metrics of all workers of one parent, including ended ones; any worker can report it.

Each worker has a small number, which its successor takes over, and a region of one file in memory, to which it writes
its series periodically. Counters continue from the values of the predecessor; gauges of ended workers are omitted. The
parent only clears the flag of a region, and reads nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ocf.functions.observability.metrics import REGISTRY, exposition

#: Size of a region, and of its header: one byte for a live worker, four bytes with the length of the content.
_REGION, _HEAD = 1 << 18, 5

#: Values by family, sample name and labels (as JSON).
Series = dict[str, dict[tuple[str, str], float]]


class Tally:
    """Metrics of one worker in the shared file. `worker_count` is the maximum number of workers."""

    def __init__(self, descriptor: int, number: int, worker_count: int, registry: CollectorRegistry = REGISTRY) -> None:
        self._descriptor = descriptor
        self._number = number
        self._worker_count = worker_count
        self._registry = registry
        _, before = self._read(number)
        self._before = {name: series for name, series in before.items() if self._counts(name)}
        self._saved = b""

    def save(self) -> None:
        """Write the current values to the worker's region."""
        series_list = [[name, *key, value] for name, series in self._own().items() for key, value in series.items()]
        packed = zlib.compress(json.dumps(series_list).encode(), 1)
        if packed != self._saved and len(packed) <= _REGION - _HEAD:
            with self._locked(self._number, fcntl.LOCK_EX):
                os.pwrite(self._descriptor, b"\1" + len(packed).to_bytes(4) + packed, self._number * _REGION)
            self._saved = packed

    def exposition(self) -> bytes:
        """Return the sums over all workers in Prometheus's text format."""
        exposition()  # updates the gauges that are measured on demand
        self.save()
        total: Series = {}
        for number in range(self._worker_count):
            alive, series = self._read(number)
            for name, values in series.items():
                if alive or self._counts(name):
                    _add(total.setdefault(name, {}), values)
        registry = CollectorRegistry()
        registry.register(_Summed(self._families(), total))
        return generate_latest(registry)

    def _families(self) -> list[Metric]:
        return list(self._registry.collect())

    def _own(self) -> Series:
        own: Series = {name: dict(series) for name, series in self._before.items()}
        for family in self._families():
            values = {
                (sample.name, json.dumps(sample.labels)): sample.value
                for sample in family.samples
                if not sample.name.endswith("_created")
            }
            _add(own.setdefault(family.name, {}), values)
        return own

    def _counts(self, name: str) -> bool:
        return any(family.name == name and family.type != "gauge" for family in self._families())

    def _read(self, number: int) -> tuple[bool, Series]:
        with self._locked(number, fcntl.LOCK_SH):
            head = os.pread(self._descriptor, _HEAD, number * _REGION)
            packed = os.pread(self._descriptor, int.from_bytes(head[1:]), number * _REGION + _HEAD)
        series: Series = {}
        for name, sample, labels, value in json.loads(zlib.decompress(packed)) if packed else []:
            series.setdefault(name, {})[sample, labels] = value
        return head[:1] == b"\1", series

    @contextmanager
    def _locked(self, number: int, how: int) -> Iterator[None]:
        fcntl.lockf(self._descriptor, how, _REGION, number * _REGION)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _REGION, number * _REGION)


def ended(descriptor: int, number: int) -> None:
    """Mark the worker `number` as ended, so that its gauges no longer count."""
    if os.fstat(descriptor).st_size > number * _REGION:
        os.pwrite(descriptor, b"\0", number * _REGION)


def _add(total: dict[tuple[str, str], float], values: dict[tuple[str, str], float]) -> None:
    for key, value in values.items():
        total[key] = total.get(key, 0.0) + value


class _Summed(Collector):
    def __init__(self, families: list[Metric], total: Series) -> None:
        self._families = families
        self._total = total

    def collect(self) -> Iterator[Metric]:
        """Yield each family with the sums of its samples."""
        for family in self._families:
            summed = Metric(family.name, family.documentation, family.type)
            for (sample, labels), value in self._total.get(family.name, {}).items():
                summed.add_sample(sample, json.loads(labels), value)
            yield summed
