"""The submit function: validated, recorded, handed on, once."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ocf.events.command_payloads import Limits, Submit
from ocf.events.command_publisher import NATS_DELIVERIES, NATS_SEQUENCE
from ocf.events.envelope import Event
from ocf.events.errors import Drop, NotItsTurn, Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.session_record import Session
from ocf.functions.cleanup.handler import Deletion
from ocf.functions.core.task_limits import CEILINGS, effective_limit
from ocf.functions.execute.context import server_spec
from tests.support.handlers import submit
from tests.support.parts import PROJECT, Bench, bench, instead


async def removed(b: Bench, execution: str) -> None:
    """Remove every trace of an execution."""
    deps = b.deps
    deletion = Deletion(
        deps.bus, deps.store, deps.executions, deps.records, deps.session_records, deps.history, deps.clock
    )
    await deletion.remove(PROJECT, execution)


PNG = {"name": "a.png", "media_type": "image/png", "data": "iVBORw0KGgo="}


async def test_a_submit_becomes_a_pending_record_an_accepted_fact_and_an_execute_command() -> None:
    """The three things a submit leaves, all about the same execution and caused by it."""
    b = bench()
    event = b.submit(prompt="Fix it\nplease", labels={"team": "a"})
    execution = json.loads(event.data)["execution_id"]
    await submit(b.deps, event)
    record = await b.deps.records.require(PROJECT, execution)
    assert (record.state, record.title, record.labels) == (State.PENDING, "Fix it", {"team": "a"})
    assert await b.said(execution) == ["accepted"]
    (command,) = await b.commands("execute", execution)
    assert command.extensions["causationid"] == event.id
    assert json.loads(command.data)["prompt"] == "Fix it\nplease"


async def test_the_same_submit_twice_is_one_execution() -> None:
    """A redelivery has no second effect."""
    b = bench()
    event = b.submit()
    execution = json.loads(event.data)["execution_id"]
    await submit(b.deps, event)
    await submit(b.deps, event)
    assert len(await b.commands("execute", execution)) == 1
    assert await b.said(execution) == ["accepted"]


async def test_a_crash_after_the_record_is_made_good_by_the_redelivery() -> None:
    """The record without its execute command is a half-done submit; the next delivery finishes it."""
    b = bench()
    event = b.submit()
    execution = json.loads(event.data)["execution_id"]
    await submit(b.deps, event)
    await b.bus.purge("OCF_COMMANDS", f"ocf.cmd.execute.{PROJECT}.{execution}")
    b.bus._streams["OCF_COMMANDS"].ids.clear()  # as if it had never been published
    await submit(b.deps, event)
    assert len(await b.commands("execute", execution)) == 1


async def test_accepted_is_said_though_the_worker_was_faster() -> None:
    """The submit broke off after it had handed on; the run has begun when it comes again: it is said, once."""
    b = bench()
    event = b.submit()
    execution = json.loads(event.data)["execution_id"]
    with pytest.raises(Unavailable):
        await submit(b.having(records=instead(b.deps.records, publish_fact=_away)).deps, event)
    await b.deps.records.change(PROJECT, execution, lambda r: r.model_copy(update={"state": State.RUNNING}))
    assert await b.said(execution) == []
    for _ in range(2):
        with pytest.raises(Drop):
            await submit(b.deps, event)
        b.bus._streams["OCF_EVENTS"].ids.clear()  # two minutes later
    assert await b.said(execution) == ["accepted"]


async def _away(*_: object, **__: object) -> None:
    raise Unavailable("NATS is away")


async def test_execution_deleted_during_submit_leaves_nothing() -> None:
    """A delivery that was held up while the execution was cancelled and deleted takes back what it said too late."""
    b = bench()
    event = b.submit()
    execution = json.loads(event.data)["execution_id"]
    say = b.deps.records.publish_fact

    async def late(*given: Any, **named: Any) -> None:
        await removed(b, execution)
        await say(*given, **named)

    with pytest.raises(Drop, match="deleted"):
        await submit(b.having(records=instead(b.deps.records, publish_fact=late)).deps, event)
    assert await b.said(execution) == []
    assert await b.commands("execute", execution) == []


async def test_the_same_id_with_another_body_is_rejected_and_the_first_goes_on() -> None:
    """The answer names the field; the execution that has the id is not touched."""
    b = bench()
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    await submit(b.deps, b.submit(execution, prompt="something else"))
    assert await b.said(execution) == ["accepted", "rejected"]
    fact = json.loads((await b.fact(execution, "rejected")).data)
    assert [error["field"] for error in fact["errors"]] == ["execution_id"]
    assert (await b.deps.records.require(PROJECT, execution)).state is State.PENDING


async def test_a_submit_for_what_runs_already_is_dropped() -> None:
    """A very late redelivery does not start anything again."""
    b = bench()
    execution = str(uuid.uuid4())
    event = b.submit(execution)
    await submit(b.deps, event)
    running = {"state": State.RUNNING}
    await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy(update=running))
    with pytest.raises(Drop, match="running"):
        await submit(b.deps, event)


async def test_a_deleted_execution_does_not_come_back() -> None:
    """After a deletion a late redelivery of its submit is dropped."""
    b = bench()
    execution = str(uuid.uuid4())
    event = b.submit(execution)
    await submit(b.deps, event)
    await removed(b, execution)
    await b.bus.publish(f"ocf.evt.{PROJECT}.{execution}.cleaned", b"{}", {})
    with pytest.raises(Drop, match="deleted"):
        await submit(b.deps, event)


GOOD = "7c9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a33"


@pytest.mark.parametrize(
    ("project", "execution", "change", "fields"),
    [
        ("default", GOOD, {"prompt": None}, ["data"]),
        ("default", GOOD, {"prompt": "   "}, ["data"]),
        ("default", "not-a-uuid", {"execution_id": "not-a-uuid"}, ["execution_id"]),
        ("Bad_Project", GOOD, {"project_id": "Bad_Project"}, ["project_id"]),
        ("default", GOOD, {"limits": {"timeout_seconds": -1}}, ["limits.timeout_seconds"]),
        ("default", GOOD, {"limits": {"timeout_seconds": 7200}}, ["limits.timeout_seconds"]),
        ("default", GOOD, {"hello": 1}, ["hello"]),
        ("default", GOOD, {"project_id": "other"}, ["project_id"]),
        ("default", GOOD, {"network": {"allow": ["evil.example"]}}, ["network.allow.0"]),
        (
            "default",
            GOOD,
            {"model_config": {"provider": "x", "model": "y", "api_key": "sk-plain"}},
            ["model_config.api_key"],
        ),
        ("default", GOOD, {"workspace": {"source": "ftp"}}, ["workspace"]),
    ],
)
async def test_bad_input_is_rejected_and_every_field_named(
    project: str, execution: str, change: dict[str, Any], fields: list[str]
) -> None:
    """A rejected fact names each wrong field; nothing is handed on; the plain key is not repeated."""
    b = bench()
    body: dict[str, Any] = {"prompt": "hello", "execution_id": execution, "project_id": project, **change}
    await submit(b.deps, b.raw_submit(body, project, execution))
    fact = await b.fact(execution, "rejected", project)
    assert [error["field"] for error in json.loads(fact.data)["errors"]] == fields
    assert b"sk-plain" not in fact.data
    assert await b.commands("execute", execution, project) == []


async def test_nothing_above_the_operators_ceilings_is_accepted() -> None:
    """Every setting is also the most that a task may ask for; the answer names the field, the ceiling, the setting."""
    b = bench(MAX_MEMORY_BYTES=128 * 1024**2)
    asked = dict.fromkeys(("timeout_seconds", "silence_seconds"), 86400)
    asked |= dict.fromkeys(("max_memory_bytes", "max_workspace_bytes", "max_output_bytes"), 10**12)
    await submit(b.deps, b.submit(GOOD, limits={**asked, "max_processes": 100_000}))
    errors = json.loads((await b.fact(GOOD, "rejected")).data)["errors"]
    assert {error["field"] for error in errors} == {f"limits.{field}" for field in CEILINGS}
    (memory,) = [error["message"] for error in errors if error["field"] == "limits.max_memory_bytes"]
    assert memory == "at most 134217728 (MAX_MEMORY_BYTES)"
    own = str(uuid.uuid4())
    await submit(b.deps, b.submit(own, limits={"max_memory_bytes": 128 * 1024**2, "timeout_seconds": 3600}))
    assert await b.said(own) == ["accepted"]


def test_a_worker_holds_to_its_own_ceilings() -> None:
    """What was accepted under other settings gets no more than this worker gives; less is granted."""
    settings = bench(MAX_MEMORY_BYTES=128 * 1024**2).deps.settings
    spec = server_spec(settings, None, sandboxed=False, limits=Limits(max_memory_bytes=10**12, max_processes=20))
    assert (spec.max_memory_bytes, spec.max_processes) == (128 * 1024**2, 20)
    assert effective_limit(Limits(), "silence_seconds", settings) == settings.silence_timeout


async def test_a_rejected_submit_is_in_the_history() -> None:
    """Whoever looks the id up sees that it never started, and why."""
    b = bench()
    await submit(b.deps, b.raw_submit({"execution_id": GOOD, "project_id": PROJECT}, PROJECT, GOOD))
    record = await b.deps.records.require(PROJECT, GOOD)
    assert record.state is State.REJECTED
    assert record.errors


async def test_an_expired_submit_is_rejected() -> None:
    """`expirytime` in the past: it is not worth running any more."""
    b = bench()
    event = b.submit(GOOD).with_extensions(expirytime="2020-01-01T00:00:00Z")
    await submit(b.deps, event)
    assert await b.said(GOOD) == ["rejected"]


async def test_large_data_travels_by_reference() -> None:
    """Over 512 KiB the execute command carries a reference; the object is the execution's own."""
    b = bench()
    await submit(b.deps, b.submit(GOOD, context="x" * 700_000))
    (command,) = await b.commands("execute", GOOD)
    assert command.data == b""
    assert command.extensions["dataref"].startswith(f"ocf-s3:{PROJECT}/{GOOD}/data/")


