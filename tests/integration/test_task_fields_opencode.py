"""What a task brings for its agent reaches the model through the real OpenCode: agents, skills, commands, MCP, schema.

One server serves the whole file (it takes seconds to start); every test has a session of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ocf.events.command_payloads import ModelConfigData
from ocf.events.lifecycle import Reason
from ocf.events.optional_task_fields import LocalMcp
from ocf.events.output import ChunkType
from ocf.functions.core.agent_definitions import (
    PLAN_PERMISSIONS,
    TaskDefinitions,
    agent_definition,
    command_definition,
    skill_definition,
)
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.opencode_api import FilePart
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.inputs.mcp import start_servers
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.models.offline_model import OfflineModel
from ocf.functions.models.resolve import ModelSettings, resolve
from tests.integration.test_docs_run import block
from tests.support.agents import MODEL, ROOT, Heard, server_spec
from tests.support.mcp import everything_server
from tests.support.offline import OPENCODE, node, offline_spec

pytestmark = [
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
]

DEFINITIONS = TaskDefinitions(
    agents={
        "reviewer": agent_definition(
            "reviewer",
            "---\ndescription: Reviews\nmode: primary\nmodel: evil/model\ntools:\n  bash: false\n---\nYou are PURPLE.",
        )
    },
    skills={
        "release": skill_definition(
            "release",
            {
                "SKILL.md": b"---\nname: other\ndescription: How to release\n---\nPush the ORANGE button.",
                "steps.md": b"1.",
            },
        )
    },
    commands={
        "greet": command_definition("---\ndescription: Greets\nagent: reviewer\n---\nGreet $1 and then $2."),
        "shell": command_definition("Greet !`echo from the shell` now."),
    },
)
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


SEEING = AgentModel.of(
    resolve(
        ModelConfigData.model_validate(
            {
                "provider": "local",
                "model": "seeing",
                "api_endpoint": "http://127.0.0.1:9/v1",
                "facts": {
                    "context": 100_000,
                    "output": 8_000,
                    "input": ["text", "image"],
                    "reasoning": True,
                    "variants": ["low", "high"],
                },
            }
        ),
        ModelSettings(),
    )
)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@dataclass
class World:
    """The server, its workspace, and the model behind it."""

    server: AgentServer
    model: OfflineModel
    heard: Heard

    async def run(self, prompt: str, **settings: Any) -> Any:
        spec = PromptSpec(**{"model": MODEL, "commands": DEFINITIONS.commands, **settings})
        return await Agent(self.server, spec, SystemClock()).run(prompt, self.heard.emit)

    async def asked(self) -> dict[str, Any]:
        """The last request that reached the model."""
        return dict((await self.model.journal())[-1]["body"])

    def results(self) -> str:
        return "\n".join(draft.data for draft in self.heard.drafts if draft.type is ChunkType.TOOL_RESULT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[AgentServer, OfflineModel]]:
    async with OfflineModel(offline_spec([ROOT / "tests/support/task-field-cases.json"])) as model:
        spec = server_spec(tmp_path_factory.mktemp("agent"), binary=OPENCODE, url=model.base_url)
        python = Path(sys.base_prefix), Path(sys.prefix)
        spec = replace(
            spec, models=(MODEL, SEEING), definitions=DEFINITIONS, read_only=(*python, node().resolve().parent)
        )
        server = await AgentServer.start(spec, timeout=120)
        yield server, model
        await server.stop(0.0)


@pytest.fixture
def world(started: tuple[AgentServer, OfflineModel]) -> World:
    return World(*started, Heard())


def last_user_text(body: dict[str, Any]) -> str:
    return json.dumps([message["content"] for message in body["messages"] if message["role"] == "user"][-1])


def system(body: dict[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in body["messages"] if message["role"] == "system")


def tools(body: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in body.get("tools", [])}


async def test_an_answer_by_schema_is_asked_for_in_a_copy_of_the_conversation(world: World) -> None:
    """The model is offered the schema as the one tool, which it must call; the conversation itself stays as it was."""
    agent = Agent(world.server, PromptSpec(MODEL), SystemClock())
    await agent.run("ask-words", world.heard.emit)
    assert await agent.structured("ask-schema-good", SCHEMA) == {"answer": 42}
    body = await world.asked()
    assert "In words." in json.dumps(body["messages"])
    assert body["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in body["tools"]] == ["StructuredOutput"]
    assert body["tools"][0]["function"]["parameters"]["properties"] == SCHEMA["properties"]
    assert await agent.structured("ask-schema-words", SCHEMA) is None
    assert len((await agent.export())["messages"]) == 2  # type: ignore[arg-type]
    assert (await agent.run("ask-words again", world.heard.emit)).text == "In words."


async def test_the_plan_agent_cannot_edit(world: World) -> None:
    """Although everything else is allowed: its own rule stands where the task has none."""
    result = await world.run("ask-plan", agent="plan", permissions=PLAN_PERMISSIONS)
    assert result.text == "Planned."
    assert not (world.server.spec.directory / "planned.txt").exists()


async def test_an_agent_of_the_task_has_its_prompt_and_the_tasks_model(world: World) -> None:
    """The front matter's model is not used."""
    await world.run("ask-words", agent="reviewer")
    body = await world.asked()
    assert "You are PURPLE." in system(body)
    assert body["model"] == MODEL.name


