"""Submitting, looking at, cancelling, deleting and answering executions over REST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.errors import Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.output import PendingRequest, TodoItem
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.gateway.request_schemas import ExecuteTask
from ocf.functions.gateway.settings import GatewaySettings
from tests.support.gateway import ID, OTHER, World
from tests.support.stack import until


async def test_a_task_is_on_the_bus_before_it_is_answered() -> None:
    """202 means that the submit command is kept, with the ids that the answer names and a trace context."""
    world = World()
    answer = await world.client.post("/tasks/execute", json={"prompt": "Fix it", "labels": {"team": "a"}})
    assert answer.status_code == 202
    execution = answer.json()["execution_id"]
    assert answer.json() == {"execution_id": execution, "status": "pending"}
    message = await world.bus.last(subjects.COMMANDS, subjects.command("submit", "default", execution))
    assert message is not None
    assert json.loads(message.data)["prompt"] == "Fix it"
    assert json.loads(message.data)["project_id"] == "default"
    assert message.headers["ce-type"] == "dev.ocf.task.submit.v1"
    assert message.headers["ce-traceparent"].startswith("00-")
    assert answer.headers["location"] == f"/tasks/{execution}/status?project_id=default"


async def test_the_callers_trace_goes_on() -> None:
    """A `traceparent` of the caller is the event's."""
    world, trace = World(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = await world.client.post("/tasks/execute", json={"prompt": "x"}, headers={"traceparent": trace})
    subject = subjects.command("submit", "default", answer.json()["execution_id"])
    message = await world.bus.last(subjects.COMMANDS, subject)
    assert message is not None
    assert message.headers["ce-traceparent"] == trace


async def test_a_bus_that_does_not_answer_is_a_503() -> None:
    """Nothing is accepted that nobody keeps."""

    class Silent(MemoryBus):
        async def publish(self, *args: object, **kwargs: object) -> int:
            raise Unavailable("publish: no answer")

    world = World(bus=Silent(World().clock))
    answer = await world.client.post("/tasks/execute", json={"prompt": "x"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "prompt", "prompt or code is required"),
        ({"prompt": "x", "promt": "y"}, "promt", "did you mean prompt?"),
        ({"prompt": "x", "execution_id": "A"}, "execution_id", "lower-case UUID"),
        ({"prompt": "x", "limits": {"timeout_seconds": 0}}, "limits.timeout_seconds", "greater than or equal to 1"),
        ({"prompt": "x", "workspace": {"source": "git"}}, "workspace.url", "is required"),
        ({"prompt": "x", "workspace": {"source": "ftp"}}, "workspace", "'empty', 'git', 'directory'"),
        ({"prompt": "x", "model_config": {"provider": "P!", "model": "m"}}, "model_config.provider", "provider's name"),
        ({"prompt": "x", "model_config": {"provider": "p"}}, "model_config.model", "is required"),
        (
            {"prompt": "x", "model_config": {"provider": "p", "model": "m", "api_key": 5}},
            "model_config.api_key",
            "valid string",
        ),
        ({"prompt": "x", "permissions": {"bash": "maybe"}}, "permissions.bash", "'allow', 'deny' or 'ask'"),
        ({"prompt": "x", "network": {"allow": ["ok.org", "no good"]}}, "network.allow.1", "pattern"),
        ({"prompt": "a\x00b"}, "prompt", "NUL"),
    ],
)
async def test_each_wrong_field_is_named_with_what_would_be_right(body: object, field: str, said: str) -> None:
    """422 is a problem document (RFC 9457) whose errors have the field as the caller wrote it."""
    answer = await World().client.post("/tasks/execute", json=body)
    assert answer.status_code == 422
    document = answer.json()
    assert document["type"] == "urn:ocf:problem:invalid-request"
    assert document["instance"] == "/tasks/execute"
    assert [error["field"] for error in document["errors"]] == [field]
    assert said in document["errors"][0]["message"]