async def test_a_reference_to_somebody_elses_object_is_rejected() -> None:
    """A reference is input: only the execution's own objects are followed."""
    b = bench()
    event = b.submit(GOOD)
    foreign = replace(event, data=b"").with_extensions(dataref=f"ocf-s3:other/{GOOD}/data/x.json")
    await submit(b.deps, foreign)
    assert await b.said(GOOD) == ["rejected"]


async def test_two_events_with_one_id_are_both_answered() -> None:
    """Event ids are the publishers': that two of them are the same swallows nobody's answer."""
    b = bench()
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    for number, execution in enumerate((first, second, first)):
        event = b.raw_submit({"execution_id": execution, "project_id": PROJECT}, PROJECT, execution)
        event = event.with_extensions(natssequence=str(number))
        await submit(b.deps, replace(event, id="always-the-same"))
    assert await b.said(first) == ["rejected", "rejected"]
    assert await b.said(second) == ["rejected"]


async def test_a_message_id_that_somebody_used_before_stops_nothing() -> None:
    """A backend may publish submits under any message id; none of them is one that this system relies on."""
    b = bench()
    ref = ExecutionRef(PROJECT, GOOD)
    event = b.submit(GOOD)
    kinds = ("execute", "accepted", "rejected", "cancel", "cancel-for-cleanup", "cleaned")
    for guess in (*(f"{kind}:{GOOD}" for kind in kinds), *(ref.message_id(kind) for kind in kinds), event.id):
        await b.bus.publish(f"ocf.cmd.submit.other.{uuid.uuid4()}", b"", {"Nats-Msg-Id": guess})
    await submit(b.deps, event)
    assert len(await b.commands("execute", GOOD)) == 1
    assert await b.said(GOOD) == ["accepted"]


