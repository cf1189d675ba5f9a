"""`ocf session ...`: conversations that outlive one execution, over the gateway."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocf.cli.common import console, fail, plain, print_json
from ocf.cli.options.task import SESSION_OPTIONS, session_body
from ocf.cli.tasks import CLOSED_PIPE, follow
from ocf.cli.verb import Call, Session, verb
from ocf.events.client.pages import newest

if TYPE_CHECKING:
    from ocf.events.client.gateway import GatewayClient

app = typer.Typer(no_args_is_help=True, help="Conversations with a workspace that outlive one execution.")

As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name of the client; default: the caller's name.")]

#: Seconds to wait for a new session; its function may have to start first.
_CREATE_SECONDS = 60.0
_POLL_SECONDS = 1.0
#: Columns of a list, by field.
_COLUMNS = {"state": "state", "created_at": "created", "expires_at": "expires"}
#: Seconds between two attach calls of a client; one counts for an hour.
_REATTACH_SECONDS = 1_200.0


@app.command()
@verb(SESSION_OPTIONS, session_body)
async def create(call: Call) -> int:
    """Create a session; `ocf run --session ID` works in it."""
    answer = await call.gateway.call("POST", "/sessions", body={**call.body, "project_id": call.project})
    if answer["status"] != "open":
        await _wait_exists(call.gateway, answer["session_id"])
        answer["status"] = "open"
    return call.show(answer)


async def _wait_exists(gateway: GatewayClient, session: str) -> None:
    from ocf.events.client.gateway_retry import CallFailed

    with suppress(TimeoutError):
        async with asyncio.timeout(_CREATE_SECONDS):
            while True:
                try:
                    await gateway.call("GET", f"/sessions/{session}")
                    return
                except CallFailed as error:
                    if error.status != 404:
                        raise
                await asyncio.sleep(_POLL_SECONDS)
    fail(f"session {session} does not exist yet; its command is stored: ocf session show {session}")


@app.command("list")
@verb()
async def list_(
    call: Call,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, show_default="all", help="The newest ones.")
    ] = None,
) -> int:
    """List the project's sessions, newest first."""
    items, more = await newest(call.gateway, "/sessions", "session_id", limit)
    if call.json:
        print_json(items)
        return 0
    if not items:
        return call.none("sessions")
    from ocf.cli.render import listing, time_cell

    screen = console()

    def cell(item: dict[str, Any], name: str) -> str:
        text = str(item.get(name) or "")
        return plain(time_cell(text, screen.width) if text and name.endswith("_at") else text)

    rows = [("·", *(cell(item, name) for name in ("session_id", *_COLUMNS))) for item in items]
    screen.print(listing(("ID", *_COLUMNS.values()), rows, screen.width))
    if more:
        screen.print("[dim]there are more:[/] leave out --limit", highlight=False)
    return 0


@app.command()
@verb()
async def show(call: Call, session: Session) -> int:
    """Show a session."""
    return await call.answer("GET", f"/sessions/{session}")


@app.command()
@verb()
async def attach(
    call: Call,
    session: Session,
    client: As = None,
    following: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", help="Show its executions live until Ctrl-C; default in a terminal."),
    ] = None,
) -> int:
    """Watch a session: every execution live, as it starts. Ctrl-C detaches; executions continue.

    Send follow-ups with `ocf submit --session ID PROMPT`, from anywhere. Without a terminal, or with --no-follow, it
    only attaches, which preserves the session for an hour.
    """
    if following is None:
        following = sys.stdout.isatty() and not call.json
    if not following:
        return await call.answer("POST", f"/sessions/{session}/attach", {"client_id": client} if client else None)
    name = client or f"ocf {os.getpid()} on {socket.gethostname()}"
    gateway = call.gateway
    gateway.patience = math.inf
    known = await gateway.call("GET", f"/sessions/{session}")
    await _attach_or_detach(gateway, session, "attach", name)
    staying = asyncio.create_task(_reattach(gateway, session, name))
    sys.stderr.write(f"ocf: watching; a follow-up: ocf submit --session {session} PROMPT · Ctrl-C leaves\n")
    try:
        # Executions that ended earlier are not shown.
        return await _watch(gateway, session, set(known["executions"]) - set(known["queue"]), call.json)
    finally:
        staying.cancel()
        await _attach_or_detach(gateway, session, "detach", name)


async def _attach_or_detach(gateway: GatewayClient, session: str, verb: str, client: str) -> None:
    """Attach or detach. A missing session is ignored, and so is an unreachable gateway on detach."""
    from ocf.events.client.gateway_retry import CallFailed, Unreachable

    try:
        await gateway.call("POST", f"/sessions/{session}/{verb}", body={"client_id": client})
    except Unreachable:
        if verb == "attach":
            raise
    except CallFailed as error:
        if error.status != 404:
            raise


async def _reattach(gateway: GatewayClient, session: str, client: str) -> None:
    from ocf.events.client.gateway_retry import CallFailed

    while True:
        await asyncio.sleep(_REATTACH_SECONDS)
        with suppress(CallFailed):  # the next attach is early enough
            await _attach_or_detach(gateway, session, "attach", client)


async def _watch(gateway: GatewayClient, session: str, shown: set[str], json_output: bool) -> int:
    """Show each execution to its end, one after the other, until the session is destroyed or nobody reads."""
    from ocf.events.client.gateway_retry import CallFailed

    while True:
        try:
            found = await gateway.lasting(f"/sessions/{session}")
            new = [execution for execution in found["executions"] if execution not in shown]
            for execution in new:
                shown.add(execution)
                if await follow(gateway, execution, 1, json_output) == CLOSED_PIPE:
                    return CLOSED_PIPE
        except CallFailed as error:
            if error.status != 404:
                raise
            new = []
            if not await _exists(gateway, session):
                sys.stderr.write(f"ocf: session {session} is gone\n")
                return 0
        if not new:
            await asyncio.sleep(_POLL_SECONDS)


async def _exists(gateway: GatewayClient, session: str) -> bool:
    """Return whether the session exists: the 404 may be that of a deleted execution."""
    from ocf.events.client.gateway_retry import CallFailed

    try:
        await gateway.lasting(f"/sessions/{session}")
    except CallFailed as error:
        if error.status != 404:
            raise
        return False
    return True


@app.command()
@verb()
async def detach(call: Call, session: Session, client: As = None) -> int:
    """Detach a client; the session stays."""
    return await call.answer("POST", f"/sessions/{session}/detach", {"client_id": client} if client else None)


@app.command()
@verb()
async def destroy(call: Call, session: Session) -> int:
    """Remove a session and all of its data."""
    return await call.answer("DELETE", f"/sessions/{session}")
