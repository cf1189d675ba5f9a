"""The agent on the real OpenCode with a scripted model: what is asked arrives, what happens is told.

One server serves the whole file (it takes seconds to start); every test has a session of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent import opencode_api
from ocf.functions.execute.agent.agent import Agent, AgentResult, PromptSpec
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.repetition import ADVICE
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.models.offline_model import OfflineModel
from tests.support.agents import MODEL, RIPGREP, ROOT, Heard, server_spec
from tests.support.offline import OPENCODE, offline_spec

pytestmark = [
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]

TUNED = AgentModel("openai", "some-model", temperature=0.3, max_tokens=777)
#: Only what `general` does in `case-sub` matches.
ASKED = {"bash:touch child*": "ask"}
CLAUDE = AgentModel("anthropic", "claude-test", max_tokens=555)


@dataclass
class World:
    """The server, its workspace, and the model behind it."""

    server: AgentServer
    model: OfflineModel
    heard: Heard

    @property
    def directory(self) -> Path:
        return self.server.spec.directory

    def agent(self, turn: PromptSpec | None = None) -> Agent:
        return Agent(self.server, turn or PromptSpec(MODEL), SystemClock())

    async def run(self, prompt: str, turn: PromptSpec | None = None) -> AgentResult:
        return await self.agent(turn).run(prompt, self.heard.emit)

    async def asked(self) -> dict[str, Any]:
        """The last request that reached the model."""
        return dict((await self.model.journal())[-1]["body"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[AgentServer, OfflineModel]]:
    async with OfflineModel(offline_spec([ROOT / "tests/support/opencode-cases.json"])) as model:
        spec = server_spec(tmp_path_factory.mktemp("agent"), binary=OPENCODE, url=model.base_url)
        (spec.directory / "AGENTS.md").write_text("Project rule: PURPLE-ELEPHANT\n")
        for name in ("tracked.txt", "gone.txt"):
            (spec.directory / name).write_text("line\n")
        git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.com")
        for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "first")):
            subprocess.run([*git, *command], cwd=spec.directory, check=True)
        # As a task with these permissions has it.
        spec = replace(spec, models=(TUNED, CLAUDE, MODEL), permissions=ASKED)
        server = await AgentServer.start(spec, timeout=90)
        yield server, model
        await server.stop(0.0)


@pytest.fixture
def world(started: tuple[AgentServer, OfflineModel]) -> World:
    for name in ("asked.txt", "child.txt"):
        (started[0].spec.directory / name).unlink(missing_ok=True)
    return World(*started, Heard())


def tools(body: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in body.get("tools", [])}


def system(body: dict[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in body["messages"] if message["role"] == "system")


async def test_a_task_with_tools_is_told(world: World) -> None:
    """Live shell output, results, files changed by tools and the answer; the attempt finds what the shell changed."""
    result = await world.run("case-tools")
    assert result.text == "All done."
    assert result.usage.requests == 4
    assert world.heard.said(ChunkType.STDOUT) == "line 1\nline 2\nline 3\n"
    changes = {(d.detail["path"], d.detail["change"]) for d in world.heard.of(ChunkType.FILE_CHANGE) if d.detail}
    assert changes == {("hello.txt", "added")}


async def test_a_conversation_is_read_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCode's cursors lead from the newest page to the oldest; together they are the conversation as it is."""
    agent = world.agent()
    await agent.run("case-tools", world.heard.emit)
    whole = await agent.export()
    assert isinstance(whole["messages"], list)
    assert len(whole["messages"]) == 5
    for page in (1, 2):
        monkeypatch.setattr(opencode_api, "_PAGE", page)
        assert await agent.server.client.export(agent.session_id) == whole


async def test_the_model_config_arrives_at_the_model(world: World) -> None:
    """Model, temperature, max_tokens, tools, system prompt and the repository's instructions are in the request."""
    before = len(await world.model.journal())
    turn = PromptSpec(TUNED, enabled_tools=("bash", "read"), system_prompt="Speak like a pirate.")
    await world.run("hello", turn)
    body = await world.asked()
    assert body["model"] == "some-model"
    assert body["temperature"] == 0.3
    assert body["max_tokens"] == 777
    assert tools(body) == {"bash", "read"}
    assert "Speak like a pirate." in system(body)
    assert "PURPLE-ELEPHANT" in system(body)
    # No second request for a title.
    assert len(await world.model.journal()) == before + 1