async def test_the_same_id_in_two_projects_is_two_executions() -> None:
    """Neither joins the other, and each is handed on."""
    b = bench()
    for project in ("one", "two"):
        data = Submit(execution_id=GOOD, project_id=project, prompt=f"for {project}")
        await submit(b.deps, b.command("dev.ocf.task.submit.v1", data))
    for project in ("one", "two"):
        (command,) = await b.commands("execute", GOOD, project)
        assert json.loads(command.data)["prompt"] == f"for {project}"
        assert await b.said(GOOD, project) == ["accepted"]


async def test_accepted_comes_before_the_execute_command_and_never_after_the_end() -> None:
    """A submit that is repeated when its execution has ended says nothing, though its first `accepted` is gone."""
    b = bench()
    event = b.submit(GOOD)
    await submit(b.deps, event)
    await b.deps.records.change(PROJECT, GOOD, lambda r: r.model_copy(update={"state": State.COMPLETED}))
    await b.bus.purge("OCF_EVENTS", f"ocf.evt.{PROJECT}.{GOOD}.>")
    with pytest.raises(Drop, match="completed already"):
        await submit(b.deps, event)
    assert await b.said(GOOD) == []


async def test_twenty_thousand_errors_fit_in_one_answer() -> None:
    """As many as fit are named, the rest is counted; the fact and the record are small."""
    b = bench()
    wrong = {f"no-permission-{number}": "deny" for number in range(20_000)}
    body = {"execution_id": GOOD, "project_id": PROJECT, "prompt": "x", "permissions": wrong}
    await submit(b.deps, b.raw_submit(body, PROJECT, GOOD))
    fact = await b.fact(GOOD, "rejected")
    assert len(fact.data) < 32 * 1024
    errors = json.loads(fact.data)["errors"]
    assert errors[0]["field"] == "permissions.no-permission-0"
    assert errors[-1]["message"].endswith("more errors")
    entry = await b.deps.executions.get(ExecutionRef(PROJECT, GOOD).record_key)
    assert entry is not None
    assert len(entry.value) < 64 * 1024


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"limits": {"timeout_seconds": "60"}}, "limits.timeout_seconds"),
        ({"limits": {"max_processes": 20.5}}, "limits.max_processes"),
        ({"retry": {"max_attempts": True}}, "retry.max_attempts"),
        ({"prompt": 5}, "prompt"),
        ({"labels": {"team": 1}}, "labels.team"),
        ({"workspace": {"source": "git", "url": "https://a/b", "submodules": "yes"}}, "workspace.git.submodules"),
        ({"permissions": {"bsh": "deny"}}, "permissions.bsh"),
        ({"permissions": {"bash:": "deny"}}, "permissions.bash:"),
        ({"network": {"allow": "pypi.org"}}, "network.allow"),
    ],
)
async def test_a_value_of_another_type_or_an_unknown_permission_is_rejected(wrong: dict[str, Any], field: str) -> None:
    """Nothing is read as what it is not: a typing error is answered by its field."""
    b = bench()
    body = {"execution_id": GOOD, "project_id": PROJECT, "prompt": "x", **wrong}
    await submit(b.deps, b.raw_submit(body, PROJECT, GOOD))
    errors = json.loads((await b.fact(GOOD, "rejected")).data)["errors"]
    assert [error["field"] for error in errors] == [field]
    if field.startswith("permissions"):
        assert "bash, doom_loop, edit" in errors[0]["message"]


