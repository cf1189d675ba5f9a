"""Health, readiness, metrics, dead letters, sessions, viewer tokens, the console, the OpenAPI document."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ocf.events import dead_letters, subjects
from ocf.events.adapters.memory_bus import MemoryBucket, MemoryBus
from ocf.events.envelope import decode
from ocf.events.errors import Unavailable
from ocf.events.fact_payloads import SessionRejected
from ocf.events.ports import Message
from ocf.events.sealing import Keyring, generate_key
from ocf.events.session_record import Session
from ocf.functions.core.compare_and_set import dump
from ocf.functions.core.execution_store import Records
from ocf.functions.gateway.routes import operations, sessions
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.runtime.nats_auth import Credentials
from tests.support.gateway import ID, OTHER, SECRET, World, bearer
from tests.support.handlers import session
from tests.support.parts import bench

ROOT = Path(__file__).parents[2]


async def test_health_looks_at_nothing() -> None:
    """And says whether the gateway is open."""
    assert (await World().client.get("/health")).json() == {"status": "ok", "open": True, "instance": None}
    locked = World(GatewaySettings(jwt_secret=SecretStr(SECRET)))
    assert (await locked.client.get("/health")).json() == {"status": "ok", "open": False, "instance": None}


async def test_ready_names_each_check() -> None:
    """503 as long as one fails, saying which and why."""

    class Dead(MemoryBus):
        async def ready(self) -> None:
            raise Unavailable("not connected to NATS")

    world = World(bus=Dead(World().clock))
    answer = await world.client.get("/ready")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks["nats"]["detail"] == "not connected to NATS"
    assert checks["history"]["ok"]
    assert checks["s3"]["ok"]
    world = World()
    answer = await world.client.get("/ready")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


async def test_ready_says_that_a_script_answers() -> None:
    """Where no real model is configured, whoever shows an execution can say so."""
    for offline in (True, False):
        world = World(GatewaySettings(offline_model=offline))
        assert (await world.client.get("/ready")).json()["offline_model"] is offline


async def test_metrics_count_by_route_not_by_path() -> None:
    """Ids in labels would make a series each."""
    world = World()
    await world.client.get(f"/tasks/{ID}/status")
    await world.client.post("/tasks/execute", json={"prompt": "x"})
    text = (await world.client.get("/metrics")).text
    assert 'route="/tasks/{execution_id}/status",status="404"} 1.0' in text
    assert "ocf_gateway_submitted_total 1.0" in text
    assert ID not in text


async def test_metrics_are_those_of_the_whole_process() -> None:
    """A process that serves the gateway and functions has one `/metrics`: with what they count too, each name once."""
    text = (await World().client.get("/metrics")).text
    named = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert {"ocf_gateway_streams", "ocf_asyncio_tasks", "ocf_executions_ended_total"} <= set(named)
    assert len(named) == len(set(named))


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
async def test_metrics_are_not_on_the_public_route(header: str) -> None:
    """What a proxy passed on, as Knative's does with every request of a route, gets 404; a direct scrape is served."""
    world = World()
    answer = await world.client.get("/metrics", headers={header: "for=10.0.0.1"})
    assert (answer.status_code, "ocf_" in answer.text) == (404, False)
    assert (await world.client.get("/metrics")).status_code == 200


async def test_methods_that_callers_invent_make_no_series() -> None:
    """Labels are a fixed set: nobody fills the memory before it is known who it is."""
    world = World()
    for number in range(20):
        await world.client.request(f"X{number}", "/tasks")
    text = (await world.client.get("/metrics")).text
    assert 'method="other"' in text
    assert "X1" not in text


async def dead(world: World, subject: str, data: bytes = b'{"a":1}') -> int:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "e1",
        "ce-type": "dev.ocf.task.submit.v1",
        "Content-Type": "application/json",
        "Ocf-Dlq-Consumer": "submit",
        "Ocf-Dlq-Subject": subject,
        "Ocf-Dlq-Sequence": "7",
        "Ocf-Dlq-Deliveries": "5",
        "Ocf-Dlq-Status": "500",
        "Ocf-Dlq-Reason": "it broke%0Atwice",
        "Ocf-Dlq-Time": "2026-01-01T00:00:00Z",
    }
    where = dead_letters.subject("submit", subject)
    return await world.bus.publish(where, data, {**headers, "Nats-Msg-Id": f"dlq:{subject}"})


