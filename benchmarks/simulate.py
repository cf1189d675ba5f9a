"""Queue wait and pods at a given load, from measured costs: `python -m benchmarks.simulate [--write]`.

A discrete-event simulation of the execute side. Executions arrive at random (Poisson, at a rate that swings over the
time simulated), take a slot where one is free, else wait in order. Pods are added and removed as Knative's autoscaler
does it: every 2 s as many as are needed for what runs and waits at a target utilisation, removed after a stable minute
and only when empty. A slot is warm while its pod has one ready; a taken one is filled again after the refill time.

What is measured comes from benchmarks/results.json; what is assumed is said in the table's heading.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.measurement import quantile
from scripts.generated_sections import between

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results.json"
PAGE = ROOT / "docs/explanation/scale.md"
_SCALE_EVERY = 2.0
_DAY = 86_400.0


@dataclass(frozen=True)
class Costs:
    """Seconds: from the execute event to the agent at work with and without a warm slot, and until a slot is full
    again. The figures are medians of real OpenCode on this machine."""

    warm: float = 0.6
    cold: float = 5.0
    refill: float = 6.0


@dataclass(frozen=True)
class Load:
    """What is assumed. Times in seconds."""

    per_day: float
    slots: int = 5
    warm: int = 1
    median_run: float = 60.0
    sigma: float = 1.0
    swing: float = 3.0
    pod_start: float = 15.0
    target: float = 0.7
    hours: float = 1.0
    least: int = 0

    @property
    def mean_run(self) -> float:
        """Of the log-normal run time."""
        return self.median_run * math.exp(self.sigma**2 / 2)

    def rate(self, now: float) -> float:
        """Arrivals per second: the mean at the start, `swing` times it in the middle, and back."""
        mean = self.per_day / _DAY
        return mean * (1 + (self.swing - 1) * math.sin(math.pi * now / (self.hours * 3600)) ** 2)


@dataclass(eq=False)
class Pod:
    """A running pod."""

    warm: int
    running: int = 0


@dataclass
class Outcome:
    """What came of it. `waits` are seconds from arrival to a slot, `firsts` to the agent at work."""

    waits: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    pods: list[int] = field(default_factory=list)
    warm_taken: int = 0
    pod_seconds: float = 0.0


class Simulation:
    """One run; the same seed gives the same outcome."""

    def __init__(self, load: Load, costs: Costs, seed: int = 1) -> None:
        self._load = load
        self._costs = costs
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._events: list[tuple[float, int, str, Pod | None]] = []
        self._count = itertools.count()
        self._pods: list[Pod] = []
        self._starting = 0
        self._waiting: deque[float] = deque()
        self._wanted: deque[tuple[float, int]] = deque()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until the last execution has ended."""
        load, end = self._load, self._load.hours * 3600
        first = load.least or math.ceil(load.rate(0) * load.mean_run / load.slots / load.target)
        self._pods = [Pod(load.warm) for _ in range(first)]
        self._at(0.0, "scale")
        for arrival in self._arrivals(end):
            while self._events and self._events[0][0] <= arrival:
                self._step(end)
            self._waiting.append(arrival)
            self._serve(arrival)
        while self._events:
            self._step(end)
        return self.outcome

    def _arrivals(self, end: float) -> Iterator[float]:
        """A Poisson process whose rate changes, by thinning."""
        most, now = self._load.rate(end / 2), 0.0
        while True:
            now += self._random.expovariate(most)
            if now > end:
                return
            if self._random.random() < self._load.rate(now) / most:
                yield now

    def _at(self, when: float, what: str, pod: Pod | None = None) -> None:
        heapq.heappush(self._events, (when, next(self._count), what, pod))

    def _step(self, end: float) -> None:
        now, _, what, pod = heapq.heappop(self._events)
        if what == "scale":
            self._scale(now)
            if now < end:
                self._at(now + _SCALE_EVERY, "scale")
        elif what == "up":
            self._starting -= 1
            self._pods.append(Pod(0))
            for _ in range(self._load.warm):
                self._at(now + self._costs.refill, "filled", self._pods[-1])
        elif pod is not None and what == "ended":
            pod.running -= 1
        elif pod is not None:
            pod.warm = min(self._load.warm, pod.warm + 1)
        self._serve(now)

    def _serve(self, now: float) -> None:
        while self._waiting:
            free = [pod for pod in self._pods if pod.running < self._load.slots]
            if not free:
                return
            # Whoever the activator finds: the emptiest, not the one with a warm slot.
            pod = min(free, key=lambda pod: pod.running)
            waited = now - self._waiting.popleft()
            start = self._costs.warm if pod.warm else self._costs.cold
            self.outcome.warm_taken += bool(pod.warm)
            if pod.warm:
                pod.warm -= 1
                self._at(now + self._costs.refill, "filled", pod)
            pod.running += 1
            took = start + self._random.lognormvariate(math.log(self._load.median_run), self._load.sigma)
            self._at(now + took, "ended", pod)
            self.outcome.waits.append(waited)
            self.outcome.firsts.append(waited + start)

    def _scale(self, now: float) -> None:
        busy = sum(pod.running for pod in self._pods) + len(self._waiting)
        self._wanted.append((now, math.ceil(busy / (self._load.slots * self._load.target))))
        while self._wanted[0][0] < now - 60:
            self._wanted.popleft()
        wanted = max(self._load.least, *(count for _, count in self._wanted))
        have = len(self._pods) + self._starting
        for _ in range(wanted - have):
            self._starting += 1
            self._at(now + self._load.pod_start, "up")
        for pod in [pod for pod in self._pods if not pod.running][: max(0, have - wanted)]:
            self._pods.remove(pod)
        self.outcome.pods.append(len(self._pods))
        self.outcome.pod_seconds += len(self._pods) * _SCALE_EVERY


