"""A remote MCP server behind a sealed header: the model uses its tools, and the agent cannot learn the secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from ocf.events.output import ChunkType
from ocf.events.sealing import Keyring, generate_key
from ocf.events.task_fields import RemoteMcp
from ocf.functions.core.clock import SystemClock
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.inputs.mcp import remote_routes, start_servers
from ocf.functions.execute.secret_routes import SecretRoutes
from ocf.functions.models.offline_model import OfflineModel
from tests.support.agents import MODEL, ROOT, Heard, server_spec
from tests.support.offline import OPENCODE, offline_spec

pytestmark = [
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(180),
]

TOKEN = "lin-planted-7fK2-0123456789"


@dataclass
class Guard:
    """An ASGI application in front of the server: it wants the header, and counts who lacks it."""

    app: ASGIApp
    refused: int = 0
    seen: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(headers)
        if headers.get("authorization") == f"Bearer {TOKEN}":
            await self.app(scope, receive, send)
            return
        self.refused += 1
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"who are you?"})


@asynccontextmanager
async def tracker() -> AsyncIterator[tuple[int, Guard]]:
    """A server made with the protocol's own SDK; one tool says back the credentials of its caller."""
    mcp = MCPServer("tracker")

    @mcp.tool()
    def whoami(context: Context) -> str:  # type: ignore[type-arg]
        request = context.request_context.request
        return f"You are {request.headers['authorization']}"

    guard = Guard(mcp.streamable_http_app())
    server = uvicorn.Server(uvicorn.Config(guard, port=0, log_level="error", ws="none"))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1], guard
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def test_the_header_is_added_outside_the_sandbox_and_its_value_never_comes_back(tmp_path: Path) -> None:
    """Without the route the server refuses; what it says back of the header is redacted; another URL is not reached."""
    keyring = Keyring(generate_key())
    heard, hidden = Heard(), list[str]()
    async with (
        tracker() as (port, guard),
        OfflineModel(offline_spec([ROOT / "tests/support/task-field-cases.json"])) as model,
        SecretRoutes([f"127.0.0.1:{port}"]) as routes,
    ):
        url = f"http://127.0.0.1:{port}/mcp"
        headers = {"Authorization": keyring.seal(f"Bearer {TOKEN}", "default"), "X-Team": "web"}
        servers = {"tracker": RemoteMcp(type="remote", url=url, headers=headers)}
        found = remote_routes(servers, lambda sealed: keyring.open(sealed, "default"), hidden.append)
        urls = {name: routes.open(route) for name, route in found.items()}
        spec = server_spec(tmp_path, binary=OPENCODE, url=model.base_url)
        server = await AgentServer.start(replace(spec, connect_ports=(routes.port,)), timeout=120)
        try:
            await start_servers(server.client, servers, urls, heard.emit)
            assert [draft.data for draft in heard.drafts] == ["MCP server tracker is ready"]
            agent = Agent(server, PromptSpec(MODEL), SystemClock())
            assert (await agent.run("ask-remote", heard.emit)).text == "Asked."
            conversation = json.dumps(await agent.export())
            places = [Path(f"/proc/{server.process.pid}/{name}").read_bytes() for name in ("environ", "cmdline")]
        finally:
            await server.stop(0.0)
        journal = json.dumps(await model.journal())
    assert guard.refused == 0
    assert {seen["x-team"] for seen in guard.seen} == {"web"}
    assert not [seen for seen in guard.seen if "cookie" in seen]
    results = [draft.data for draft in heard.drafts if draft.type is ChunkType.TOOL_RESULT]
    assert "You are [redacted]" in results[0]
    assert {TOKEN, f"Bearer {TOKEN}"} <= set(hidden)
    assert TOKEN not in conversation + journal
    assert not [place for place in places if TOKEN.encode() in place]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