@pytest.mark.parametrize(
    ("case", "model", "words"),
    [
        ("case-length", MODEL, "output limit"),
        ("case-length", CLAUDE, "output limit"),
        ("case-filter", MODEL, "content filter"),
    ],
    ids=["length", "anthropic length", "content filter"],
)
async def test_an_answer_that_is_not_whole_fails_the_run(
    world: World, case: str, model: AgentModel, words: str
) -> None:
    """OpenCode may end the turn without an error: the finish reason of its message says that it is half an answer."""
    with pytest.raises(AgentFailed, match=words) as failed:
        await world.run(case, PromptSpec(model))
    assert failed.value.reason is Reason.MODEL_ERROR
    assert world.heard.said()


async def test_the_anthropic_form_is_spoken_too(world: World) -> None:
    """A model of kind anthropic is called with messages, max_tokens included."""
    result = await world.run("hello", PromptSpec(CLAUDE))
    assert result.text == "Hello from the model."
    entry = (await world.model.journal())[-1]
    assert entry["path"] == "/v1/messages"
    assert entry["body"]["max_tokens"] == 555


@pytest.mark.skipif(RIPGREP is None, reason="ripgrep is not installed: make install")
async def test_search_tools_work_without_a_network(world: World) -> None:
    """OpenCode's grep and glob find ripgrep on the agent's PATH instead of downloading it."""
    await world.run("case-search")
    results = [draft.detail for draft in world.heard.of(ChunkType.TOOL_RESULT) if draft.detail]
    assert [result["ok"] for result in results] == [True, True]


async def test_nothing_is_installed_in_the_home(world: World) -> None:
    """With every registry at a dead port OpenCode starts, works, and has not tried to install its plugin package."""
    await world.run("hello")
    home = world.server.spec.home
    assert list((home / ".config/opencode/node_modules").iterdir()) == []
    log = "".join(path.read_text() for path in (home / ".local/share/opencode/log").glob("*.log"))
    assert log
    assert "dependency install failed" not in log
    assert "ECONNREFUSED" not in log


