"""What every figure is made of: samples of ours and of a baseline from the same run, a target, the machine's noise."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: Turns of the calibrated loop: about 50 ms of one quiet core.
_SPIN = 1_000_000
Measure = Literal["ratio", "p95 ratio", "p50", "p95", "p99", "max", "spread"]


@dataclass(frozen=True)
class Options:
    """How much to measure. `quick` proves that a figure can be measured, and says nothing about speed. `executions`:
    how many in a row, however long that takes; 0: as many as fit into a few minutes."""

    runs: int = 20
    quick: bool = False
    executions: int = 0

    def of(self, most: int) -> int:
        """How many samples of a figure that can afford `most`."""
        return 2 if self.quick else min(self.runs, most)


@dataclass(frozen=True)
class Target:
    """What a figure must reach: `measure` (of ours; `ratio` is median of ours over median of the baseline, `p95 ratio`
    p95 over p95) against `limit`. `at_least` says which side is good."""

    measure: Measure
    limit: float
    at_least: bool = False

    def text(self) -> str:
        """For people."""
        return f"{self.measure} {'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table. Samples in `unit`; `baseline` is empty where there is nothing to stand beside."""

    figure: str
    unit: str
    ours: list[float]
    baseline: list[float] = field(default_factory=list)
    against: str = ""
    target: Target | None = None
    note: str = ""

    def measured(self) -> float | None:
        """The value that the target is about."""
        if self.target is None or not self.ours:
            return None
        if self.target.measure == "ratio":
            return statistics.median(self.ours) / statistics.median(self.baseline)
        if self.target.measure == "p95 ratio":
            return quantile(self.ours, 0.95) / quantile(self.baseline, 0.95)
        if self.target.measure == "spread":  # how far from flat: the last tenth of the samples over the first
            tenth = max(1, len(self.ours) // 10)
            return abs(statistics.median(self.ours[-tenth:]) / statistics.median(self.ours[:tenth]) - 1)
        if self.target.measure == "max":
            return max(self.ours)
        if self.target.measure == "p50":
            return statistics.median(self.ours)
        return quantile(self.ours, int(self.target.measure[1:]) / 100)

    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        value = self.measured()
        if self.target is None or value is None:
            return None
        return value >= self.target.limit if self.target.at_least else value <= self.target.limit


@dataclass(frozen=True)
class Noise:
    """What else the machine did: load average, and the calibrated loop's milliseconds, before and after a figure."""

    load_before: float
    load_after: float
    spin_before_ms: float
    spin_after_ms: float


def quantile(values: list[float], share: float) -> float:
    """The nearest-rank quantile: a value that was measured, not one between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def thinned(values: list[float], most: int = 200) -> list[float]:
    """Every n-th of the ordered values, the largest among them: thousands of samples are not for a file."""
    ordered = sorted(values, reverse=True)
    return [round(value, 3) for value in ordered[:: max(1, len(ordered) // most)]]


def spin() -> float:
    """Milliseconds of a fixed amount of work on one core; the median of five."""
    took = []
    for _ in range(5):
        started, total = time.perf_counter(), 0
        for number in range(_SPIN):
            total += number
        took.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(took), 1)


async def noted(work: Callable[[], Awaitable[list[Row]]]) -> tuple[list[Row], Noise]:
    """The rows of `work`, and the noise around it."""
    load, before = os.getloadavg()[0], spin()
    rows = await work()
    return rows, Noise(round(load, 2), round(os.getloadavg()[0], 2), before, spin())


async def alternate(
    runs: int, ours: Callable[[], Awaitable[float]], baseline: Callable[[], Awaitable[float]], *, warm_up: int = 1
) -> tuple[list[float], list[float]]:
    """A B A B: what the machine does meanwhile hits both. The first `warm_up` rounds are not kept."""
    kept: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + warm_up):
        pair = (await ours(), await baseline())
        if turn >= warm_up:
            kept[0].append(pair[0])
            kept[1].append(pair[1])
    return kept


def as_json(rows: list[Row], noise: Noise, seconds: float) -> dict[str, Any]:
    """One module's part of the results file: raw samples and noise."""
    return {"seconds": round(seconds, 1), "noise": asdict(noise), "rows": [asdict(row) for row in rows]}


def from_json(data: dict[str, Any]) -> tuple[list[Row], Noise]:
    """The inverse of `as_json`."""
    rows = []
    for one in data["rows"]:
        target = Target(**one["target"]) if one["target"] else None
        rows.append(Row(**{**one, "target": target}))
    return rows, Noise(**data["noise"])
