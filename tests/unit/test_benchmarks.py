"""The harness counts right, its page is what its results say, and the simulation behaves."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import capacity_planning, report, simulate
from benchmarks.__main__ import DETAILS, FIGURES, KEPT, PAGE
from benchmarks.measurement import Noise, Row, Target, as_json, from_json, quantile, thinned
from benchmarks.simulate import Costs, Load, Simulation

NOISE = Noise(0.1, 0.2, 50.0, 51.0)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_quantile_is_a_value_that_was_measured(share: float, value: int) -> None:
    """Nearest rank, whatever the order."""
    assert quantile([float(n) for n in range(100, 0, -1)], share) == value


@pytest.mark.parametrize(
    ("target", "ours", "baseline", "met"),
    [
        (Target("ratio", 0.6, at_least=True), [60.0], [100.0], True),
        (Target("ratio", 0.6, at_least=True), [59.0], [100.0], False),
        (Target("ratio", 1.5), [3.0, 2.0, 1.0], [1.0], False),
        (Target("p95 ratio", 2.0), [1.0] * 18 + [4.0] * 2, [2.0] * 20, True),
        (Target("p95 ratio", 2.0), [1.0] * 18 + [5.0] * 2, [2.0] * 20, False),
        (Target("p95", 1.0), [0.1] * 19 + [2.0], [], True),
        (Target("max", 1.0), [0.1] * 19 + [2.0], [], False),
        (Target("spread", 0.15), [100.0, 300.0, 110.0], [], True),
        (Target("spread", 0.15), [100.0, 80.0], [], False),
    ],
)
def test_a_target_is_met_or_not(target: Target, ours: list[float], baseline: list[float], met: bool) -> None:
    """Each kind of target looks at the value it names."""
    assert Row("figure", "s", ours, baseline, target=target).met() is met


def test_thinning_keeps_the_worst() -> None:
    """The largest sample is never among those left out."""
    kept = thinned([float(n) for n in range(10_000)], most=100)
    assert len(kept) == 100
    assert max(kept) == 9999


def test_results_survive_their_file() -> None:
    """What is read back is what was written."""
    rows = [Row("a", "ms", [1.0, 2.0], [3.0], "raw", Target("p50", 5), "why"), Row("b", "s", [1.0])]
    part = json.loads(report.compact({"x": {**as_json(rows, NOISE, 1.0), "commit": "c", "date": "d"}}))["x"]
    assert from_json(part) == (rows, NOISE)


def test_a_missed_target_is_shown() -> None:
    """The page says no where it is no, and counts it."""
    rows = [Row("slow", "ms", [9.0], target=Target("p50", 5)), Row("fast", "ms", [1.0], target=Target("p50", 5))]
    page = report.page({"x": {**as_json(rows, NOISE, 1.0), "commit": "c", "date": "d"}})
    assert "1 of 2 targets are met" in page
    assert "| [slow](../../benchmarks/results.md#x) | p50 <= 5 ms | 9.00 ms | 1 | **no** |" in page


def test_the_pages_match_the_results() -> None:
    """`python -m benchmarks --report` generates docs/reference/benchmarks.md and benchmarks/results.md."""
    results = json.loads(KEPT.read_text())
    assert PAGE.read_text() == report.page(results)
    assert DETAILS.read_text() == report.details(results)


def test_the_page_on_scale_is_what_the_results_say() -> None:
    """`benchmarks.capacity_planning --write` and `benchmarks.simulate --write` write tables of
    docs/explanation/scale.md. The simulation runs for a minute, so only its inputs are compared."""
    page = simulate.PAGE.read_text()
    assert capacity_planning.text(json.loads(KEPT.read_text()), capacity_planning.Assumed()) in page
    assert simulate.heading(simulate.costs()) in page


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_measured_by_name(name: str) -> None:
    """Each name is a module with `measure`, and each module is named."""
    assert callable(importlib.import_module(f"benchmarks.measurements.{name}").measure)
    folder = Path(report.__file__).parent / "measurements"
    assert {path.stem for path in folder.glob("*.py")} == set(FIGURES)


def test_a_simulation_with_room_has_no_queue() -> None:
    """Ten times the pods that are needed: nobody waits, and all of them ran."""
    load = Load(50_000, hours=0.1, least=500)
    out = Simulation(load, Costs()).run()
    assert max(out.waits) == 0
    assert len(out.waits) == len(out.firsts) > 100


def test_slow_pods_make_a_queue() -> None:
    """The slower a pod starts, the longer the wait; the same seed gives the same outcome."""
    slow, fast = (Load(200_000, hours=0.1, least=1, pod_start=start) for start in (60.0, 5.0))
    one, other = Simulation(slow, Costs()).run(), Simulation(fast, Costs()).run()
    assert quantile(one.waits, 0.95) > quantile(other.waits, 0.95)
    assert Simulation(slow, Costs()).run().waits == one.waits