async def test_opencode_knows_the_switch_for_its_catalog(tmp_path: Path) -> None:
    """OPENCODE_MODELS_PATH replaces the catalog that the pinned version carries: without it, boot parses 554 models."""
    model = {"id": "only", "name": "Only", "limit": {"context": 1_000, "output": 100}}
    planted = {"id": "planted", "name": "Planted", "env": ["PLANTED_KEY"], "npm": "@ai-sdk/openai-compatible"}
    (tmp_path / "models.json").write_text(json.dumps({"planted": {**planted, "models": {"only": model}}}))
    off = {f"OPENCODE_{name}": "1" for name in ("DISABLE_MODELS_FETCH", "DISABLE_DEFAULT_PLUGINS", "PURE")}
    dead = {"HTTPS_PROXY": "http://127.0.0.1:9", "npm_config_registry": "http://127.0.0.1:9"}
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PLANTED_KEY": "x", **off, **dead}
    env["OPENCODE_MODELS_PATH"] = str(tmp_path / "models.json")
    listed = subprocess.run([OPENCODE, "models"], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["planted/only"]


async def test_permissions_hold_for_subagents_too(world: World) -> None:
    """A denied tool is neither offered nor run, also when the agent hands the work to a subagent."""
    before = len(await world.model.journal())
    await world.run("case-sub", PromptSpec(MODEL, permissions={"bash": "deny"}))
    asked = (await world.model.journal())[before:]
    assert len(asked) >= 3
    assert all("bash" not in tools(entry["body"]) for entry in asked)
    assert not (world.directory / "child.txt").exists()


@pytest.mark.parametrize(("answer", "ran"), [("once", True), ("reject", False)])
async def test_a_subagent_asks_as_the_task_wants(world: World, answer: str, ran: bool) -> None:
    """OpenCode passes only denials to its own subagents; the rest is theirs from the start of the server."""
    agent = world.agent(PromptSpec(MODEL, permissions=ASKED, answer_seconds=60))
    turn = asyncio.create_task(agent.run("case-sub", world.heard.emit))
    request = await world.heard.until(lambda draft: draft.type is ChunkType.PERMISSION, 90)
    assert request.detail is not None
    assert not (world.directory / "child.txt").exists()
    assert await agent.answer(request.detail["request_id"], answer)
    assert (await turn).text == "The child is done."
    assert (world.directory / "child.txt").exists() is ran


async def test_an_ask_fails_within_seconds_when_nobody_can_answer(world: World) -> None:
    """`permission_denied`, and the tool did not run."""
    turn = asyncio.create_task(
        world.agent(PromptSpec(MODEL, permissions={"bash": "ask"})).run("case-ask", world.heard.emit)
    )
    await world.heard.until(lambda draft: draft.type is ChunkType.PERMISSION, 90)
    with pytest.raises(AgentFailed) as failed:
        async with asyncio.timeout(5):
            await turn
    assert failed.value.reason is Reason.PERMISSION_DENIED
    assert not (world.directory / "asked.txt").exists()


@pytest.mark.parametrize(("answer", "ran"), [("once", True), ("not now", False)])
async def test_an_answered_ask_goes_on(world: World, answer: str, ran: bool) -> None:
    """Allowed, the tool runs; denied with a text, the agent is told the text and its turn goes on."""
    agent = world.agent(PromptSpec(MODEL, permissions={"bash": "ask"}, answer_seconds=60))
    turn = asyncio.create_task(agent.run("case-ask", world.heard.emit))
    request = await world.heard.until(lambda draft: draft.type is ChunkType.PERMISSION, 90)
    assert request.detail is not None
    assert await agent.answer(request.detail["request_id"], answer)
    assert (await turn).text == "Went on."
    assert (world.directory / "asked.txt").exists() is ran
    if not ran:
        assert "not now" in json.dumps((await world.asked())["messages"][-1])


async def test_an_agent_that_repeats_itself_is_told(world: World) -> None:
    """Four equal calls with equal results: it gets a message between two of its steps, and may go on."""
    result = await world.run("case-repeat", PromptSpec(MODEL, repeated_calls=4))
    assert result.text == "I stop."
    assert ADVICE in json.dumps((await world.asked())["messages"])
    assert any("repeats itself" in draft.data for draft in world.heard.of(ChunkType.STATUS))


async def test_a_refused_key_is_model_auth(world: World) -> None:
    """The reason comes from the model's own answer."""
    with pytest.raises(AgentFailed) as failed:
        await world.run("case-auth")
    assert failed.value.reason is Reason.MODEL_AUTH


async def test_a_model_opencode_does_not_know_is_an_error_and_no_hang(world: World) -> None:
    """A turn that ends before it begins fails with what OpenCode says."""
    agent = world.agent(PromptSpec(AgentModel("openai", "never-heard-of")))
    agent.poll_every = 0.5
    with pytest.raises(AgentFailed) as failed:
        async with asyncio.timeout(90):
            await agent.run("hello", world.heard.emit)
    assert "never-heard-of" in failed.value.message


async def test_abort_ends_a_running_shell_and_a_session_can_be_taken_up_again(world: World) -> None:
    """The turn returns aborted; a later agent goes on in the same session, with its own permissions, and tells nothing
    twice."""
    agent = world.agent()
    turn = asyncio.create_task(agent.run("case-long", world.heard.emit))
    await world.heard.until(lambda draft: draft.type is ChunkType.STDOUT, 90)
    await agent.abort()
    assert (await turn).aborted
    heard = Heard()
    again = world.agent(PromptSpec(MODEL, permissions={"bash": "deny"}))
    again.resume(agent.session_id)
    assert (await again.run("hello", heard.emit)).text == "Hello from the model."
    assert again.session_id == agent.session_id
    assert heard.of(ChunkType.TOOL_CALL) == []
    assert "bash" not in tools(await world.asked())
