"""Fixtures that every tier may use. What they start is real, on loopback, and gone at the end of the session."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from ocf.events.adapters.s3 import S3Config
from tests.support.database import Postgres, postgres
from tests.support.failure_report import stack_sections
from tests.support.nats import NatsServer, running_nats
from tests.support.stack import Stack, running_stack
from tests.support.weed import running_weed

TIERS = ("unit", "contract", "integration", "e2e")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in its background so, and every child inherits it: Ctrl-C could not be tried.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A crowded machine draws few examples in a second, which says nothing about the product.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test carries its tier, the folder it lies in, as a marker (`-m unit`)."""
    for item in items:
        for tier in TIERS:
            if tier in item.path.parts:
                item.add_marker(tier)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test that used a stack shows the stack's newest executions and the ends of its logs."""
    report = yield
    used = getattr(item, "funcargs", {}).get("stack")
    if report.failed and used is not None:
        answer = used if isinstance(used, dict) else used.answer
        report.sections += stack_sections(Path(answer["data_dir"]), answer["gateway"])
    return report


@pytest.fixture(autouse=True)
def log_configuration() -> Iterator[None]:
    """Fail a test that leaves its process configured for a product's logs: later tests could not read theirs."""
    yield
    if isinstance(structlog.get_config()["logger_factory"], structlog.WriteLoggerFactory):
        structlog.reset_defaults()
        pytest.fail("the test left structlog configured: replace `logs.configure` in it")


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server with JWTs, streams and buckets, shared by the session: use projects of your own."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of the test's own, to kill and restart."""
    with running_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server, shared by the session: make a database of your own."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Config]:
    """An S3 server with the bucket `test`, shared by the session: use prefixes of your own."""
    with running_weed(tmp_path_factory.mktemp("s3") / "weed") as config:
        yield config


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole embedded stack with the scripted agent, shared by the session: use projects of your own."""
    with running_stack(tmp_path_factory.mktemp("stack") / "data") as found:
        yield found
