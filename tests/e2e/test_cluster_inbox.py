"""Events of a real Knative Broker start executions, with every function at zero (knative/overlays/inbox)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml

from ocf.cli.triggers import documents
from ocf.events.envelope import Event
from ocf.functions.rules.rulebook import execution_id
from tests.integration.test_docs_run import block
from tests.support.cluster import (
    NEEDS_CLUSTER,
    Cluster,
    apply,
    at_zero,
    built,
    cluster,
    gateway,
    kubectl,
    until,
)

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(900)]
PAGE = "docs/how-to/receive-knative-events.md"
KINDS = ("Broker", "Trigger")
FOUND = {"name": "found", "on": {"type": "org.example.found"}, "task": {"prompt": "Say hello: {{ event.data.title }}"}}


@dataclass(frozen=True)
class Inbox:
    """The cluster with a Broker whose Trigger leads to the gateway; `broker` is its address."""

    here: Cluster
    broker: str

    async def send(self, event: Event) -> None:
        """Give the Broker an event; it answers 202 when it has it."""
        body = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type}
        body |= {"datacontenttype": "application/json", "data": json.loads(event.data)}
        headers = {"content-type": "application/cloudevents+json"}
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as http:
            answer = await http.post(self.broker, headers=headers, content=json.dumps(body))
        assert answer.status_code == 202, answer.text

    async def rule(self, rule: dict[str, Any]) -> None:
        """Store a rule of the test's project."""
        async with gateway(self.here) as http:
            answer = await http.post("/triggers", json={**rule, "project_id": self.here.project})
        assert answer.status_code == 201, answer.text


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[Inbox]:
    """The Broker and the Trigger of knative/overlays/inbox, with the token of a hook, for the time of the test."""
    if "mt-broker-ingress" not in await kubectl("get", "deployments", "-n", "knative-eventing", "-o", "name"):
        pytest.skip("needs a cluster whose Knative has a Broker (cluster.sh broker)")
    wanted = [one for one in await built("inbox") if one["kind"] in KINDS]
    [trigger] = [one for one in wanted if one["kind"] == "Trigger"]
    async with cluster(tmp_path, f"e2e-{uuid.uuid4().hex[:8]}") as here:
        async with gateway(here) as http:
            body = {"kind": "knative", "source": "broker", "project_id": here.project}
            made = await http.post("/hooks", json=body)
        assert made.status_code == 201, made.text
        url = urlsplit(made.json()["url"])
        assert trigger["spec"]["subscriber"]["uri"].startswith("/events/default/broker?token=")
        trigger["spec"]["subscriber"]["uri"] = f"{url.path}?{url.query}"
        await apply(wanted)
        try:
            for what in ("broker/ocf-inbox", "trigger/ocf-inbox"):
                await kubectl("wait", what, "--for=condition=Ready", "--timeout=120s", timeout=130)
            address = await kubectl("get", "broker", "ocf-inbox", "-o", "jsonpath={.status.address.url}")
            yield Inbox(here, address)
        finally:
            for one in wanted:
                await kubectl("delete", one["kind"], one["metadata"]["name"], "--wait=false", "--ignore-not-found")


def found(title: str) -> Event:
    """An event of a scanner."""
    data = json.dumps({"title": title}).encode()
    return Event("org.example.found", "/scanner", uuid.uuid4().hex, datetime.now(UTC), data)


async def test_an_event_of_a_broker_becomes_an_execution_from_zero_and_once(
    inbox: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pod of a function: the event wakes the gateway, trigger, submit and execute; real OpenCode completes. The
    Broker takes the gateway's answer as delivered, and the same event sent again is the same execution."""
    here = inbox.here
    await inbox.rule(FOUND)
    await until("no pod of a function", at_zero, 240)
    event = found("a bug")
    execution = execution_id(here.project, "found", event)
    started = time.monotonic()
    await inbox.send(event)
    await here.running(execution, said=1)
    said = time.monotonic() - started
    await here.completed_once(execution)
    with capsys.disabled():
        print(f"\n    Broker, from zero: first status {said:.1f} s, ended {time.monotonic() - started:.1f} s")
    await inbox.send(event)
    other = found("another bug")
    await inbox.send(other)
    await here.completed_once(execution_id(here.project, "found", other))
    async with gateway(here) as http:
        listed = (await http.get("/events", params={"project_id": here.project})).json()["events"]
        [rule] = (await http.get("/triggers", params={"project_id": here.project})).json()["triggers"]
    assert {one["id"] for one in listed} == {event.id, other.id}
    assert rule["matched"] == 2
    log = await kubectl("logs", "-n", "knative-eventing", "deploy/mt-broker-filter", "--tail=2000")
    assert "non-empty response" not in log


async def test_a_ping_of_the_page_starts_the_task_of_the_page(inbox: Inbox, tmp_path: Path) -> None:
    """PingSource, Broker and rule as they are written in the page, each minute instead of each morning."""
    if "pingsource-mt-adapter" not in await kubectl("get", "deployments", "-n", "knative-eventing", "-o", "name"):
        pytest.skip("needs a cluster whose Knative has PingSource")
    source, file = yaml.safe_load(block(PAGE, "ping")), tmp_path / "rule.yaml"
    file.write_text(block(PAGE, "ping-rule"))
    [rule] = documents(str(file))
    source["spec"]["schedule"] = "* * * * *"
    await inbox.rule(rule)
    await apply([source])
    try:
        await kubectl("wait", "pingsource/every-morning", "--for=condition=Ready", "--timeout=120s", timeout=130)
        started: list[str] = []

        async def accepted() -> bool:
            async with gateway(inbox.here) as http:
                answer = (await http.get("/tasks", params={"project_id": inbox.here.project})).json()
            started[:] = [one["execution_id"] for one in answer["items"]]
            return bool(started)

        await until("a ping has started a task", accepted, 180, every=2)
    finally:
        await kubectl("delete", "pingsource", "every-morning", "--wait=false")
    record = await inbox.here.ended(started[0])
    assert (record.state, record.title) == ("completed", "update the dependencies")
