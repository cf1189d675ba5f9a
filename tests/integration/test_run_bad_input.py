"""Bad input, row by row: what it is answered with, that nothing is left behind, and that nothing gets stuck."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any
from urllib.parse import unquote

import pytest

from ocf.events import subjects
from ocf.events.output import ChunkType
from tests.support.processes import command_line
from tests.support.stack import Project, Stack, gapless, until

pytestmark = pytest.mark.timeout(150)
STRUCTURED = {"Content-Type": "application/cloudevents+json"}


def attributes(type_: str = "dev.ocf.task.submit.v1", **more: str) -> dict[str, str]:
    """Headers of a binary CloudEvent."""
    event = {"specversion": "1.0", "type": type_, "source": "/test", "id": str(uuid.uuid4()), **more}
    return {"Content-Type": "application/json", **{f"ce-{name}": value for name, value in event.items() if value}}


NOT_EVENTS = {
    "not JSON": (b"this is not JSON", STRUCTURED, "JSON"),
    "no CloudEvent at all": (b'{"prompt": "hello"}', {}, "specversion"),
    "no id": (b"{}", attributes(id=""), "id"),
    "unknown type": (b"{}", attributes("dev.ocf.task.fly.v1"), "dev.ocf.task.fly.v1"),
    "unknown version": (b"{}", attributes("dev.ocf.task.submit.v9"), "dev.ocf.task.submit.v9"),
    "type of another subject": (b"{}", attributes("dev.ocf.task.cancel.v1"), "does not belong"),
}


async def test_half_a_character_in_the_output_loses_nothing(project: Project) -> None:
    """JavaScript cuts texts inside of surrogate pairs; UTF-8 cannot say a half. The rest is said, the run completes."""
    execution = await project.submit([{"text": "half \ud83d of it", "chunk": 100}, {"text": " THE END"}])
    record = await project.archived(execution)
    assert (record.state, record.result) == ("completed", "half \ufffd of it THE END"), record
    assert "half \ufffd of it" in "".join(chunk.data for chunk in await project.archive(execution))


@pytest.mark.parametrize("what", NOT_EVENTS)
async def test_unknown_event_becomes_a_dead_letter(project: Project, what: str) -> None:
    """It goes to OCF_DLQ as it came, with the reason, and the consumer goes on: the next submit completes."""
    data, headers, reason = NOT_EVENTS[what]
    subject = subjects.command("submit", project.name, str(uuid.uuid4()))
    await project.bus.publish(subject, data, headers)
    letter = await project.dead_letter(subject)
    assert reason in unquote(letter["Ocf-Dlq-Reason"])
    record = await project.ended(await project.submit("hello"))
    assert record.state == "completed"


async def test_a_command_that_breaks_its_schema_is_a_dead_letter(project: Project) -> None:
    """A cancel with an unknown field: the reason names the field."""
    execution = str(uuid.uuid4())
    subject = subjects.command("cancel", project.name, execution)
    data = {"execution_id": execution, "project_id": project.name, "wy": "a typing error"}
    await project.bus.publish(subject, json.dumps(data).encode(), attributes("dev.ocf.task.cancel.v1"))
    assert "wy" in unquote((await project.dead_letter(subject))["Ocf-Dlq-Reason"])


WRONG_SUBMITS: dict[str, tuple[dict[str, Any], str]] = {
    "neither prompt nor code": ({"prompt": "  "}, "prompt"),
    "negative limit": ({"limits": {"timeout_seconds": -1}}, "limits.timeout_seconds"),
    "unknown field": ({"promt": "hello"}, "promt"),
    "unknown workspace": ({"workspace": {"source": "ftp"}}, "workspace"),
    "another project than the subject's": ({"project_id": "somebody-else"}, "project_id"),
    "a key in the clear": ({"model_config": {"provider": "openai", "model": "m", "api_key": "sk-123"}}, "api_key"),
    "a host beyond the operator's": ({"network": {"allow": ["example.com"]}}, "network.allow"),
}


@pytest.mark.parametrize("what", WRONG_SUBMITS)
async def test_a_wrong_submit_is_rejected_and_the_field_named(project: Project, what: str) -> None:
    """`rejected` with every wrong field; the record says so too; nothing runs; no value is repeated that may be
    secret."""
    wrong, field = WRONG_SUBMITS[what]
    execution = str(uuid.uuid4())
    body = {"execution_id": execution, "project_id": project.name, "prompt": "hello", **wrong}
    subject = subjects.command("submit", project.name, execution)
    await project.bus.publish(subject, json.dumps(body).encode(), attributes())
    fact = await project.fact(execution, "rejected")
    assert any(field in error["field"] + error["message"] for error in fact["errors"]), fact
    assert "sk-123" not in json.dumps(fact)
    record = await project.ended(execution)
    assert (record.state, record.attempts) == ("rejected", [])


@pytest.mark.parametrize(
    ("name", "entity", "field"),
    [("default", "not-a-uuid", "execution_id"), ("Bad_Project", "7c9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a33", "project_id")],
)
async def test_a_wrong_name_is_rejected_on_the_subject_it_came_with(
    project: Project, name: str, entity: str, field: str
) -> None:
    """A bad UUID, a project that is not [a-z0-9-]: the `rejected` event comes back under the very same names."""
    body = {"execution_id": entity, "project_id": name, "prompt": "hello"}
    await project.bus.publish(f"ocf.cmd.submit.{name}.{entity}", json.dumps(body).encode(), attributes())
    project.name = name
    fact = await project.fact(entity, "rejected")
    assert [error["field"] for error in fact["errors"]] == [field]


async def test_data_over_512_kib_travels_through_s3(project: Project) -> None:
    """The command on the bus is small and carries `dataref`; the agent gets all of it."""
    code = "x = 1\n" * 150_000  # 900 KB
    execution = await project.submit([{"text": "got it"}], code=code)
    subject = subjects.command("submit", project.name, execution)
    message = await project.bus.last(subjects.COMMANDS, subject)
    assert message is not None
    assert message.headers["ce-dataref"].startswith("ocf-s3:")
    assert len(message.data) < 1000
    record = await project.archived(execution)
    assert (record.state, record.result) == ("completed", "got it")


async def test_data_over_16_mib_is_rejected(project: Project) -> None:
    """Whoever gets it past the client's own check is told so."""
    execution = str(uuid.uuid4())
    body = {"execution_id": execution, "project_id": project.name, "code": "x" * (17 * 1024**2)}
    key = f"{project.name}/{execution}/data/big.json"
    await project.store.put(key, json.dumps(body).encode())
    headers = attributes(dataref=f"ocf-s3:{key}")
    await project.bus.publish(subjects.command("submit", project.name, execution), b"", headers)
    fact = await project.fact(execution, "rejected")
    assert "16 MiB" in json.dumps(fact)


