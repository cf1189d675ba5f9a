"""`ocf mcp` as other agents use it: the official MCP client of PyPI over standard input and output, a real stack."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client

from tests.integration.test_docs_run import ROOT
from tests.support.stack import Stack

PAGE = ROOT / "docs/how-to/delegate-from-another-agent.md"


@asynccontextmanager
async def tools(data_dir: Path, project: str) -> AsyncIterator[Client]:
    """A client of `ocf mcp`, as the page configures it, for the stack of `data_dir`."""
    configured = json.loads(re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])["mcpServers"]["agents"]
    assert configured["command"] == "ocf"
    arguments = ["-m", "ocf.cli.main", *configured["args"], "--project", project, "--data-dir", str(data_dir)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OCF_")}
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environ, cwd=ROOT)
    async with Client(stdio_client(server)) as client:
        yield client


async def use(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answers: its object, or its text."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    found = answer.structured_content
    return found["result"] if found is not None and set(found) == {"result"} else found


async def watch_until(client: Client, execution: str, field: str) -> dict[str, Any]:
    """The first answer of `watch` in which `field` is true; each call goes on where the one before ended."""
    start = 1
    for _ in range(10):
        answer: dict[str, Any] = await use(client, "watch", execution_id=execution, start=start, seconds=10)
        if answer[field]:
            return answer
        assert answer["next"] >= start
        start = answer["next"]
    raise AssertionError(f"{field}: {answer}")


async def test_a_task_is_delegated_watched_and_read(stack: Stack) -> None:
    """Submit with a directory, watch to the end, output and patch, list; the models are those of the gateway."""
    async with tools(stack.data_dir, "mcp-run") as client:
        assert {"submit", "watch", "reply", "diff", "cancel"} <= {
            tool.name for tool in (await client.list_tools()).tools
        }
        source = stack.data_dir.parent / "sources/delegated"
        source.mkdir(parents=True)
        (source / "README.md").write_text("a file\n")
        task = {"prompt": "Write hello", "directory": str(source), "more": {"labels": {"by": "mcp"}}}
        execution = (await use(client, "submit", **task))["execution_id"]
        ended = await watch_until(client, execution, "ended")
        assert ended["status"] == ended["result"]["status"] == "completed", ended
        assert "Done: hello.txt is written." in ended["output"]
        assert "Done: hello.txt is written." in await use(client, "output", execution_id=execution)
        assert "+hello" in await use(client, "diff", execution_id=execution)
        listed = (await use(client, "list_executions"))["items"]
        assert [(item["execution_id"], item["labels"]) for item in listed] == [(execution, {"by": "mcp"})]
        assert (await use(client, "models", provider="anthropic"))["models"]


async def test_a_question_is_answered_and_a_task_cancelled(stack: Stack) -> None:
    """`watch` returns at the question; the answer lets the task complete; another one ends as cancelled."""
    async with tools(stack.data_dir, "mcp-ask") as client:
        asking = (await use(client, "submit", prompt="[[scenario:question]]", more={"limits": {"answer_seconds": 60}}))[
            "execution_id"
        ]
        [request] = (await watch_until(client, asking, "waiting"))["waiting"]
        assert request["options"] == ["red", "blue"]
        answer = {"execution_id": asking, "request_id": request["request_id"], "answer": "blue"}
        await use(client, "reply", **answer)
        answered = await watch_until(client, asking, "ended")
        assert answered["status"] == "completed", answered
        stopped = (await use(client, "submit", prompt='[[steps]] [{"sleep": 600}]'))["execution_id"]
        await use(client, "cancel", execution_id=stopped)
        assert (await watch_until(client, stopped, "ended"))["status"] == "cancelled"


async def test_a_refusal_is_an_error_of_the_tool(stack: Stack, tmp_path: Path) -> None:
    """The gateway's message reaches the model: a wrong field, an unknown execution; and no stack at all."""
    async with tools(stack.data_dir, "mcp-err") as client:
        wrong = await client.call_tool("submit", {"prompt": "x", "more": {"promt": "y"}})
        assert wrong.is_error
        assert "did you mean prompt?" in str(wrong.content)
        unknown = await client.call_tool("status", {"execution_id": "0" * 8})
        assert "has an id that begins with 00000000" in str(unknown.content)
        path = await client.call_tool("status", {"execution_id": "../models?provider=openai#"})
        assert "is not an id of executions" in str(path.content)
    async with tools(tmp_path, "mcp-err") as client:
        away = await client.call_tool("list_executions", {})
        assert away.is_error
        assert "no stack runs in" in str(away.content)
