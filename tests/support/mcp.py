"""Real MCP servers for tests: one from npm, installed once, and one made with the protocol's own Python SDK.

The one from PyPI, `mcp_server_time`, is among the development packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support import npm


def everything_server() -> Path:
    """The `node_modules` of `@modelcontextprotocol/server-everything`, as its lock has it."""
    return npm.modules("mcp")


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