async def test_a_long_chunk_is_split_and_order_kept(project: Project) -> None:
    """A delta of 300,000 bytes becomes chunks of at most 64 KiB that join to the same text, umlauts whole."""
    text = "".join(f"line {number:06} ü\n" for number in range(18_000))
    execution = await project.submit([{"text": text, "chunk": len(text)}])
    record = await project.archived(execution)
    assert record.state == "completed"
    chunks = await project.archive(execution)
    assert gapless(chunks)
    said = [chunk.data for chunk in chunks if chunk.type is ChunkType.TEXT]
    assert "".join(said) == text
    assert len(said) > 4
    assert max(len(data.encode()) for data in said) <= 64 * 1024


@pytest.mark.parametrize("what", ["git URL", "git folder", "outside", "dots", "link out", "link inside", "missing"])
async def test_a_workspace_that_cannot_be_had_fails_the_execution(stack: Stack, project: Project, what: str) -> None:
    """`failed` with `invalid_workspace` and why; nothing of it stays on disk."""
    sources = stack.data_dir.parent / "sources"
    if not (sources / "link").is_symlink():
        (sources / "link").symlink_to("/etc")
        (sources / "trap").mkdir()
        (sources / "trap" / "passwords").symlink_to("/etc/passwd")
    workspace = {
        "git URL": {"source": "git", "url": "http://127.0.0.1:9/team/none.git"},
        "git folder": {"source": "git", "url": f"file://{sources}/none.git"},
        "outside": {"source": "directory", "path": "/etc"},
        "dots": {"source": "directory", "path": f"{sources}/../data"},
        "link out": {"source": "directory", "path": f"{sources}/link"},
        "link inside": {"source": "directory", "path": f"{sources}/trap"},
        "missing": {"source": "directory", "path": f"{sources}/none"},
    }[what]
    execution = await project.submit("hello", workspace=workspace)
    record = await project.archived(execution)
    assert (record.state, record.reason) == ("failed", "invalid_workspace"), record
    assert record.message

    async def no_files() -> bool:
        return not list((stack.data_dir / "state").glob(f"worker-*/*{execution}"))

    await until(no_files, what="its files are gone")


