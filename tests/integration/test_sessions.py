"""Working with a run over days: turns on workers that come and go, and answers to what the agent asks."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.execution_record import Record
from ocf.events.execution_ref import SessionRef
from ocf.events.output import ChunkType
from tests.support.git_http import git_server, run_git
from tests.support.sessions import call, opened, session_when
from tests.support.stack import OCF, Project, gapless, until

pytestmark = pytest.mark.slow

ASK = {"bash": "ask"}


async def turn(project: Project, id_: str, steps: list[dict[str, Any]]) -> str:
    """One execution in the session, to its end; its result."""
    record = await project.ended(await project.submit(steps, session_id=id_), timeout=90)
    assert record.state == "completed", record
    return record.result


async def test_a_session_outlives_worker_and_bus(project: Project) -> None:
    """The third turn knows the prompts of the first two and has their files; each turn has a directory of its own."""
    stack = project.stack
    id_ = await opened(project, labels={"team": "x"})
    where = [{"write": {"path": "ä b.txt", "content": "one\n"}}, {"run": "pwd"}, {"text": "alpha"}]
    assert await turn(project, id_, where) == "alpha"
    await stack.back("execute", stack.kill("execute"))
    second = [{"run": "cat 'ä b.txt' && echo two >> 'ä b.txt'"}, {"text": "beta"}]
    assert await turn(project, id_, second) == "beta"
    await stack.back("nats", stack.kill("nats"))
    await stack.back("execute", stack.kill("execute"))
    last = await project.submit([{"run": "cat 'ä b.txt'"}, {"recall": "known: "}], session_id=id_)
    record = await project.ended(last, timeout=90)
    assert record.state == "completed", record
    assert record.result.count("[[steps]]") == 3
    assert '"alpha"' in record.result
    assert '"beta"' in record.result
    said = "".join(chunk.data for chunk in await project.chunks(last))
    assert "one\ntwo\n" in said
    found = await session_when(project, id_, lambda found: found is not None and not found.queue)
    assert found is not None
    assert len(found.executions) == 3
    assert found.saved is not None
    assert found.saved.execution_id == last
    # Only the newest state is kept.
    prefix = f"{SessionRef(project.name, id_).prefix}/"
    kept = {info.key.removeprefix(prefix) async for info in project.store.list(prefix)}
    assert found.saved.workspace is not None
    assert kept == {found.saved.conversation.name, found.saved.workspace.name}


async def test_a_cancelled_turn_counts(project: Project) -> None:
    """What it was asked and what it wrote are there in the next."""
    id_ = await opened(project)
    steps = [{"write": {"path": "f", "content": "half done"}}, {"text": "writing\n"}, {"sleep": 60}]
    first = await project.submit(steps, session_id=id_)
    await project.running(first, "writing")
    await project.client.cancel(first)
    assert (await project.ended(first)).state == "cancelled"
    said = await turn(project, id_, [{"run": "cat f"}, {"recall": "known: "}])
    assert '"half done"' in said
    assert said.count("[[steps]]") == 2


async def test_a_turn_whose_agent_died_counts(project: Project) -> None:
    """Its files are there in the next, with the conversation of the turn before, and its output says so."""
    id_ = await opened(project)
    await turn(project, id_, [{"text": "alpha"}])
    dying = await project.submit([{"write": {"path": "f", "content": "last words"}}, {"die": 3}], session_id=id_)
    assert (await project.ended(dying)).reason == "agent_error"
    gaps = [chunk for chunk in await project.chunks(dying) if chunk.type is ChunkType.GAP]
    assert [gap.detail["reason"] for gap in gaps if gap.detail] == ["not_stored"]
    last = await project.submit([{"run": "cat f"}, {"recall": "known: "}], session_id=id_)
    record = await project.ended(last, timeout=90)
    assert '"alpha"' in record.result
    assert "last words" in "".join(chunk.data for chunk in await project.chunks(last))


async def test_a_shared_session_works_on_the_volume(project: Project) -> None:
    """Every turn, in place: others on the volume see its files, and what they change is there in the next turn."""
    id_ = await opened(project, workspace={"source": "shared", "path": project.name})
    assert await turn(project, id_, [{"write": {"path": "f", "content": "from the agent"}}, {"text": "done"}]) == "done"
    path = project.stack.data_dir / "workspaces" / project.name / "f"
    assert path.read_text() == "from the agent"
    path.write_text("from a person")
    last = await project.submit([{"run": "cat f"}], session_id=id_)
    record = await project.ended(last, timeout=90)
    assert record.state == "completed", record
    assert "from a person" in "".join(chunk.data for chunk in await project.chunks(last))


async def test_a_session_of_a_private_repository(project: Project, tmp_path: Path) -> None:
    """Its sealed token opens the repository in the first turn; the second goes on from what the first left."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "f").write_text("in the repository\n")
    run_git("init", cwd=tmp_path / "work")
    run_git("add", "f", cwd=tmp_path / "work")
    run_git("commit", "-m", "one", cwd=tmp_path / "work")
    run_git("clone", "--bare", str(tmp_path / "work"), str(tmp_path / "app.git"), cwd=tmp_path)
    with git_server(tmp_path, "git-token-0123456789") as server:
        source = {"source": "git", "url": f"{server.url}/app.git", "token": "git-token-0123456789"}
        id_ = await opened(project, workspace=source)
        await turn(project, id_, [{"run": "echo more >> f"}, {"text": "done"}])
    last = await project.submit([{"run": "cat f"}], session_id=id_)
    await project.ended(last, timeout=90)
    assert "in the repository\nmore\n" in "".join(chunk.data for chunk in await project.chunks(last))


