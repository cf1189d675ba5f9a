"""An agent's run from start to end on the scripted OpenCode: real processes, real sockets, faults on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ocf.events import untrusted_json
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType
from ocf.functions.execute.agent.agent import PromptSpec
from ocf.functions.execute.agent.opencode_api import OpenCode, OpenCodeError
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady
from tests.support.agents import MODEL, SCRIPTED, Runner
from tests.support.clock import ManualClock


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Runner]:
    started = Runner(tmp_path)
    yield started
    await started.close()


async def test_a_task_runs_to_its_result(runner: Runner) -> None:
    """Text, tools, files, usage come as drafts; the result is the last text; the file is in the workspace."""
    result = await runner.run("do it")
    assert result.text == "Done: hello.txt is written."
    assert result.usage.requests == 2
    assert (runner.spec.directory / "hello.txt").read_text() == "hello\n"
    (change,) = runner.heard.of(ChunkType.FILE_CHANGE)
    assert change.detail == {"path": "hello.txt", "change": "added", "additions": 1, "deletions": 0}


async def test_a_follow_up_goes_on_in_the_same_session(runner: Runner) -> None:
    """A second prompt is answered; nothing of the first is told again."""
    agent = await runner.agent()
    await agent.run("[[scenario:default]]", runner.heard.emit)
    first = len(runner.heard.drafts)
    result = await agent.run('[[steps]] [{"text": "second"}]', runner.heard.emit)
    assert result.text == "second"
    assert "".join(d.data for d in runner.heard.drafts[first:] if d.type is ChunkType.TEXT) == "second"


async def test_a_conversation_that_is_not_there_is_not_begun_anew(runner: Runner) -> None:
    """What was to be resumed and is unknown ends the run: a new one would be saved in its place."""
    agent = await runner.agent()
    agent.resume("ses_gone")
    with pytest.raises(AgentFailed, match="does not have the session's conversation"):
        await agent.run("go on", runner.heard.emit)
    assert runner.heard.drafts == []


async def test_a_conversation_opened_before_its_prompt_is_the_one_that_is_used(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Session and event stream open beside other work, and no second session is created."""
    agent = await runner.agent()
    client = agent.server.client
    created: list[str] = []
    done = asyncio.Event()

    async def create(title: str, rules: list[dict[str, str]]) -> str:
        created.append(await OpenCode.create_session(client, title, rules))
        done.set()
        return created[-1]

    monkeypatch.setattr(client, "create_session", create)
    agent.open()
    await done.wait()
    first = await agent.run('[[steps]] [{"text": "first"}]', runner.heard.emit)
    second = await agent.run('[[steps]] [{"text": "second"}]', runner.heard.emit)
    assert (first.text, second.text) == ("first", "second")
    assert created == [first.session_id] == [second.session_id]


async def test_a_conversation_that_is_never_prompted_leaves_no_task(runner: Runner) -> None:
    """The preparation of the workspace can fail."""
    agent = await runner.agent()

    def running() -> list[str]:
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
        return [name for name in names if name.startswith("Agent.")]

    agent.open()
    assert len(running()) == 2
    await agent.close()
    assert running() == []


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("call", ["create_session", "events"])
async def test_a_server_that_does_not_answer_before_the_prompt_is_not_ready(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, call: str, opened: bool
) -> None:
    """On a crowded machine a first call can be late. The agent has done nothing, so another attempt may follow."""
    agent = await runner.agent()
    monkeypatch.setattr("ocf.functions.execute.agent.agent._EXIT_SECONDS", 0.1)

    def late(*arguments: object) -> None:
        raise OpenCodeError(f"{call}: ReadTimeout")

    monkeypatch.setattr(agent.server.client, call, late)
    if opened:
        agent.open()
    with pytest.raises(AgentNotReady, match=f"OpenCode does not answer: {call}: ReadTimeout"):
        await agent.run("do it", runner.heard.emit)