@pytest.mark.parametrize(
    ("fault", "words"),
    [("missing", "not installed"), ("wrong-version", "0.1.0"), ("exits", "ended with code 1")],
)
async def test_an_opencode_that_cannot_start_fails_the_execution(
    stack: Stack, project: Project, fault: str, words: str
) -> None:
    """Missing, of a wrong version, ending at once: `failed` with `agent_error`, the reason in words, and what it wrote
    on its standard error."""
    with stack.faulty_agent(fault):
        execution = await project.submit("hello")
        record = await project.ended(execution)
    assert (record.state, record.reason) == ("failed", "agent_error"), record
    assert words in (record.message or "")
    if fault == "exits":
        fact = await project.fact(execution, "failed")
        assert any("scripted failure" in line for line in fact["stderr_tail"])


async def test_an_opencode_that_is_never_ready_holds_nothing_up(stack: Stack, project: Project) -> None:
    """While one waits for it others run, and a cancel ends the waiting at once. (That the waiting has an end of its
    own is shown in test_agent_scripted.py, with less patience than the 30 s of the real thing.)"""
    name = "opencode-never-ready"
    with stack.faulty_agent("never-ready"):
        never = await project.submit("hello")
        await until(lambda: started(stack, name), what="the agent that is never ready was started")
    assert (await project.ended(await project.submit("hello"))).state == "completed"
    await project.client.cancel(never)
    assert (await project.ended(never, 10)).state == "cancelled"
    assert not await started(stack, name)


async def started(stack: Stack, name: str) -> bool:
    """Whether such a process runs."""
    return any(name in command_line(child) for child in stack.children())


@pytest.mark.parametrize("scenario", ["dies", "killed", "stream-gone"])
async def test_an_opencode_that_breaks_in_mid_turn_fails_the_execution(project: Project, scenario: str) -> None:
    """It ends, is killed, or closes its event stream for good: `failed` with `agent_error`; what it said before is
    kept, and so are the last lines of its standard error."""
    execution = await project.submit(f"[[scenario:{scenario}]]")
    record = await project.archived(execution, 60)
    assert (record.state, record.reason) == ("failed", "agent_error"), record
    assert any(chunk.type is ChunkType.TEXT for chunk in await project.archive(execution))
    if scenario == "dies":
        assert "fatal: scripted crash" in (await project.fact(execution, "failed"))["stderr_tail"]


async def test_an_event_stream_that_breaks_once_loses_nothing(project: Project) -> None:
    """OpenCode's stream closes in mid-turn and opens again: the execution completes with all of its text."""
    record = await project.ended(await project.submit("[[scenario:stream-closes]]"))
    assert (record.state, record.result) == ("completed", "before the gapafter the gap")


async def test_a_command_that_comes_twice_has_no_second_effect(project: Project) -> None:
    """The same submit in two messages is one execution with one of each fact; the same id with another body is
    `rejected` and changes nothing; a second cancel and a second delete do nothing."""
    execution = await project.submit("hello", execution_id=str(uuid.uuid4()))
    await project.submit("hello", execution_id=execution)
    record = await project.archived(execution)
    await project.submit("something else", execution_id=execution)
    fact = await project.fact(execution, "rejected")
    assert fact["errors"][0]["field"] == "execution_id"
    await project.client.cancel(execution)
    await project.client.cancel(execution)
    assert sorted(await project.facts(execution)) == ["accepted", "archived", "completed", "rejected", "started"]
    assert await project.record(execution) == record
    await project.client.delete(execution)
    await project.fact(execution, "cleaned")
    await project.client.delete(execution)
    await project.submit("hello", execution_id=execution)  # late, and deleted: it does not come back
    other = await project.submit("hello")
    await project.ended(other)
    assert await project.record(execution) is None
    assert await project.facts(execution) == ["cleaned"]
    assert os.listdir(project.stack.data_dir / "state").count(execution) == 0
