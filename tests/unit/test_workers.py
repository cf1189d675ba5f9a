"""What the parent of workers is made of: turns to boot, counts, the part of the environment that it may have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import SecretStr

from ocf.functions.settings.settings import Settings
from ocf.functions.workers import metrics_sum, sealed_environment
from ocf.functions.workers.idle_cores import WINDOW, IdleCores
from ocf.functions.workers.metrics_sum import Tally
from ocf.functions.workers.server_boot_queue import BootQueue, available_cores


def test_turns_to_boot_are_given_in_order_and_back_by_the_dead() -> None:
    """As many at once as there are processors (two at least); first come, first served; who died, or no longer wants
    to, holds nobody up."""
    told: list[int] = []
    boots: BootQueue[int] = BootQueue(lambda worker, _: told.append(worker))
    most = max(2, available_cores())
    for number in range(most + 3):
        boots.request(number)
    assert told == list(range(most))
    boots.release(most)  # it waits, and dies
    assert told == list(range(most))
    boots.release(0)
    assert told == [*range(most), most + 1]
    boots.release(1)
    assert told == [*range(most), most + 1, most + 2]


def test_spare_boots_wait_for_their_admission_and_for_each_other_while_an_execution_runs() -> None:
    """Without an execution they start together at normal priority; beside one, one at a time and in idle time."""
    told: list[tuple[int, bool]] = []
    boots: BootQueue[int] = BootQueue(lambda worker, idle: told.append((worker, idle)))
    for number in range(4):
        boots.request_spare(number)
    assert told == []
    assert boots.spares_wait
    boots.admit({1, 2, 3}, runs=True)
    assert told == [(1, True)]
    boots.admit({1, 2, 3}, runs=True)
    assert told == [(1, True)]
    boots.release(1)
    boots.admit({2, 3}, runs=False)
    assert told == [(1, True), (2, False), (3, False)]


def test_demanded_boot_does_not_wait_for_admission() -> None:
    """A run that needs the spare boot of its worker gets it at once, and it is one boot."""
    told: list[tuple[str, bool]] = []
    boots: BootQueue[str] = BootQueue(lambda worker, idle: told.append((worker, idle)))
    boots.request_spare("a")
    boots.request("a")
    assert told == [("a", False)]
    assert not boots.spares_wait
    boots.request("a")
    boots.release("a")
    boots.admit({"a"}, runs=False)
    assert told == [("a", False)]


def test_pressure_decides_whether_cores_are_idle(tmp_path: Path) -> None:
    """Tasks that waited for a tenth of the time or less leave room; the result stands for a whole window."""
    file = tmp_path / "cpu.pressure"

    def waited(seconds: float) -> None:
        file.write_text(f"some avg10=0.00 avg60=0.00 avg300=0.00 total={seconds * 1e6:.0f}\nfull total=0\n")

    waited(7)
    cores = IdleCores(pressure=(tmp_path / "missing", file), stat=tmp_path / "missing")
    assert not cores.idle(100.0)
    waited(7.04)
    assert cores.idle(100.0 + WINDOW)
    waited(7.4)
    assert cores.idle(100.1 + WINDOW)
    assert not cores.idle(100.0 + 2 * WINDOW)


def test_the_time_before_a_run_does_not_count_as_idle_beside_it(tmp_path: Path) -> None:
    """After a restart, only a whole window that lies behind it counts."""
    file = tmp_path / "cpu.pressure"
    file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    cores = IdleCores(pressure=(file,))
    assert not cores.idle(0.0)
    assert cores.idle(WINDOW)
    cores.restart()
    assert not cores.idle(WINDOW + 0.01)
    assert not cores.idle(2 * WINDOW)
    assert cores.idle(2 * WINDOW + 0.01)


def test_without_pressure_figures_half_an_idle_core_is_enough(tmp_path: Path) -> None:
    """The kernel's idle time of all processors is used, in clock ticks."""
    file, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")

    def idle(seconds: float) -> None:
        file.write_text(f"cpu  900 0 900 {seconds * tick:.0f} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")

    idle(10)
    cores = IdleCores(pressure=(tmp_path / "missing",), stat=file)
    assert not cores.idle(0.0)
    idle(10.1)
    assert not cores.idle(1.0)
    idle(10.7)
    assert cores.idle(2.0)


class Counts:
    """Series of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter("ended_total", "ended", ("state",), registry=self.registry)
        self.running = Gauge("running", "running", registry=self.registry)
        self.seconds = Histogram("seconds", "seconds", buckets=(1, 5), registry=self.registry)


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = sealed_environment.memory_file()
    yield descriptor
    os.close(descriptor)


async def test_any_worker_says_what_all_have_counted(file: int) -> None:
    """Counts of the dead stay and go on in their place; what they showed at the moment does not."""
    one, other = Counts(), Counts()
    tallies = [Tally(file, place, 3, counts.registry) for place, counts in enumerate((one, other))]
    for counts in (one, other):
        counts.ended.labels("completed").inc()
        counts.running.set(1)
        counts.seconds.observe(2)
    for each in tallies:
        each.save()
    said = tallies[0].exposition().decode().splitlines()
    assert {'ended_total{state="completed"} 2.0', "running 2.0", 'seconds_bucket{le="5.0"} 2.0'} <= set(said)
    metrics_sum.ended(file, 1)
    said = tallies[0].exposition().decode().splitlines()
    assert {'ended_total{state="completed"} 2.0', "running 1.0"} <= set(said)
    again = Counts()
    again.ended.labels("failed").inc()
    said = Tally(file, 1, 3, again.registry).exposition().decode().splitlines()
    assert {'ended_total{state="completed"} 2.0', 'ended_total{state="failed"} 1.0', "running 1.0"} <= set(said)
    metrics_sum.ended(file, 2)  # nobody was there yet


def test_the_parent_has_no_key() -> None:
    """Nothing of its part of the environment is a secret of ours, and what nobody knows is not in it."""
    secret = {str(field.alias) for field in Settings.model_fields.values() if "SecretStr" in str(field.annotation)}
    assert "OPENAI_API_KEY" in secret
    assert SecretStr.__name__ in str(Settings.model_fields["openai_api_key"].annotation)
    everything = dict.fromkeys([*secret, "SOMETHING_NEW", "AWS_SESSION_TOKEN", "NATS_CREDS", "PORT"], "x")
    assert sealed_environment.without_secrets(everything) == {"PORT": "x"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"MAX_CONCURRENT_TASKS": "5"}, True),
        ({"MAX_CONCURRENT_TASKS": "1"}, False),
        ({"FUNCTION_TARGET": "submit"}, False),
        ({"DRY_RUN": "1"}, False),
        ({"DRY_RUN": "true"}, False),
        ({"DRY_RUN": "false"}, True),
    ],
)
def test_execute_for_more_than_one_is_a_parent(changes: dict[str, str], wanted: bool) -> None:
    """And nothing else is."""
    assert sealed_environment.needs_parent({"FUNCTION_TARGET": "execute", **changes}) is wanted


def test_the_sealed_environment_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever unseals it has every variable of it and no other."""
    monkeypatch.setattr(os, "environ", {"ONLY": "the parent"})
    sealed_environment.unseal(sealed_environment.memory_file(json.dumps({"A": "1", "KEY": "sk-\u00e9"}).encode()))
    assert os.environ == {"A": "1", "KEY": "sk-\u00e9"}