@pytest.mark.parametrize("name", ["*", "bash", "bash:git push*", "edit", "write", "webfetch", "external_directory"])
async def test_the_permissions_of_opencode_are_accepted(name: str) -> None:
    """Each by its name, or with a pattern."""
    b = bench()
    body = {"execution_id": GOOD, "project_id": PROJECT, "prompt": "x", "permissions": {name: "ask"}}
    await submit(b.deps, b.raw_submit(body, PROJECT, GOOD))
    assert await b.said(GOOD) == ["accepted"]


@pytest.mark.parametrize("kind", ["deep", "many"])
async def test_a_context_has_a_depth_and_a_number_of_values(kind: str) -> None:
    """Data by reference too, which no message's limits have measured."""
    b = bench()
    context = "[" * 40 + "]" * 40 if kind == "deep" else "[" + "0," * 150_000 + "0]"
    body = f'{{"execution_id":"{GOOD}","project_id":"{PROJECT}","prompt":"x","context":{{"a":{context}}}}}'.encode()
    await b.store.put(f"{PROJECT}/{GOOD}/data/x.json", body)
    event = replace(b.submit(GOOD), data=b"").with_extensions(dataref=f"ocf-s3:{PROJECT}/{GOOD}/data/x.json")
    await submit(b.deps, event)
    errors = json.loads((await b.fact(GOOD, "rejected")).data)["errors"]
    assert any(error["field"].startswith("context") for error in errors), errors
    assert any("deeper than 32" in e["message"] or "more than 100000 values" in e["message"] for e in errors), errors


async def test_poison_on_the_subject_of_a_session_stops_no_submit_to_it() -> None:
    """What cannot be read there is no create, and nothing else."""
    b = bench()
    session = str(uuid.uuid4())
    await b.bus.publish(f"ocf.cmd.session.{PROJECT}.{session}", b"{", {"Content-Type": "application/cloudevents+json"})
    await submit(b.deps, b.submit(GOOD, session_id=session))
    errors = json.loads((await b.fact(GOOD, "rejected")).data)["errors"]
    assert [error["field"] for error in errors] == ["session_id"]