async def test_dead_letters_are_listed_shown_redriven_and_dropped() -> None:
    """Redriven byte for byte to where it came from, and then gone from the list."""
    world = World()
    subject = subjects.command("submit", "default", ID)
    first = await dead(world, subject)
    second = await dead(world, subjects.command("submit", "default", OTHER))
    listed = (await world.client.get("/dlq?limit=1")).json()
    assert [item["seq"] for item in listed["items"]] == [first]
    assert listed["items"][0]["reason"] == "it broke\ntwice"
    assert [item["seq"] for item in (await world.client.get(f"/dlq?after={listed['next']}")).json()["items"]] == [
        second
    ]
    shown = (await world.client.get(f"/dlq/{first}")).json()
    assert (shown["data"], shown["subject"], shown["deliveries"]) == ('{"a":1}', subject, 5)
    assert (await world.client.post(f"/dlq/{first}/redrive")).status_code == 202
    again = await world.bus.last(subjects.COMMANDS, subject)
    assert again is not None
    assert again.data == b'{"a":1}'
    assert set(again.headers) == {"ce-specversion", "ce-id", "ce-type", "Content-Type"}
    assert (await world.client.delete(f"/dlq/{second}")).status_code == 204
    assert (await world.client.get("/dlq")).json() == {"items": []}
    assert (await world.client.post(f"/dlq/{first}/redrive")).status_code == 404


async def test_a_dead_letter_without_its_data_says_so_and_is_not_redriven() -> None:
    """It could not be read: size and hash are shown; publishing it again is refused with what would be right."""
    world = World()
    message = Message(subjects.command("submit", "default", ID), b"not JSON", {}, 7)
    seq = await world.bus.publish(
        *dead_letters.compose(
            "submit", message, status=400, reason="no", at=datetime(2026, 1, 1, tzinfo=UTC), with_data=False
        )
    )
    shown = (await world.client.get(f"/dlq/{seq}")).json()
    assert (shown["size"], len(shown["sha256"]), shown["project_id"]) == (8, 64, "default")
    assert shown["data"] is None
    answer = await world.client.post(f"/dlq/{seq}/redrive")
    assert (answer.status_code, "publish a correct event" in answer.json()["detail"]) == (409, True)
    assert (await world.client.delete(f"/dlq/{seq}")).status_code == 204


@pytest.mark.parametrize("consumer", ["sink-acme", "archive"])
async def test_a_fact_that_one_consumer_did_not_take_goes_to_that_one_alone(consumer: str) -> None:
    """Redriving it where it came from would archive the execution anew and tell every (other) sink a second time."""
    world = World()
    subject = subjects.fact("default", ID, "completed")
    headers = {"ce-specversion": "1.0", "ce-id": "1", "Ocf-Dlq-Subject": subject, "Ocf-Dlq-Consumer": consumer}
    seq = await world.bus.publish(f"ocf.dlq.{consumer}", b"{}", headers)
    assert (await world.client.post(f"/dlq/{seq}/redrive")).status_code == 202
    assert await world.bus.last(subjects.EVENTS, subject) is None
    again = await world.bus.last(subjects.EVENTS, f"{subject}.again.{consumer}")
    assert again is not None
    assert set(again.headers) == {"ce-specversion", "ce-id"}


async def test_dead_letters_belong_to_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a project is the operator's; others see their own only, and do not read the rest."""
    world, letter_of, read = World(GatewaySettings(jwt_secret=SecretStr(SECRET))), operations._letter, list[int]()

    def reading(message: Message) -> operations.DeadLetter:
        read.append(message.sequence)
        return letter_of(message)

    monkeypatch.setattr(operations, "_letter", reading)
    mine = await dead(world, subjects.command("submit", "team-a", ID))
    theirs = await dead(world, subjects.command("submit", "team-b", ID))
    nobodys = await dead(world, "rubbish")
    for projects, wanted in (
        (["team-a"], [mine]),
        (["team-a", "team-b"], [mine, theirs]),
        ("*", [mine, theirs, nobodys]),
    ):
        read.clear()
        items = (await world.client.get("/dlq", headers=bearer(projects))).json()["items"]
        assert [item["seq"] for item in items] == read == wanted
    page = (await world.client.get("/dlq?limit=1", headers=bearer(["team-a", "team-b"]))).json()
    assert ([item["seq"] for item in page["items"]], page["next"]) == ([mine], mine)
    for seq in (theirs, nobodys):
        for method, path in (("GET", ""), ("POST", "/redrive"), ("DELETE", "")):
            answer = await world.client.request(method, f"/dlq/{seq}{path}", headers=bearer(["team-a"]))
            assert answer.status_code == 404