@pytest.mark.parametrize(
    ("timeout", "status"), [(60, 202), (60.0, 202), (60.5, 422), ("60", 422), (True, 422), (1e400, 422)]
)
async def test_numbers_are_numbers(timeout: object, status: int) -> None:
    """60.0 is an integer in JSON; a text or a truth is none, whatever it looks like."""
    answer = await World().client.post(
        "/tasks/execute",
        content=json.dumps({"prompt": "x", "limits": {"timeout_seconds": timeout}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status


async def test_wrong_values_are_never_repeated() -> None:
    """What is wrong may be a secret: the problem document does not have it."""
    body = {"prompt": "x", "model_config": {"provider": "p", "model": "m", "api_key": "k" * 9_000}}
    answer = await World().client.post("/tasks/execute", json=body)
    assert answer.status_code == 422
    assert "kkkk" not in answer.text


@pytest.mark.parametrize(
    ("body", "field", "instead"),
    [
        ({"workspace": {"source": "git", "url": "https://user:hunter2@example.com/a.git"}}, "workspace.url", "token"),
        ({"workspace": {"source": "git", "url": "https://hunter2@example.com/a.git"}}, "workspace.url", "token"),
        ({"workspace": {"source": "git", "url": "ssh://git:hunter2@example.com/a.git"}}, "workspace.url", "token"),
        (
            {"model_config": {"provider": "p", "model": "m", "api_endpoint": "https://x:hunter2@example.com/v1"}},
            "model_config.api_endpoint",
            "api_key",
        ),
    ],
)
async def test_credentials_in_a_url_are_refused_before_they_are_said(
    body: dict[str, object], field: str, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A password in a URL reaches neither bus nor log nor answer, which names the field that is for it."""
    world = World()
    for path in ("/tasks/execute", "/sessions") if "workspace" in body else ("/tasks/execute",):
        said = body if path == "/sessions" else {"prompt": "x", **body}
        answer = await world.client.post(path, json=said)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert f"`{instead}`" in answer.text
        assert "hunter2" not in answer.text + caplog.text
    assert [m async for m in world.bus.history(subjects.COMMANDS, ">")] == []
    from ocf.events.command_payloads import Submit

    with pytest.raises(ValueError, match="must not carry credentials") as caught:
        Submit.model_validate({"prompt": "x", "execution_id": ID, "project_id": "default", **body})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"\xff", {"Content-Type": "application/json"}, 400),
        (b'{"prompt":"x"}', {"Content-Type": "text/plain"}, 415),
        (b"", {}, 415),
    ],
)
async def test_a_body_that_is_not_json_is_refused(body: bytes, headers: dict[str, str], status: int) -> None:
    """A form on a foreign page cannot send JSON's media type, so anything else is refused."""
    answer = await World().client.post("/tasks/execute", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["detail"]


async def test_a_plain_key_is_sealed_before_it_touches_the_bus() -> None:
    """Model key and repository token arrive sealed for the project, and open with the key."""
    keyring = Keyring(generate_key())
    world = World(keyring=keyring)
    body = {
        "prompt": "x",
        "project_id": "team-a",
        "model_config": {"provider": "openai", "model": "m", "api_key": "sk-plain"},
        "workspace": {"source": "git", "url": "https://example.com/a.git", "token": "ghp-plain"},
    }
    answer = await world.client.post("/tasks/execute", json=body)
    assert answer.status_code == 202
    subject = subjects.command("submit", "team-a", answer.json()["execution_id"])
    message = await world.bus.last(subjects.COMMANDS, subject)
    assert message is not None
    assert b"plain" not in message.data
    from ocf.events.command_payloads import Submit

    submit = Submit.model_validate_json(message.data)
    assert submit.model is not None
    assert submit.model.api_key is not None
    assert keyring.open(submit.model.api_key, "team-a") == "sk-plain"
    assert submit.workspace.source == "git"
    assert submit.workspace.token is not None
    assert keyring.open(submit.workspace.token, "team-a") == "ghp-plain"


async def test_a_plain_key_without_encryption_key_is_refused() -> None:
    """503 says what to do, and nothing is published."""
    world = World()
    body = {"prompt": "x", "model_config": {"provider": "openai", "model": "m", "api_key": "sk-plain"}}
    answer = await world.client.post("/tasks/execute", json=body)
    assert answer.status_code == 503
    assert "ENCRYPTION_KEY" in answer.json()["detail"]
    assert await world.commands("submit") == []


async def test_the_same_idempotency_key_is_the_same_execution() -> None:
    """Repeated with the same body it is one execution; in another project the key means another."""
    world, headers = World(keyring=Keyring(generate_key())), {"Idempotency-Key": "order-7"}
    body = {"prompt": "x", "model_config": {"provider": "p", "model": "m", "api_key": "sk"}}
    first, second = [await world.client.post("/tasks/execute", json=body, headers=headers) for _ in range(2)]
    elsewhere = await world.client.post("/tasks/execute", json={**body, "project_id": "b"}, headers=headers)
    assert first.json() == second.json()
    assert len(await world.commands("submit")) == 2
    assert elsewhere.json()["execution_id"] != first.json()["execution_id"]


async def test_a_repeated_call_is_answered_with_the_state_it_has_by_now() -> None:
    """Who repeats a call long after gets where the execution stands."""
    world = World()
    await world.client.post("/tasks/execute", json={"prompt": "x", "execution_id": ID})
    await world.record(state=State.COMPLETED)
    answer = await world.client.post("/tasks/execute", json={"execution_id": ID, "prompt": "x"})
    assert answer.json() == {"execution_id": ID, "status": "completed"}


async def test_a_used_id_with_another_body_is_a_409() -> None:
    """The second call is not silently taken for the first."""
    world = World()
    await world.client.post("/tasks/execute", json={"prompt": "x", "execution_id": ID})
    answer = await world.client.post("/tasks/execute", json={"prompt": "y", "execution_id": ID})
    assert answer.status_code == 409
    assert [command["prompt"] for command in await world.commands("submit")] == ["x"]


async def test_an_id_that_was_deleted_is_gone() -> None:
    """410: submitting it again would have no effect."""
    world = World()
    await world.fact("cleaned")
    answer = await world.client.post("/tasks/execute", json={"prompt": "x", "execution_id": ID})
    assert answer.status_code == 410


async def test_a_large_task_goes_through_the_store() -> None:
    """Over 512 KiB the event refers to an object; over 16 MiB it is 413."""
    world = World()
    answer = await world.client.post("/tasks/execute", json={"prompt": "x", "code": "y" * 600_000})
    assert answer.status_code == 202
    subject = subjects.command("submit", "default", answer.json()["execution_id"])
    message = await world.bus.last(subjects.COMMANDS, subject)
    assert message is not None
    assert message.data == b""
    key = message.headers["ce-dataref"].removeprefix("ocf-s3:")
    assert json.loads(world.store.objects[key])["code"] == "y" * 600_000
    # Two bytes of body become six of JSON, so the body fits and the event does not.
    answer = await world.client.post("/tasks/execute", json={"prompt": "x", "context": {"a": "z" * (16 * 1024 * 1024)}})
    assert answer.status_code == 413


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_refused(chunked: bool) -> None:
    """By the length it states, and by what arrives when it states none."""
    world = World(GatewaySettings(max_body=1000))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 500

    content = pieces() if chunked else b" " * 1500
    answer = await world.client.post("/tasks/execute", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (b"[" + b"[]," * 5_000_000 + b"[]]", "values"),
        (b"[" * 8_000_000 + b"]" * 8_000_000, "values"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper"),
        (b'["",' + b'"",' * 4_000_000 + b'""]', "texts"),
    ],
)
async def test_a_body_is_measured_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, context: bytes, said: str
) -> None:
    """Nested lists by the million cost a byte search and no memory: no parser sees them."""

    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(ExecuteTask, "model_validate_json", parsed)
    answer = await World().client.post(
        "/tasks/execute",
        content=b'{"prompt":"x","context":' + context + b"}",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "body"
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("number", "status"), [("1" * 5_000, 400), ("1" * 4_300, 422), ("NaN", 422), ("-Infinity", 422), ("1e999999", 422)]
)
async def test_numbers_that_no_reader_takes(number: str, status: int) -> None:
    """Too many digits, and what is no JSON (RFC 8259), are the caller's error and no failure of ours."""
    answer = await World().client.post(
        "/tasks/execute",
        content=f'{{"prompt":"x","context":{{"a":{number}}},"limits":{{"timeout_seconds":{number}}}}}'.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status


async def test_nan_within_a_text_is_text() -> None:
    """Only a number that is none is refused."""
    answer = await World().client.post("/tasks/execute", json={"prompt": "what is NaN, and -Infinity?"})
    assert answer.status_code == 202


async def test_free_form_data_that_is_no_json_is_refused() -> None:
    """`context` takes any JSON; NaN is none, and would become null on the bus."""
    answer = await World().client.post(
        "/tasks/execute", content=b'{"prompt":"x","context":{"a":NaN}}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400


async def test_a_caller_holds_so_many_bodies_at_once_and_no_more() -> None:
    """Bodies that are not through yet count; the next is refused until one of them is, and others are served."""
    world = World(GatewaySettings(caller_bodies=1_500, all_bodies=2_000))
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b" " * 1_000
        await go_on.wait()
        yield b'{"prompt":"x"}'

    headers = {"Content-Type": "application/json"}
    first = asyncio.ensure_future(world.client.post("/tasks/execute", content=slowly(), headers=headers))

    async def held() -> bool:
        return world.gateway.bodies.held >= 1_000

    await until(held)
    second = await world.client.post("/tasks/execute", json={"prompt": "y" * 600})
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    other = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(world.app, client=("127.0.0.2", 5000)), base_url="http://localhost:3003"
    )
    assert (await other.post("/tasks/execute", json={"prompt": "y" * 600})).status_code == 202
    assert (await other.post("/tasks/execute", json={"prompt": "y" * 1_100})).status_code == 503
    go_on.set()
    assert (await first).status_code == 202
    assert world.gateway.bodies.held == 0
    assert (await world.client.post("/tasks/execute", json={"prompt": "y" * 600})).status_code == 202


async def test_a_body_that_does_not_come_is_given_up() -> None:
    """408 after the time for a body; what had come of it is held no longer."""
    world = World(GatewaySettings(body_seconds=0.01))

    async def never_ending() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    answer = await world.client.post(
        "/tasks/execute", content=never_ending(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 408
    assert world.gateway.bodies.held == 0


async def test_status_says_everything_known() -> None:
    """State, progress from the todo list, what it waits for, attempts and usage come from the record."""
    world = World()
    todo = [TodoItem(content="a", status="completed"), TodoItem(content="b", status="pending")]
    waiting = PendingRequest(request_id="r1", kind="permission", title="run rm?")
    await world.record(todo=todo, waiting_for=waiting, title="Fix", started_at=world.clock.now())
    answer = (await world.client.get(f"/tasks/{ID}/status")).json()
    assert answer["status"] == "running"
    assert answer["progress"] == 50
    assert answer["waiting_for"]["request_id"] == "r1"
    assert answer["usage"]["requests"] == 0
    assert "outbox" not in answer


async def test_status_right_after_the_submit_is_pending() -> None:
    """Nobody has recorded it yet, but it is on the bus: a caller is not told that it does not exist."""
    world = World()
    execution = (await world.client.post("/tasks/execute", json={"prompt": "x"})).json()["execution_id"]
    answer = await world.client.get(f"/tasks/{execution}/status")
    assert answer.status_code == 200
    assert answer.json()["status"] == "pending"


async def test_queue_position_counts_who_came_before() -> None:
    """The oldest pending execution is first; what runs is not in the queue."""
    world = World()
    await world.record(OTHER, state=State.PENDING)
    await world.clock.advance(1)
    await world.record(ID, state=State.PENDING)
    assert (await world.client.get(f"/tasks/{ID}/status")).json()["queue_position"] == 2
    await world.record(OTHER, state=State.RUNNING, submitted_at=world.clock.now())
    assert (await world.client.get(f"/tasks/{ID}/status")).json()["queue_position"] == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status"),
        ("POST", "/cancel"),
        ("DELETE", ""),
        ("GET", "/output"),
        ("GET", "/diff"),
        ("GET", "/files"),
        ("GET", "/events"),
        ("POST", "/token"),
    ],
)
async def test_an_unknown_execution_is_a_404_everywhere(method: str, path: str) -> None:
    """And an id that is none is 422."""
    world = World()
    assert (await world.client.request(method, f"/tasks/{ID}{path}")).status_code == 404
    assert (await world.client.request(method, f"/tasks/NO{path}")).status_code == 422


async def test_cancel_is_a_command() -> None:
    """202 once it is on the bus, with why and by whom."""
    world = World()
    await world.record()
    answer = await world.client.post(f"/tasks/{ID}/cancel", json={"why": "wrong branch"})
    assert answer.status_code == 202
    assert answer.json() == {"execution_id": ID, "status": "running"}
    (command,) = await world.commands("cancel")
    assert command == {"execution_id": ID, "project_id": "default", "why": "wrong branch", "requested_by": "loopback"}


async def test_cancel_after_the_end_changes_nothing() -> None:
    """The state is answered; no command is published."""
    world = World()
    await world.record(state=State.FAILED)
    answer = await world.client.post(f"/tasks/{ID}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "failed")
    assert await world.commands("cancel") == []


async def test_delete_is_a_cleanup_command() -> None:
    """Everything, or only the workspace."""
    world = World()
    await world.record()
    assert (await world.client.delete(f"/tasks/{ID}")).status_code == 202
    assert (await world.client.delete(f"/tasks/{ID}?scope=workspace")).status_code == 202
    assert (await world.client.delete(f"/tasks/{ID}?scope=sweep")).status_code == 422
    assert [command["scope"] for command in await world.commands("cleanup")] == ["everything", "workspace"]


async def test_a_reply_reaches_the_bus_and_is_refused_after_the_end() -> None:
    """The answer names the request it is for."""
    world = World()
    await world.record()
    answer = await world.client.post(f"/tasks/{ID}/replies/per_1", json={"answer": "allow"})
    assert answer.status_code == 202
    (command,) = await world.commands("reply")
    assert (command["request_id"], command["answer"]) == ("per_1", "allow")
    await world.record(state=State.COMPLETED)
    assert (await world.client.post(f"/tasks/{ID}/replies/per_1", json={"answer": "x"})).status_code == 409


async def test_an_execution_is_found_in_any_project_from_the_first_moment() -> None:
    """Without naming the project: while it is only on the bus, and before the history has its record."""
    world = World()
    body = {"prompt": "x", "project_id": "team-a"}
    execution = (await world.client.post("/tasks/execute", json=body)).json()["execution_id"]
    answer = await world.client.get(f"/tasks/{execution}/status")
    assert (answer.status_code, answer.json()["project_id"]) == (200, "team-a")
    await world.record(execution, project="team-a")
    await world.history.remove(ExecutionRef("team-a", execution))
    answer = await world.client.get(f"/tasks/{execution}/status")
    assert (answer.json()["project_id"], answer.json()["status"]) == ("team-a", "running")


async def test_an_id_that_two_projects_have_must_be_told_apart() -> None:
    """409 says how."""
    world = World()
    await world.record(project="team-a")
    await world.record(project="team-b")
    answer = await world.client.get(f"/tasks/{ID}/status")
    assert answer.status_code == 409
    assert "?project_id=team-a" in answer.json()["detail"]
    assert (await world.client.get(f"/tasks/{ID}/status?project_id=team-b")).json()["project_id"] == "team-b"


async def test_a_body_with_countless_wrong_fields_is_answered_shortly() -> None:
    """The first fifty are explained, the rest is a number: explaining takes the time of everybody else's calls."""
    world, wrong = World(), {f"prompt{number}": 1 for number in range(10_000)}
    answer = await world.client.post("/tasks/execute", json={"prompt": "x", **wrong})
    errors = answer.json()["errors"]
    assert len(errors) == 51
    assert errors[-1] == {"field": "body", "message": "and 9950 more"}