@pytest.mark.parametrize(
    ("task", "field", "message"),
    [
        ({"agent": "reviewer"}, "agent", "must be one of build, plan"),
        ({"agents": {"build": {"content": "x"}}}, "agents.build", "an agent of OpenCode itself"),
        ({"commands": {"go": {"content": "---\n- x\n---\n"}}}, "commands.go", "not a YAML mapping"),
        ({"skills": {"go": {"content": "---\na: [\n---\n"}}}, "skills.go", "not YAML"),
        ({"output_schema": {"type": "objekt"}}, "output_schema", "is not a JSON Schema"),
        ({"output_schema": {"type": "array"}}, "output_schema", '"type": "object"'),
        (
            {"model_config": {"provider": "anthropic", "model": "claude-opus-4-5", "variant": "huge"}},
            "model_config.variant",
            "must be one of low, medium, high",
        ),
        (
            {"model_config": {"provider": "local", "model": "m", "api_endpoint": "http://a/v1", "variant": "high"}},
            "model_config.variant",
            "are not known; name them in model_config.facts.variants",
        ),
        (
            {"model_config": {"provider": "mistral", "model": "codestral-latest"}, "attachments": [PNG]},
            "attachments.0.media_type",
            "takes text only",
        ),
        ({"mcp": {"a": {"type": "remote", "url": "https://a.example/"}}}, "mcp.a.url", "NETWORK_ALLOW"),
        ({"mcp": {"a": {"type": "remote", "url": "https://b.example:8443/"}}}, "mcp.a.url", "NETWORK_ALLOW"),
    ],
)
async def test_fields_for_the_agent_are_checked_before_a_worker_sees_them(
    task: dict[str, Any], field: str, message: str
) -> None:
    """The fact names the field and what would be right."""
    made = bench(NETWORK_ALLOW="b.example")
    event = made.submit(**task)
    await submit(made.deps, event)
    execution = json.loads(event.data)["execution_id"]
    errors = json.loads((await made.fact(execution, "rejected")).data)["errors"]
    assert [error["field"] for error in errors] == [field]
    assert message in errors[0]["message"]


async def test_an_agent_of_the_task_or_of_an_allowed_repository_is_accepted() -> None:
    """Only the worker can see a repository's."""
    for settings, task in (
        ({}, {"agent": "mine", "agents": {"mine": {"content": "x"}}}),
        ({}, {"agent": "mine", "agents": {"from": {"git": "https://example.com/a.git"}}}),
        ({"ALLOW_REPOSITORY_CONFIG": True}, {"agent": "mine"}),
    ):
        made = bench(**settings)
        event = made.submit(**task)
        await submit(made.deps, event)
        assert "accepted" in await made.said(json.loads(event.data)["execution_id"])


async def _published(b: Bench, execution: str, session: str) -> Event:
    """Publish a submit; return it as the dispatcher hands it over."""
    event = b.submit(execution, session_id=session)
    sequence = await b.bus.publish(f"ocf.cmd.submit.{PROJECT}.{execution}", event.data, event.headers())
    return event.with_extensions(**{NATS_SEQUENCE: str(sequence)})


async def _session(b: Bench) -> str:
    now, name = b.deps.clock.now(), str(uuid.uuid4())
    times = {"created_at": now, "updated_at": now, "expires_at": now + timedelta(hours=1)}
    await b.deps.session_records.create(Session(session_id=name, project_id=PROJECT, ttl_seconds=3600, **times))
    return name


async def test_a_submit_waits_for_an_earlier_one_of_its_session_that_is_redelivered() -> None:
    """A dispatcher that died had the first submit in flight: the second one arrives before it."""
    b = bench()
    session, ids = await _session(b), [str(uuid.uuid4()) for _ in range(2)]
    early, late = [await _published(b, execution, session) for execution in ids]
    with pytest.raises(NotItsTurn, match="was published before"):
        await submit(b.deps, late)
    await submit(b.deps, early)
    await submit(b.deps, late)
    found = await b.deps.session_records.get(PROJECT, session)
    assert found is not None
    assert found.executions == ids


@pytest.mark.parametrize("why", ["rejected", "another session", "given up", "unreadable", "no id", "too large"])
async def test_a_submit_does_not_wait_for_what_never_joins_its_session(why: str) -> None:
    """An earlier submit that was rejected, of another session, a dead letter, unreadable or under no id holds nobody
    up, nor does one behind more bytes than a submit reads."""
    b = bench()
    session = await _session(b)
    if why == "unreadable":
        await b.bus.publish(f"ocf.cmd.submit.{PROJECT}.{uuid.uuid4()}", session.encode(), {})
    elif why == "no id":
        event = b.submit(GOOD, session_id=session)
        await b.bus.publish(f"ocf.cmd.submit.{PROJECT}.nobody", event.data, event.headers())
    else:
        if why == "too large":
            for _ in range(9):
                await b.bus.publish(f"ocf.cmd.submit.{PROJECT}.{uuid.uuid4()}", bytes(1024 * 1024), {})
        earlier = await _published(b, str(uuid.uuid4()), await _session(b) if why == "another session" else session)
        if why == "rejected":
            await submit(b.deps, earlier.with_extensions(expirytime="2020-01-01T00:00:00Z"))
    later = await _published(b, GOOD, session)
    await submit(b.deps, later.with_extensions(**{NATS_DELIVERIES: "121"}) if why == "given up" else later)
    assert (await b.deps.records.require(PROJECT, GOOD)).state is State.PENDING