async def test_sessions_are_commands_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating, attaching, detaching and destroying are events; reading is reading the record, defaults and all."""
    monkeypatch.setattr(sessions, "CREATE_SECONDS", 0.01)
    world = World(keyring=Keyring(generate_key()))
    body: dict[str, Any] = {
        "session_id": ID,
        "labels": {"a": "b"},
        "workspace": {"source": "git", "url": "u", "token": "t-plain"},
    }
    answer = await world.client.post("/sessions", json=body)
    assert (answer.status_code, answer.json()) == (202, {"session_id": ID, "status": "creating"})
    (create,) = await world.commands("session")
    assert (create["project_id"], create["session_id"], create["labels"]) == ("default", ID, {"a": "b"})
    assert create["workspace"]["token"]["alg"] == "A256GCM"
    assert (await world.client.post(f"/sessions/{ID}/attach")).status_code == 404
    now = world.clock.now()
    times = {"created_at": now, "updated_at": now, "expires_at": now, "ttl_seconds": 60}
    made = Session.model_validate({"session_id": ID, "project_id": "default", **times})
    await world.sessions.create(f"default.{ID}", dump(made))
    await world.history.save_session(made)
    shown = (await world.client.get(f"/sessions/{ID}")).json()
    assert shown == made.model_dump(mode="json")
    assert (shown["state"], shown["queue"], shown["clients"]) == ("open", [], [])
    assert (await world.client.get("/sessions")).json()["items"] == [shown]
    assert (await world.client.post(f"/sessions/{ID}/attach", json={"client_id": "c1"})).status_code == 202
    assert (await world.client.post(f"/sessions/{ID}/detach")).status_code == 202
    assert (await world.client.delete(f"/sessions/{ID}")).json()["status"] == "destroying"
    _, attach, detach, destroy = await world.commands("session")
    assert (attach["client_id"], detach["client_id"]) == ("c1", "loopback")
    assert destroy["requested_by"] == "loopback"


@pytest.mark.parametrize("wrong", [False, True])
async def test_a_create_waits_for_its_session(wrong: bool) -> None:
    """`open` when it is there, 422 with the field when it was rejected; another command's fact is not taken for it."""
    world = World()
    b = bench()

    async def function() -> None:
        async with world.bus.listen("ocf.cmd.session.>") as told:
            ready.set()
            async for message in told:
                event = decode(message.headers, message.data)
                deps = replace(b.deps, bus=world.bus, sessions=world.sessions, clock=world.clock)
                deps = replace(
                    deps,
                    records=Records(
                        deps.executions,
                        world.bus,
                        world.clock,
                        source="/test",
                        store=world.store,
                        open_keys=MemoryBucket(world.clock),
                    ),
                )
                other = SessionRejected(session_id=ID, project_id="default", errors=[])
                stranger = replace(event, id="another")
                await deps.records.publish_fact("dev.ocf.session.rejected.v1", other, stranger, key="x")
                await session(deps, event)

    ready = asyncio.Event()
    working = asyncio.create_task(function())
    await ready.wait()
    body = {"session_id": ID, **({"from_execution_id": OTHER} if wrong else {})}
    answer = await world.client.post("/sessions", json=body)
    working.cancel()
    if wrong:
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "from_execution_id"
    else:
        assert (answer.status_code, answer.json()) == (202, {"session_id": ID, "status": "open"})
        assert (await world.client.get(f"/sessions/{ID}")).json()["state"] == "open"


