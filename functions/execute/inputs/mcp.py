"""MCP servers of a task: added to a running OpenCode server before the first prompt.

A local server is a process of the agent's sandbox, in the workspace. A remote one is reached through a loopback route
that adds its headers. A server that does not start is reported, and the run goes on without its
tools.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from ocf.events.base_model import Sealed
from ocf.events.errors import OcfError
from ocf.events.optional_task_fields import HEADER_VALUE, LocalMcp, RemoteMcp
from ocf.events.output import Draft, status_draft
from ocf.events.redaction import MIN_SECRET, Redactor
from ocf.functions.execute.agent.opencode_api import OpenCode, OpenCodeError
from ocf.functions.execute.secret_routes import Route

START_SECONDS = 60.0
#: For OpenCode it is the limit of a start and of each tool call.
_CALL_MILLISECONDS = 300_000
#: Those of Streamable HTTP.
_METHODS = ("GET", "POST", "DELETE")


class InvalidHeader(OcfError):
    """A header of a remote server cannot be used."""


def remote_routes(
    servers: Mapping[str, LocalMcp | RemoteMcp], opened: Callable[[Sealed], str], hide: Callable[[str], None]
) -> dict[str, Route]:
    """Return the routes to the remote servers by their names.

    Args:
        servers: of the task.
        opened: opens a sealed header.
        hide: gets every secret.

    Raises:
        SealError: a header cannot be opened.
        InvalidHeader: a header cannot be sent, or is too short to be redacted.
    """
    routes = {}
    for name, server in servers.items():
        if isinstance(server, RemoteMcp):
            secrets: list[str] = []
            headers = {header: _header(value, opened, secrets) for header, value in server.headers.items()}
            for secret in secrets:
                hide(secret)
            # Its own URL and nothing below. No secret's name has a hyphen, so the two kinds share one server.
            routes[name] = Route(f"mcp-{name}", server.url, headers, Redactor(secrets), _METHODS, ("/",))
    return routes


def _header(value: str | Sealed, opened: Callable[[Sealed], str], secrets: list[str]) -> str:
    if isinstance(value, str):
        return value
    text = opened(value)
    # Of `Bearer TOKEN` the token alone is the secret.
    token = text.rpartition(" ")[2]
    if re.fullmatch(HEADER_VALUE, text) is None or len(token) < MIN_SECRET:
        raise InvalidHeader(f"a sealed value must be visible ASCII, and its secret at least {MIN_SECRET} characters")
    secrets += [text, token]
    return text


async def start_servers(
    client: OpenCode,
    servers: Mapping[str, LocalMcp | RemoteMcp],
    routes: Mapping[str, str],
    emit: Callable[[Draft], Awaitable[None]],
    seconds: float = START_SECONDS,
) -> None:
    """Start the servers at once and report each in the output.

    Args:
        client: OpenCode's API.
        servers: of the task.
        routes: loopback URLs of the remote ones.
        emit: publishes a draft.
        seconds: limit of a start.
    """

    async def start(name: str, server: LocalMcp | RemoteMcp) -> None:
        failure = await _started(client, name, _config(server, routes.get(name, "")), seconds)
        text = "is ready" if failure is None else f"did not start: {failure}; its tools are missing"
        await emit(status_draft(f"MCP server {name} {text}", "agent"))

    await asyncio.gather(*(start(name, server) for name, server in servers.items()))


async def _started(client: OpenCode, name: str, config: Mapping[str, object], seconds: float) -> str | None:
    try:
        async with asyncio.timeout(seconds):
            return await client.add_mcp(name, config)
    except TimeoutError:
        failure = f"no answer within {seconds:g} s"
    except OpenCodeError as error:
        failure = str(error)
    with suppress(OpenCodeError):  # it may not have got so far
        await client.remove_mcp(name)
    return failure


def _config(server: LocalMcp | RemoteMcp, url: str) -> dict[str, object]:
    if isinstance(server, LocalMcp):
        given: dict[str, object] = {"command": list(server.command), "environment": dict(server.env)}
    else:
        # Its headers are added on the way; OpenCode would look for a login of its own.
        given = {"url": url, "oauth": False}
    return {"type": server.type, **given, "enabled": True, "timeout": _CALL_MILLISECONDS}