async def test_a_server_that_does_not_answer_after_the_prompt_fails(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent may have done something, which another attempt would do again."""
    agent = await runner.agent()
    monkeypatch.setattr("ocf.functions.execute.agent.agent._EXIT_SECONDS", 0.1)

    async def late(*arguments: object) -> None:
        raise OpenCodeError("POST: ReadTimeout")

    monkeypatch.setattr(agent.server.client, "final_state", late)
    with pytest.raises(AgentFailed, match="OpenCode does not answer: POST: ReadTimeout") as failure:
        await agent.run("do it", runner.heard.emit)
    assert not isinstance(failure.value, AgentNotReady)


async def test_a_stream_that_closes_in_mid_turn_loses_nothing(runner: Runner) -> None:
    """The reader opens it again, reads the messages, and goes on."""
    await runner.run("[[scenario:stream-closes]]")
    assert runner.heard.said() == "before the gapafter the gap"
    assert runner.heard.said(ChunkType.STDOUT) == "1\n2\n3\n"
    assert len(runner.heard.of(ChunkType.TOOL_RESULT)) == 1


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("dies", "ended during the run (exit code 7)"),
        ("killed", "ended during the run (exit code -9)"),
        ("stream-gone", "the event stream was lost and could not be opened again"),
    ],
)
async def test_a_broken_agent_fails_with_its_reason(runner: Runner, scenario: str, words: str) -> None:
    """Death and a stream that stays closed end the run in seconds; what was said before is kept."""
    with pytest.raises(AgentFailed) as failed:
        async with asyncio.timeout(15):
            await runner.run(f"[[scenario:{scenario}]]")
    assert failed.value.reason is Reason.AGENT_ERROR
    assert words in failed.value.message
    assert runner.heard.said()
    if scenario == "dies":
        assert "fatal: scripted crash" in failed.value.stderr_tail


async def test_an_error_of_the_model_is_the_models(runner: Runner) -> None:
    """A refused key is `model_auth`."""
    with pytest.raises(AgentFailed) as failed:
        await runner.run("[[scenario:auth-error]]")
    assert failed.value.reason is Reason.MODEL_AUTH


@pytest.mark.parametrize(("finish", "words"), [("length", "output limit"), ("content-filter", "withheld")])
async def test_an_answer_that_is_not_whole_fails_the_run(runner: Runner, finish: str, words: str) -> None:
    """The model stopped at its limit, or its provider withheld the rest: what was said is kept, the run has failed."""
    with pytest.raises(AgentFailed, match=words) as failed:
        await runner.run(f'[[steps]] [{{"text": "half of"}}, {{"finish": "{finish}"}}]')
    assert failed.value.reason is Reason.MODEL_ERROR
    assert runner.heard.said() == "half of"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message.updated"},
        {"type": "message.updated", "properties": {"info": {"sessionID": []}}},
        {"type": "message.part.updated", "properties": {"part": [1]}},
        {"type": "session.created", "properties": {"info": 7}},
        {"type": "permission.asked", "properties": {"sessionID": {}}},
    ],
)
async def test_an_event_in_a_form_that_is_none_ends_this_run_alone(runner: Runner, event: dict[str, object]) -> None:
    """The server is in the agent's hands: what it says in another form is `agent_error`, and no other exception."""
    with pytest.raises(AgentFailed, match="an event that cannot be read") as failed:
        await runner.run(f"[[steps]] {json.dumps([{'event': event}, {'text': 'well'}])}")
    assert failed.value.reason is Reason.AGENT_ERROR


async def test_a_conversation_longer_than_one_answer_may_be_costs_no_run(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed after all its work, when the messages were read once more at the end. Now they come in pages."""
    monkeypatch.setattr(
        untrusted_json, "AGENT_MESSAGE", untrusted_json.JsonLimit(bytes=20_000, depth=100, values=10_000)
    )
    agent = await runner.agent()
    for number in range(12):
        said = f"{number} " + "x" * 5_000
        result = await agent.run(f"[[steps]] {json.dumps([{'text': said, 'chunk': 5_100}])}", runner.heard.emit)
        assert result.text == said
    exported = await agent.export()
    assert isinstance(exported["messages"], list)
    assert len(exported["messages"]) == 24


async def test_an_ask_that_nobody_can_answer_fails_at_once(runner: Runner) -> None:
    """Without `answer_seconds` a permission that asks ends the run with `permission_denied` well within 5 s."""
    started = time.monotonic()
    with pytest.raises(AgentFailed) as failed:
        await runner.run("[[scenario:asks]]", PromptSpec(MODEL, permissions={"bash": "ask"}))
    assert failed.value.reason is Reason.PERMISSION_DENIED
    assert "rm -rf build" in failed.value.message
    assert time.monotonic() - started < 5
    assert len(runner.heard.of(ChunkType.PERMISSION)) == 1


@pytest.mark.parametrize(("answer", "ok"), [("once", True), ("allow", True), ("no", False), ("not that folder", False)])
async def test_an_answer_reaches_the_agent(runner: Runner, answer: str, ok: bool) -> None:
    """The request waits with its deadline; what the answer means decides the tool."""
    agent = await runner.agent(PromptSpec(MODEL, permissions={"bash": "ask"}, answer_seconds=60))
    turn = asyncio.create_task(agent.run("[[scenario:asks]]", runner.heard.emit))
    asked = await runner.heard.until(lambda draft: draft.type is ChunkType.PERMISSION)
    assert asked.detail is not None
    assert asked.detail["deadline"]
    assert not await agent.answer("per_unknown", answer)
    assert await agent.answer(asked.detail["request_id"], answer)
    assert (await turn).text == "went on"
    (result,) = runner.heard.of(ChunkType.TOOL_RESULT)
    assert result.detail is not None
    assert result.detail["ok"] is ok
    assert not await agent.answer(asked.detail["request_id"], answer)


async def test_a_question_is_answered(runner: Runner) -> None:
    """Free text or a label goes to the agent."""
    agent = await runner.agent(PromptSpec(MODEL, answer_seconds=60))
    turn = asyncio.create_task(agent.run("[[scenario:question]]", runner.heard.emit))
    asked = await runner.heard.until(lambda draft: draft.type is ChunkType.QUESTION)
    assert asked.detail is not None
    assert asked.detail["options"] == ["red", "blue"]
    assert await agent.answer(asked.detail["request_id"], "blue")
    assert (await turn).text == "You said blue."


@pytest.mark.parametrize("scenario", ["asks", "question"])
async def test_an_answer_that_does_not_come_is_a_stated_denial(runner: Runner, scenario: str) -> None:
    """After `answer_seconds` the request is denied, the denial is said, and the agent goes on."""
    turn = PromptSpec(MODEL, permissions={"bash": "ask"}, answer_seconds=0.3)
    result = await runner.run(f"[[scenario:{scenario}]]", turn)
    assert result.text
    denials = [draft.data for draft in runner.heard.of(ChunkType.STATUS) if "no answer within 0.3 s" in draft.data]
    assert len(denials) == 1


async def test_an_abort_ends_the_turn(runner: Runner) -> None:
    """`run` returns with `aborted` and no failure."""
    agent = await runner.agent()
    turn = asyncio.create_task(agent.run("[[scenario:slow]]", runner.heard.emit))
    await runner.heard.until(lambda draft: draft.type is ChunkType.TEXT)
    await agent.abort()
    assert (await turn).aborted


async def test_stop_ends_daemons_too(runner: Runner) -> None:
    """Fifty daemonised processes that ignore SIGTERM are gone after `stop`."""
    agent = await runner.agent()
    turn = asyncio.create_task(agent.run("[[scenario:daemons]]", runner.heard.emit))
    await runner.heard.until(lambda draft: draft.data == "started")
    report = await agent.stop()
    assert report.left == 0
    assert report.killed >= 50
    with pytest.raises(AgentFailed):
        await turn


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("opencode-never-ready", "not ready after"),
        ("opencode-wrong-version", "OpenCode 0.1.0 is not supported"),
        ("opencode-exits", "ended with code 1 before it was ready"),
        ("missing", "OpenCode is not installed"),
    ],
)
async def test_a_start_that_fails_says_why(runner: Runner, name: str, words: str) -> None:
    """Missing, wrong version, never ready, dead at once: `agent_error` with the reason and its last stderr lines."""
    spec = {**vars(runner.spec), "binary": SCRIPTED.parent / name}
    with pytest.raises(AgentFailed) as failed:
        await AgentServer.start(type(runner.spec)(**spec), timeout=1.0)
    assert failed.value.reason is Reason.AGENT_ERROR
    assert words in failed.value.message
    if name == "opencode-exits":
        assert "Error: cannot start: scripted failure" in failed.value.stderr_tail


async def test_the_agents_environment_is_only_what_it_needs(runner: Runner) -> None:
    """Nothing of this process's environment is in the agent's."""
    await runner.run("[[steps]] [{\"run\": \"env | cut -d= -f1 | sort | tr '\\\\n' ' '\"}]")
    names = set(runner.heard.said(ChunkType.STDOUT).split())
    assert {name for name in names if not name.startswith(("OPENCODE_", "npm_", "HTTPS_", "NO_"))} <= {
        *("PATH", "HOME", "TMPDIR", "LANG", "TERM", "CI", "GIT_TERMINAL_PROMPT"),
        *("PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"),
        "OCF_TREE",  # by which the supervisor knows its own
        "OCF_MODELTOKEN",  # the model proxy's token, which is worthless elsewhere
    }


async def test_a_server_that_falls_silent_and_deaf_is_given_up(runner: Runner) -> None:
    """Three looks in a row without an answer mean that nobody is there."""
    agent = await runner.agent(clock=ManualClock())
    agent.poll_every = 0.05
    with pytest.raises(AgentFailed) as failed:
        async with asyncio.timeout(30):
            await agent.run("[[scenario:deaf]]", runner.heard.emit)
    assert failed.value.reason is Reason.AGENT_ERROR
    assert "does not answer" in failed.value.message


def test_every_scenario_is_valid() -> None:
    """Each file is a list of steps."""
    for path in (SCRIPTED.parent / "scenarios").glob("*.json"):
        steps = json.loads(path.read_text())
        assert isinstance(steps, list), path.name