async def test_a_viewers_token_names_everything_a_viewer_needs() -> None:
    """Address, credentials, subject, history, expiry; it does not outlive the token it was got with."""
    asked = []

    def mint(project: str, execution: str, ttl: int) -> Credentials:
        asked.append((project, execution, ttl))
        return Credentials("jwt", "seed", 1_800_000_000)

    settings = GatewaySettings(nats_ws_url="ws://127.0.0.1:9222", jwt_secret=SecretStr(SECRET))
    world = World(settings, mint_viewer=mint)
    await world.record(project="team-a")
    claims = {"now": world.clock.now(), "ttl": 10 * 365 * 86_400}
    answer = (await world.client.post(f"/tasks/{ID}/token", headers=bearer(["team-a"], **claims))).json()
    assert answer == {
        "nats_ws": "ws://127.0.0.1:9222",
        "jwt": "jwt",
        "seed": "seed",
        "subject": f"ocf.live.team-a.{ID}",
        "history_url": f"http://localhost:3003/tasks/{ID}/output?project_id=team-a&format=ndjson",
        "expires_at": "2027-01-15T08:00:00Z",
    }
    await world.clock.advance(10 * 365 * 86_400 - 60)
    await world.client.post(f"/tasks/{ID}/token", headers=bearer(["team-a"], **claims))
    assert asked == [("team-a", ID, 900), ("team-a", ID, 60)]


async def test_without_viewers_the_token_says_so() -> None:
    """A frontend then takes the WebSocket of the gateway."""
    world = World()
    await world.record()
    answer = (await world.client.post(f"/tasks/{ID}/token")).json()
    assert (answer["nats_ws"], answer["jwt"], answer["seed"]) == (None, "", "")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A built console, with a secret beside it and a link to that."""
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>console</title>")
    (folder / "assets" / "app-1a2b.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


async def test_the_console_is_served(built: Path) -> None:
    """Hashed files for ever, the page fresh every time; deep links are the page; its policy allows no foreign code."""
    world = World(GatewaySettings(console_dir=built, nats_ws_url="wss://nats.example:443/x"))
    page = await world.client.get("/")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-cache"
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self' wss://nats.example:443;" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    again = await world.client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert again.status_code == 304
    asset = await world.client.get("/assets/app-1a2b.js")
    assert "immutable" in asset.headers["cache-control"]
    assert asset.headers["content-type"].startswith("text/javascript")
    deep = await world.client.get("/runs/abc", headers={"Accept": "text/html"})
    assert deep.text == page.text
    assert (await world.client.get("/assets/gone.js", headers={"Accept": "text/html"})).status_code == 404
    assert (await world.client.get("/no/such/call")).headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/..%2fsecret.txt", "/assets/../../secret.txt", "/link.txt", "/%00", "//etc/passwd"]
)
async def test_nothing_outside_the_console_is_served(built: Path, path: str) -> None:
    """Neither by dots nor by links."""
    world = World(GatewaySettings(console_dir=built))
    answer = await world.client.get(f"http://localhost:3003{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text.replace("secret.txt", "")


async def test_the_console_answers_a_look_at_its_headers(built: Path) -> None:
    """`HEAD` as every check of a web page does it (RFC 9110, 9.1); a call that has none is still refused."""
    world = World(GatewaySettings(console_dir=built))
    page, head = await world.client.get("/"), await world.client.head("/")
    assert (head.status_code, head.headers["content-type"]) == (200, page.headers["content-type"])
    assert (await world.client.head("/tasks/execute")).status_code == 405


async def test_a_console_that_was_not_built_says_so(tmp_path: Path) -> None:
    """With how to build it, and the API is there all the same."""
    for folder in (None, tmp_path):
        answer = await World(GatewaySettings(console_dir=folder)).client.get("/")
        assert answer.status_code == 200
        assert "make demo" in answer.text
        assert answer.headers["cache-control"] == "no-store"


async def test_the_openapi_document_is_3_1_and_committed() -> None:
    """What is served is what `schemas/openapi.json` says."""
    answer = await World().client.get("/openapi.json")
    assert answer.json()["openapi"] == "3.1.0"
    assert answer.content == (ROOT / "schemas/openapi.json").read_bytes()


async def test_an_unexpected_failure_is_a_problem_too() -> None:
    """500 without a trace of the inside."""
    world = World()
    await world.executions.create(f"default.{ID}", b"not a record")
    answer = await world.client.get(f"/tasks/{ID}/status?project_id=default")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"


async def test_every_call_is_in_the_documentation() -> None:
    """`docs/reference/api.md` names each path with its method, and none that is not there."""
    document = (await World().client.get("/openapi.json")).json()
    text = (ROOT / "docs/reference/api.md").read_text()
    named = set(re.findall(r"`(GET|POST|DELETE) (/[^`?]*)(?:\?[^`]*)?`", text))
    said = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert named - {("GET", "/"), ("GET", "/openapi.json")} == said