async def test_turns_of_a_session_come_one_after_the_other(project: Project) -> None:
    """Three at once run in the order of their submits, never two together; a backend made the session by event."""
    id_ = await project.client.sessions.create(labels={"team": "x"})
    await session_when(project, id_, lambda found: found is not None)
    assert (await project.client.sessions.get(id_)).labels == {"team": "x"}
    line = "for i in 1 2 3; do echo NAME >> log; sleep 0.1; done"
    names = ["a", "b", "c"]
    executions = [
        await project.submit([{"run": line.replace("NAME", name)}, {"run": "cat log"}], session_id=id_)
        for name in names
    ]
    records = [await project.ended(execution, timeout=90) for execution in executions]
    assert [record.state for record in records] == ["completed"] * 3
    for before, after in itertools.pairwise(records):
        assert before.ended_at is not None
        assert after.started_at is not None
        assert before.ended_at <= after.started_at
    said = "".join(chunk.data for chunk in await project.chunks(executions[-1]))
    assert "a\na\na\nb\nb\nb\nc\nc\nc\n" in said


async def test_a_fork_goes_on_from_a_finished_execution(project: Project) -> None:
    """Workspace and conversation of an execution without a session are where the new session begins."""
    first = await project.submit([{"write": {"path": "f", "content": "x"}}, {"text": "origin"}])
    await project.archived(first)
    id_ = await opened(project, from_execution_id=first)
    said = await turn(project, id_, [{"run": "cat f"}, {"recall": "known: "}])
    assert '"origin"' in said


async def test_destroy_ends_and_removes_everything(project: Project) -> None:
    """A running execution is cancelled; then session, executions, objects, output, events are gone."""
    id_ = await opened(project)
    done = await project.submit([{"text": "first"}], session_id=id_)
    await project.archived(done)
    running = await project.submit([{"text": "going\n"}, {"sleep": 60}], session_id=id_)
    await project.running(running, "going")
    await call(project, "DELETE", f"/sessions/{id_}")
    await session_when(project, id_, lambda found: found is None)
    for execution in (done, running):
        await project.fact(execution, "cleaned", timeout=60)
        assert await project.record(execution) is None
        assert await project.chunks(execution) == []
        assert await project.facts(execution) == ["cleaned"]

    async def empty() -> bool:
        return [info async for info in project.store.list(f"{project.name}/")] == []

    await until(empty, what="nothing in S3")
    for stream in (subjects.COMMANDS, subjects.DLQ):
        left = [m.subject async for m in project.bus.history(stream, ">") if id_ in m.subject]
        assert left == []