async def test_a_skill_is_listed_and_loaded_with_its_files(world: World) -> None:
    """Its name is the task's, whatever its front matter says."""
    await world.run("ask-skill")
    assert "How to release" in system(await world.asked())
    assert "Push the ORANGE button." in world.results()
    assert "steps.md" in world.results()


async def test_a_command_becomes_the_prompt_of_its_agent(world: World) -> None:
    """Arguments are filled in as OpenCode does."""
    result = await world.run("/greet Ada the others")
    assert result.text == "Greeted."
    body = await world.asked()
    assert "Greet Ada and then the others." in last_user_text(body)
    assert "You are PURPLE." in system(body)


async def test_a_slash_that_names_no_command_is_a_prompt(world: World) -> None:
    """A path at the start of a prompt is common."""
    await world.run("/etc/hosts: ask-words")
    assert "/etc/hosts: ask-words" in last_user_text(await world.asked())


async def test_shell_lines_of_a_command_obey_the_permission_for_bash(world: World) -> None:
    """OpenCode runs them unasked, so the run ends before it sees them."""
    assert (await world.run("/shell")).text == "Greeted."
    assert "Greet from the shell" in last_user_text(await world.asked())
    for permissions in ({"bash": "deny"}, {"bash": "ask"}, {"*": "deny"}, {"bash:rm *": "deny"}):
        with pytest.raises(AgentFailed) as error:
            await world.run("/shell", permissions=permissions)
        assert error.value.reason is Reason.PERMISSION_DENIED
    with pytest.raises(AgentFailed, match="permissions do not allow"):
        await world.run("/greet !`id` x", enabled_tools=("read",))


async def test_attachments_are_parts_of_the_first_prompt_only(world: World) -> None:
    """A text file is shown as text."""
    text = FilePart("notes.txt", "text/plain", "data:text/plain;base64,VEVBTC1UQUJMRQ==")
    agent = Agent(world.server, PromptSpec(MODEL, files=(text,)), SystemClock())
    await agent.run("ask-words", world.heard.emit)
    assert "TEAL-TABLE" in last_user_text(await world.asked())
    await agent.run("ask-words again", world.heard.emit)
    assert "TEAL-TABLE" not in last_user_text(await world.asked())


async def test_a_variant_and_an_image_reach_the_model(world: World) -> None:
    """As the provider's API has them: a reasoning effort, and an image part with the file's own bytes."""
    image = FilePart("shot.png", "image/png", f"data:image/png;base64,{PIXEL}")
    await world.run("ask-words", model=SEEING, variant="high", files=(image,))
    body = await world.asked()
    assert body["reasoning_effort"] == "high"
    parts = next(message["content"] for message in body["messages"] if message["role"] == "user")
    assert {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}} in parts


async def test_a_model_that_is_not_known_is_taken_to_read_what_the_task_attaches(world: World) -> None:
    """OpenCode would leave out an image for a model that is not known to take one."""
    entry = json.loads(MODEL.taking({"text", "image"}).entry)
    assert (entry["attachment"], entry["modalities"]["input"]) == (True, ["text", "image"])
    assert MODEL.taking({"text"}) == MODEL


async def test_mcp_servers_from_npm_and_pypi_serve_the_model(world: World) -> None:
    """Real servers in the sandbox: their tools are offered and called, and their results come back."""
    directory = world.server.spec.directory
    shutil.copytree(everything_server(), directory / "node_modules", dirs_exist_ok=True)
    script = "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    servers = {
        "every": LocalMcp(type="local", command=[str(node()), script, "stdio"]),
        "time": LocalMcp(type="local", command=[sys.executable, "-m", "mcp_server_time"], env={"TZ": "UTC"}),
    }
    await start_servers(world.server.client, servers, {}, world.heard.emit, 120)
    said = sorted(draft.data for draft in world.heard.drafts)
    assert said == ["MCP server every is ready", "MCP server time is ready"]
    await world.run("ask-npm")
    assert {"every_echo", "time_convert_time"} <= tools(await world.asked())
    assert "over stdio" in world.results()
    await world.run("ask-pypi")
    assert "21:00" in world.results()
    await world.run("ask-words", permissions={"every_*": "deny"})
    assert not {name for name in tools(await world.asked()) if name.startswith("every_")}


async def test_the_task_of_the_mcp_page_runs(world: World) -> None:
    """docs/how-to/use-mcp-servers.md: its local server answers its prompt; `python3` is the one that has the server."""
    task = json.loads(block("docs/how-to/use-mcp-servers.md", "mcp"))
    server = LocalMcp.model_validate(task["mcp"]["time"])
    server = server.model_copy(update={"command": [sys.executable, *server.command[1:]]})
    await start_servers(world.server.client, {"time": server}, {}, world.heard.emit, 120)
    assert (await world.run(task["prompt"])).text == "Late."
    assert "Asia/Tokyo" in world.results()


async def test_mcp_servers_that_do_not_start_are_reported(world: World) -> None:
    """One that is missing, one that ends, and one that stays silent; the run can go on."""
    servers = {
        "missing": LocalMcp(type="local", command=["/nonexistent/server"]),
        "ends": LocalMcp(type="local", command=["false"]),
        "silent": LocalMcp(type="local", command=["sleep", "61.5"]),
    }
    await start_servers(world.server.client, servers, {}, world.heard.emit, 5)
    said = sorted(draft.data for draft in world.heard.drafts)
    assert [line.split(" did not start: ")[0] for line in said] == [f"MCP server {name}" for name in sorted(servers)]
    assert "no answer within 5 s" in said[-1]
    assert (await world.run("ask-words")).text == "In words."
