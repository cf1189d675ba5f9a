"""What the parent of workers is made of: turns to boot, counts, the part of the environment that it may have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import SecretStr

from ocf.functions.settings.settings import Settings
from ocf.functions.workers import environment, metrics_sum
from ocf.functions.workers.boot_queue import BootQueue, available_cores
from ocf.functions.workers.metrics_sum import Tally


def test_turns_to_boot_are_given_in_order_and_back_by_the_dead() -> None:
    """As many at once as there are processors (two at least); first come, first served; who died, or no longer wants
    to, holds nobody up."""
    told: list[int] = []
    boots, most = BootQueue(told.append), max(2, available_cores())
    for number in range(most + 3):
        boots.request(number)
    assert told == list(range(most))
    boots.release(most)  # it waits, and dies
    assert told == list(range(most))
    boots.release(0)
    assert told == [*range(most), most + 1]
    boots.release(1)
    assert told == [*range(most), most + 1, most + 2]


class Counts:
    """Series of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter("ended_total", "ended", ("state",), registry=self.registry)
        self.running = Gauge("running", "running", registry=self.registry)
        self.seconds = Histogram("seconds", "seconds", buckets=(1, 5), registry=self.registry)


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = environment.memory_file()
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
    assert environment.without_secrets(everything) == {"PORT": "x"}


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
    assert environment.needs_parent({"FUNCTION_TARGET": "execute", **changes}) is wanted


def test_the_sealed_environment_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever unseals it has every variable of it and no other."""
    monkeypatch.setattr(os, "environ", {"ONLY": "the parent"})
    environment.unseal(environment.memory_file(json.dumps({"A": "1", "KEY": "sk-\u00e9"}).encode()))
    assert os.environ == {"A": "1", "KEY": "sk-\u00e9"}
