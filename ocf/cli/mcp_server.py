"""The MCP server of `ocf mcp`: its tools are calls of a gateway.

The gateway is found again at each call, as by every verb, so a stack may start later or restart. Answers are limited,
because they fill the context of the calling model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any
from urllib.parse import quote

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from ocf.cli.options.ids import EXECUTION, whole_id
from ocf.cli.where import report
from ocf.events.client.gateway import Address, GatewayClient, connect
from ocf.events.errors import OcfError

_INSTRUCTIONS = (
    "Delegate coding tasks to OpenCode agents that run elsewhere in sandboxes. `submit` starts one; call `watch` with "
    "the returned `next` until `ended`; answer what is `waiting` with `reply`; take the changes with `diff`."
)
#: Characters of one answer.
_MOST = 60_000
#: Types of chunks that the calling model reads; the others repeat them or are for people.
_SHOWN = frozenset(("text", "stdout", "stderr", "tool_call", "file_change", "status", "gap"))
_ASKING = ("permission", "question")

Id = Annotated[str, Field(description="Execution id that `submit` returned.")]
Start = Annotated[int, Field(ge=1, description="First sequence to read: 1, or the `next` of the previous answer.")]


def server(find: Callable[[], Address]) -> MCPServer[None]:
    """Return the server of the gateway that `find` locates."""
    tools = Tools(find)
    made: MCPServer[None] = MCPServer(
        "opencode-functions",
        instructions=_INSTRUCTIONS,
        version=version("opencode-functions"),
        log_level="WARNING",
    )
    for tool in (tools.submit, tools.watch, tools.status, tools.output, tools.diff, tools.reply, tools.cancel):
        made.add_tool(tool)
    made.add_tool(tools.list_executions)
    made.add_tool(tools.models)
    return made


class Tools:
    """The tools. A refusal of the gateway is an error of the tool, with the gateway's message."""

    def __init__(self, find: Callable[[], Address]) -> None:
        self._find = find

    @asynccontextmanager
    async def _gateway(self) -> AsyncIterator[GatewayClient]:
        try:
            async with connect(self._find, report) as gateway:
                yield gateway
        except OcfError as error:
            raise ToolError(str(error)) from None

    @asynccontextmanager
    async def _task(self, execution: str) -> AsyncIterator[tuple[GatewayClient, str, str]]:
        """Yield the gateway, the whole id and the path of a task; the calling model wrote `execution`."""
        async with self._gateway() as gateway:
            whole = await whole_id(gateway, EXECUTION, execution)
            yield gateway, whole, f"/tasks/{whole}"

    async def submit(
        self,
        prompt: Annotated[str, Field(description="What the agent shall do; it sees nothing of this conversation.")],
        git_url: Annotated[str | None, Field(description="Repository to work on.")] = None,
        git_ref: Annotated[str | None, Field(description="Branch, tag or commit of git_url.")] = None,
        directory: Annotated[
            str | None, Field(description="Absolute path of a directory of the stack's machine to work on a copy of.")
        ] = None,
        session_id: Annotated[str | None, Field(description="Session to continue.")] = None,
        more: Annotated[
            dict[str, Any] | None,
            Field(description="Other fields of POST /tasks/execute; {limits: {answer_seconds: 600}} lets it ask."),
        ] = None,
    ) -> dict[str, Any]:
        """Start a coding task and return its execution_id at once. `watch` follows it."""
        git = {"source": "git", "url": git_url, **({"ref": git_ref} if git_ref else {})} if git_url else None
        workspace = {"source": "directory", "path": directory} if directory else git
        own = {"prompt": prompt, "workspace": workspace, "session_id": session_id}
        body = {**(more or {}), **{name: value for name, value in own.items() if value is not None}}
        async with self._gateway() as gateway:
            body.setdefault("project_id", gateway.address.project)
            return dict(await gateway.call("POST", "/tasks/execute", body=body))

    async def watch(
        self,
        execution_id: Id,
        start: Start = 1,
        seconds: Annotated[int, Field(ge=1, le=300, description="How long to wait for the end or a question.")] = 45,
    ) -> dict[str, Any]:
        """Follow a task: return its new output once it has ended, waits for an answer, or `seconds` have passed.

        `next` is the `start` of the following call, `waiting` lists requests for `reply`, `ended` says that it is over.
        """
        shown, waiting, following, over = "", [], start, False
        async with self._task(execution_id) as (gateway, whole, path):
            try:
                async with asyncio.timeout(seconds), aclosing(gateway.watch(whole, start)) as chunks:
                    async for chunk in chunks:
                        text = _text(chunk)
                        if shown and len(shown) + len(text) > _MOST:
                            break  # whole in the following answer
                        following = _last(chunk) + 1
                        shown += text if len(text) <= _MOST else f"{text[:_MOST]}\n{_cut('characters')}\n"
                        if chunk["type"] in _ASKING:
                            waiting.append({**(chunk.get("detail") or {}), "text": chunk["data"][:_MOST]})
                        if waiting or len(shown) > _MOST:
                            break
                    else:
                        over = True
            except TimeoutError:
                pass  # what arrived until now is the answer
            state = await gateway.call("GET", f"{path}/status")
        found = {"status": state["status"], "output": shown, "waiting": waiting, "next": following}
        return {**found, "ended": over, **({"result": state} if over else {})}

    async def status(self, execution_id: Id) -> dict[str, Any]:
        """Return the state of a task: progress, tokens, cost, and at the end its result or the reason of failure."""
        async with self._task(execution_id) as (gateway, _, path):
            return dict(await gateway.call("GET", f"{path}/status"))

    async def output(self, execution_id: Id, start: Start = 1) -> str:
        """Return what a task wrote so far as readable text, the last part of it where it is long."""
        return await self._download(execution_id, "output", last=True, format="text", **{"from": start})

    async def diff(self, execution_id: Id) -> str:
        """Return the changes of an ended task as a patch for `git apply`."""
        return await self._download(execution_id, "diff", last=False)

    async def reply(
        self,
        execution_id: Id,
        request_id: Annotated[str, Field(description="`request_id` of an entry of `waiting`.")],
        answer: Annotated[str, Field(description="A permission: once, always or reject. A question: the answer.")],
    ) -> dict[str, Any]:
        """Answer a permission request or a question of the agent; then `watch` again from `next`."""
        async with self._task(execution_id) as (gateway, _, path):
            reply = f"{path}/replies/{quote(request_id, safe='')}"
            return dict(await gateway.call("POST", reply, body={"answer": answer}))

    async def cancel(self, execution_id: Id) -> dict[str, Any]:
        """Cancel a task in any state: its processes end and its model calls stop."""
        async with self._task(execution_id) as (gateway, _, path):
            return dict(await gateway.call("POST", f"{path}/cancel"))

    async def list_executions(
        self,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Field(description="`next` of the page before.")] = None,
    ) -> dict[str, Any]:
        """List the project's tasks, newest first."""
        async with self._gateway() as gateway:
            return dict(await gateway.call("GET", "/tasks", limit=limit, cursor=cursor))

    async def models(self, provider: str | None = None) -> dict[str, Any]:
        """List the models that `more.model_config` may name, with limits and prices; one provider's if given."""
        async with self._gateway() as gateway:
            return dict(await gateway.call("GET", "/models", provider=provider))

    async def _download(self, execution: str, what: str, *, last: bool, **query: Any) -> str:
        """Return at most `_MOST` bytes of a download, its end or its beginning, and whether that is all of it."""
        found, cut = bytearray(), False
        async with self._task(execution) as (gateway, _, path):
            async for piece in gateway.download(f"{path}/{what}", **query):
                found += piece
                cut = cut or len(found) > _MOST
                if last:
                    del found[:-_MOST]
                elif cut:
                    break
        text = found[:_MOST].decode(errors="replace")
        note = _cut("bytes")
        return text if not cut else f"{note}\n{text}" if last else f"{text}\n{note}\n"


def _cut(unit: str) -> str:
    return f"[cut: {_MOST} {unit} are shown; the REST API and `ocf` have all of it]"


def _last(chunk: dict[str, Any]) -> int:
    """Return the last sequence that a chunk stands for: a gap stands for several."""
    return int(chunk["detail"]["to"] if chunk["type"] == "gap" and "to" in (chunk["detail"] or {}) else chunk["seq"])


def _text(chunk: dict[str, Any]) -> str:
    """Return a chunk as the calling model reads it."""
    if chunk["type"] not in _SHOWN:
        return ""
    return (
        str(chunk["data"])
        if chunk["type"] in ("text", "stdout", "stderr")
        else f"\n[{chunk['type']}] {chunk['data']}\n"
    )