async def asked(project: Project, steps: list[dict[str, Any]], **request: Any) -> tuple[str, Record]:
    """An execution that waits for an answer, and its record then."""
    execution = await project.submit(steps, **request)
    return execution, await project.when(execution, lambda record: record.waiting_for is not None)


async def answered_after(project: Project, execution: str, text: str, since: float) -> float:
    """Seconds from `since` until output with `text` is heard live."""
    async with project.bus.listen(subjects.live(project.name, execution)) as live:
        async with asyncio.timeout(20):
            async for message in live:
                if text in json.loads(message.data)["data"]:
                    return time.monotonic() - since
    raise AssertionError("unreachable")


async def test_a_permission_is_asked_shown_and_answered_at_once(project: Project) -> None:
    """It is in the status, its answer reaches the agent within 100 ms, and then nothing waits any more."""
    steps = [{"permission": {"permission": "bash", "patterns": ["rm -rf x"]}}, {"text": "removed"}]
    took = []
    for _ in range(3):
        execution, record = await asked(project, steps, permissions=ASK, limits={"answer_seconds": 60})
        waiting = record.waiting_for
        assert waiting is not None
        assert (waiting.kind, waiting.options) == ("permission", ["once", "always", "reject"])
        assert waiting.deadline is not None
        status = await call(project, "GET", f"/tasks/{execution}/status")
        assert status["waiting_for"]["request_id"] == waiting.request_id
        heard = asyncio.create_task(answered_after(project, execution, "permission answered: once", time.monotonic()))
        await asyncio.sleep(0.05)  # it listens
        since = time.monotonic()
        await project.client.reply(execution, waiting.request_id, "once")
        await heard
        took.append(time.monotonic() - since)
        record = await project.ended(execution)
        assert (record.state, record.result, record.waiting_for) == ("completed", "removed", None)
    # The way to the pod, OpenCode's answer and the way back; the best of three, for a busy machine.
    assert min(took) < 0.1, took


async def test_a_question_is_answered_over_rest(project: Project) -> None:
    """The text that was given is what the agent gets."""
    steps = [{"question": {"question": "Which colour?", "options": ["red", "blue"]}}]
    execution, record = await asked(project, steps, limits={"answer_seconds": 60})
    assert record.waiting_for is not None
    assert record.waiting_for.title == "Which colour?"
    path = f"/tasks/{execution}/replies/{record.waiting_for.request_id}"
    await call(project, "POST", path, {"answer": "green"})
    assert (await project.ended(execution)).result == "You said green."


async def test_no_answer_by_the_deadline_is_a_stated_denial(project: Project) -> None:
    """The agent goes on without; the output and the status say so."""
    steps = [{"permission": {"permission": "bash", "patterns": ["x"]}}, {"text": "went on\n"}, {"sleep": 1.5}]
    execution = await project.submit(steps, permissions=ASK, limits={"answer_seconds": 1})
    await project.running(execution, "no answer within 1 s")
    await project.running(execution, "went on")
    await project.when(execution, lambda record: record.waiting_for is None)
    assert (await project.ended(execution)).state == "completed"