def costs() -> Costs:
    """From the kept results; the defaults where they have none."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows: dict[str, Any] = {row["figure"]: row for row in known.get("first_output", {}).get("rows", ())}

    def median(figure: str, default: float) -> float:
        return statistics.median(rows[figure]["ours"]) if figure in rows else default

    warm, cold = (median(f"submit to first output, {name}", default) for name, default in
                  (("warm slot", Costs.warm), ("no slot ready", Costs.cold)))  # fmt: skip
    # A slot is opened 3 s after the last one was taken, and takes what a cold start takes.
    return Costs(warm, cold, 3.0 + cold)


LOADS = (
    Load(10_000),
    Load(100_000),
    Load(1_000_000, hours=0.5),
    Load(1_000_000, hours=0.5, warm=2),
    Load(1_000_000, hours=0.5, slots=10, warm=2),
    Load(1_000_000, hours=0.5, pod_start=60.0),
    Load(1_000_000, hours=0.5, target=0.9),
)


def heading(used: Costs) -> str:
    """What is measured, and what is assumed."""
    base = LOADS[0]
    return (
        f"Measured: {used.warm:.2f} s from submit to the first word in a warm slot, {used.cold:.2f} s without, a slot "
        f"is full again {used.refill:.1f} s after it was taken. Assumed: run times log-normal with a median of "
        f"{base.median_run:g} s (mean {base.mean_run:.0f} s); arrivals at random, {base.swing:g} times the day's mean "
        "at the peak of the hour (half an hour for a million a day)."
    )


def table(loads: tuple[Load, ...], used: Costs) -> str:
    """The outcomes as Markdown."""
    told = [
        heading(used),
        "",
        "| executions a day | at the peak, /s | slots per pod | warm | pod start, s | utilisation aimed at | "
        "pods, mean | pods, most | wait for a slot p50, s | p95 | p99 | first word p95, s | in a warm slot |",
        "|---" * 13 + "|",
    ]
    for load in loads:
        out = Simulation(load, used).run()
        shares = [quantile(out.waits, share) for share in (0.5, 0.95, 0.99)]
        told.append(
            f"| {load.per_day:,.0f} | {load.rate(load.hours * 1800):.2f} | {load.slots} | {load.warm} | "
            f"{load.pod_start:g} | {load.target:g} | {statistics.mean(out.pods):.0f} | {max(out.pods)} | "
            f"{shares[0]:.1f} | {shares[1]:.1f} | {shares[2]:.1f} | {quantile(out.firsts, 0.95):.1f} | "
            f"{100 * out.warm_taken / len(out.firsts):.0f}% |"
        )
    return "\n".join(told)


def main() -> None:
    """Print the table, or put it into docs/explanation/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/explanation/scale.md")
    parser.add_argument("--per-day", type=float, help="only this load")
    asked = parser.parse_args()
    loads = (replace(LOADS[0], per_day=asked.per_day),) if asked.per_day else LOADS
    found = table(loads, costs())
    if asked.write:
        PAGE.write_text(between(PAGE, "simulation", found))
    else:
        print(found)


if __name__ == "__main__":
    main()
