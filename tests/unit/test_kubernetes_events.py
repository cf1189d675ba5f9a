"""Facts as Kubernetes Events: what the API server is asked for, and what its answers mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from ocf.events.envelope import Event
from ocf.functions.dispatcher.http_target import KubernetesEvents, described
from ocf.functions.dispatcher.routes import Route
from ocf.functions.dispatcher.sink_routes import routes
from ocf.functions.settings.event_sinks import KUBERNETES, check, sinks

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def fact(verb: str = "failed", **data: str) -> Event:
    """A terminal fact."""
    told = {"execution_id": "e-1", "project_id": "acme", **data}
    return Event(f"dev.ocf.task.{verb}.v1", "/ocf/execute", "id-1", WHEN, json.dumps(told).encode())


def route() -> Route:
    """The route of such a sink."""
    [found] = routes(sinks(f"kubernetes:*/failed={KUBERNETES}"), 13)
    return found


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """The folder that the kubelet mounts."""
    (tmp_path / "namespace").write_text("ocf")
    (tmp_path / "token").write_text("secret-token")
    return tmp_path


def test_the_sink_needs_no_key_and_no_address() -> None:
    """The cluster is known by its certificate."""
    [sink] = sinks(f"kubernetes:*/failed+timed_out={KUBERNETES}")
    assert (sink.url, sink.facts) == (KUBERNETES, ("failed", "timed_out"))
    check([sink], {}, None)


def test_an_event_says_which_execution_failed_and_why() -> None:
    """`kubectl events --for ksvc/execute` shows it: the fact's reason, execution, project and message."""
    found = described(fact(reason="worker_lost", message="the lease ran out"), "ocf")
    assert (found["reason"], found["type"]) == ("WorkerLost", "Warning")
    assert found["message"] == "execution e-1 of project acme: failed (worker_lost): the lease ran out"
    assert found["involvedObject"]["kind"] == "Service"
    assert found["involvedObject"]["name"] == "execute"
    assert found["lastTimestamp"] == "2026-01-02T03:04:05.000000Z"
    assert described(fact("timed_out"), "ocf")["reason"] == "TimedOut"


def test_an_event_fits_the_api_server() -> None:
    """A long message is cut; the name is a valid one whatever the fact's id is, and the same each time."""
    first, second = (described(fact(message="x" * 9_000), "ocf") for _ in range(2))
    assert len(first["message"]) == 1_024
    assert first["metadata"] == second["metadata"]
    assert first["metadata"]["name"].replace(".", "").isalnum()


@pytest.mark.parametrize(("answer", "done"), [(201, True), (409, True), (403, False), (500, False)])
async def test_the_same_fact_again_is_the_same_event(answer: int, done: bool, account: Path) -> None:
    """409 means that it is there; a refusal is tried again, as by every sink."""
    asked: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(answer)

    result = await KubernetesEvents(route(), account, httpx2.MockTransport(respond)).post(fact(reason="stalled"))
    assert (result.done, result.retried) == (done, not done)
    [request] = asked
    assert request.url.path == "/api/v1/namespaces/ocf/events"
    assert request.headers["authorization"] == "Bearer secret-token"


async def test_without_an_account_the_delivery_fails_and_says_so(tmp_path: Path) -> None:
    """A pod that has no token is a failure like a receiver that does not answer."""
    result = await KubernetesEvents(route(), tmp_path).post(fact())
    assert (result.status, result.done, result.failure) == (0, False, "FileNotFoundError")
