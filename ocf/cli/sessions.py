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

from ocf.cli.common import DataDir, JsonFlag, Project, fail, print_json
from ocf.cli.tasks import Dir, Git, Labels, Ref, answered, console, follow, labelled, plain, with_gateway, workspace

if TYPE_CHECKING:
    from ocf.cli.gateway_client import Gateway

app = typer.Typer(no_args_is_help=True, help="Conversations with a workspace that outlive one execution.")

Session = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name of the client; default: the caller's name.")]

#: Seconds to wait for a new session; its function may have to start first.
_CREATE_SECONDS = 60.0
_POLL_SECONDS = 1.0
#: Seconds between two attach calls of a client; one counts for an hour.
_REATTACH_SECONDS = 1_200.0


@app.command()
def create(
    directory: Dir = None,
    git: Git = None,
    ref: Ref = None,
    from_execution: Annotated[
        str | None, typer.Option("--from", metavar="EXECUTION", help="Continue this execution.")
    ] = None,
    ttl: Annotated[
        int | None, typer.Option("--ttl", min=1, help="Seconds until it expires after its last use.")
    ] = None,
    label: Labels = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Create a session; `ocf run --session ID` works in it."""
    body: dict[str, Any] = {"project_id": project, **workspace(directory, git, ref), **labelled(label)}
    if from_execution:
        body["from_execution_id"] = from_execution
    if ttl:
        body["ttl_seconds"] = ttl

    async def work(gateway: Gateway) -> int:
        answer = await gateway.call("POST", "/sessions", body=body)
        if answer["status"] != "open":
            await _wait_exists(gateway, answer["session_id"])
            answer["status"] = "open"
        if json_output:
            print_json(answer)
        else:
            for name, value in answer.items():
                sys.stdout.write(f"{name:14} {value}\n")
        return 0

    with_gateway(work, project, data_dir)


async def _wait_exists(gateway: Gateway, session: str) -> None:
    from ocf.cli.gateway_client import CallFailed

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
def list_(project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """List the project's sessions, newest first."""

    async def work(gateway: Gateway) -> int:
        items = (await gateway.call("GET", "/sessions"))["items"]
        if json_output:
            print_json(items)
            return 0
        screen = console()
        for item in items:
            line = "  ".join(
                plain(item.get(name) or "") for name in ("session_id", "state", "created_at", "expires_at")
            )
            screen.print(line, highlight=False)
        return 0

    with_gateway(work, project, data_dir)


@app.command()
def show(
    session: Session, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Show a session."""
    answered(f"/sessions/{session}", "GET", None, project, data_dir, json_output)


@app.command()
def attach(
    session: Session,
    client: As = None,
    following: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", help="Show its executions live until Ctrl-C; default in a terminal."),
    ] = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Watch a session: every execution live, as it starts. Ctrl-C detaches; executions continue.

    Send follow-ups with `ocf submit --session ID PROMPT`, from anywhere. Without a terminal, or with --no-follow, it
    only attaches, which preserves the session for an hour.
    """
    if following is None:
        following = sys.stdout.isatty() and not json_output
    if not following:
        body = {"client_id": client} if client else None
        answered(f"/sessions/{session}/attach", "POST", body, project, data_dir, json_output)
    name = client or f"ocf {os.getpid()} on {socket.gethostname()}"

    async def work(gateway: Gateway) -> int:
        gateway.patience = math.inf
        known = await gateway.call("GET", f"/sessions/{session}")
        await _attach_or_detach(gateway, session, "attach", name)
        staying = asyncio.create_task(_reattach(gateway, session, name))
        sys.stderr.write(f"ocf: watching; a follow-up: ocf submit --session {session} PROMPT · Ctrl-C leaves\n")
        try:
            # Executions that ended earlier are not shown.
            return await _watch(gateway, session, set(known["executions"]) - set(known["queue"]), json_output)
        finally:
            staying.cancel()
            await _attach_or_detach(gateway, session, "detach", name)

    with_gateway(work, project, data_dir)


async def _attach_or_detach(gateway: Gateway, session: str, verb: str, client: str) -> None:
    """Attach or detach. A missing session is ignored, and so is an unreachable gateway on detach."""
    from ocf.cli.gateway_client import CallFailed, Unreachable

    try:
        await gateway.call("POST", f"/sessions/{session}/{verb}", body={"client_id": client})
    except Unreachable:
        if verb == "attach":
            raise
    except CallFailed as error:
        if error.status != 404:
            raise


async def _reattach(gateway: Gateway, session: str, client: str) -> None:
    from ocf.cli.gateway_client import CallFailed

    while True:
        await asyncio.sleep(_REATTACH_SECONDS)
        with suppress(CallFailed):  # the next attach is early enough
            await _attach_or_detach(gateway, session, "attach", client)


async def _watch(gateway: Gateway, session: str, shown: set[str], json_output: bool) -> int:
    """Show each execution to its end, one after the other, until the session is destroyed."""
    from ocf.cli.gateway_client import CallFailed

    while True:
        try:
            found = await gateway.lasting(f"/sessions/{session}")
            new = [execution for execution in found["executions"] if execution not in shown]
            for execution in new:
                shown.add(execution)
                await follow(gateway, execution, 1, json_output)
        except CallFailed as error:
            if error.status != 404:
                raise
            new = []
            if not await _exists(gateway, session):
                sys.stderr.write(f"ocf: session {session} is gone\n")
                return 0
        if not new:
            await asyncio.sleep(_POLL_SECONDS)


async def _exists(gateway: Gateway, session: str) -> bool:
    """Return whether the session exists: the 404 may be that of a deleted execution."""
    from ocf.cli.gateway_client import CallFailed

    try:
        await gateway.lasting(f"/sessions/{session}")
    except CallFailed as error:
        if error.status != 404:
            raise
        return False
    return True


@app.command()
def detach(
    session: Session,
    client: As = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Detach a client; the session stays."""
    body = {"client_id": client} if client else None
    answered(f"/sessions/{session}/detach", "POST", body, project, data_dir, json_output)


@app.command()
def destroy(
    session: Session, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Remove a session and all of its data."""
    answered(f"/sessions/{session}", "DELETE", None, project, data_dir, json_output)