async def test_follow_ups_queue_up(project: Project) -> None:
    """Sent before the start or during the run, they are prompts of their own, in order, in one conversation."""
    execution = str(uuid.uuid4())
    await project.client.reply(execution, "prompt", '[[steps]] [{"text": "second"}]')
    steps = [{"text": "first"}, {"question": {"question": "go on?", "options": ["yes"]}}]
    _, record = await asked(project, steps, execution_id=execution, limits={"answer_seconds": 60})
    await project.client.reply(execution, "prompt", '[[steps]] [{"recall": "all: "}]')
    # A follow-up is no answer: the question still waits.
    still = await project.record(execution)
    assert still is not None
    assert still.waiting_for == record.waiting_for
    assert record.waiting_for is not None
    await project.client.reply(execution, record.waiting_for.request_id, "yes")
    result = (await project.ended(execution)).result
    assert result.startswith("all: ")
    assert result.index('"first"') < result.index('"second"') < result.index('"recall"')
    chunks = await project.chunks(execution)
    assert gapless(chunks)
    assert [chunk.data for chunk in chunks].count("taking up a follow-up prompt") == 2


async def test_an_answer_nobody_waits_for_is_said(project: Project) -> None:
    """It has no effect, and the output says that it had none."""
    execution = await project.submit([{"text": "busy\n"}, {"sleep": 1.5}])
    await project.running(execution, "busy")
    await project.client.reply(execution, "per_unknown", "once")
    await project.running(execution, "nobody waits for an answer (per_unknown)")
    record = await project.ended(execution)
    assert record.state == "completed"
    said = [chunk for chunk in await project.chunks(execution) if chunk.type is ChunkType.STATUS]
    assert any("nobody waits" in chunk.data for chunk in said)


async def test_an_idle_session_ends_by_itself(project: Project) -> None:
    """The server's schedule destroys it when its time is over, and says that it expired; what it did is still there."""
    id_ = await opened(project, ttl_seconds=8)
    execution = await project.submit([{"text": "done"}], session_id=id_)
    await session_when(project, id_, lambda found: found is None, timeout=120)
    assert (await project.fact(id_, "destroyed"))["expired"]
    await project.archived(execution)
    assert await project.chunks(execution)
    assert (await project.ended(execution)).state == "completed"


def _ocf(project: Project, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environ = {**os.environ, "OCF_GATEWAY": project.stack.answer["gateway"], "PROJECT_ID": project.name}
    return subprocess.Popen([OCF, "session", *arguments], env=environ, text=True, stdout=subprocess.PIPE, **options)


async def test_the_command_line_says_what_became_of_a_create(project: Project) -> None:
    """A session that is there can be used at once; one that cannot be made is an error with the reason."""
    said, _ = await asyncio.to_thread(_ocf(project, "create", "--json").communicate, timeout=60)
    assert json.loads(said)["status"] == "open"
    assert await turn(project, json.loads(said)["session_id"], [{"text": "hi"}]) == "hi"
    wrong = _ocf(project, "create", "--from", str(uuid.uuid4()), stderr=subprocess.PIPE)
    _, why = await asyncio.to_thread(wrong.communicate, timeout=60)
    assert (wrong.returncode, "from_execution_id" in why) == (1, True)
    listed, _ = await asyncio.to_thread(_ocf(project, "list").communicate, timeout=60)
    assert " open " in listed


async def test_attach_shows_what_comes_and_detaches_when_left(project: Project) -> None:
    """Every execution from now on, live; Ctrl-C takes the client off the session."""
    id_ = await opened(project)
    await turn(project, id_, [{"text": "before"}])
    watching = _ocf(project, "attach", id_, "--follow", stderr=subprocess.DEVNULL)
    await session_when(project, id_, lambda found: found is not None and len(found.clients) == 1)
    for text in ("first of all", "second to come"):
        await turn(project, id_, [{"text": text}])
    assert watching.stdout is not None
    seen = ""
    async with asyncio.timeout(30):
        while "second to come" not in seen:
            seen += await asyncio.to_thread(watching.stdout.readline)
    assert "first of all" in seen
    assert "before" not in seen
    watching.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(watching.wait, 30) == 130
    watching.stdout.close()
    await session_when(project, id_, lambda found: found is not None and found.clients == [])
