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
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who attaches; else the caller's name.")]

#: Seconds that a new session may take to be there; its function may have to start.
_PATIENCE = 60.0
_LOOK_EVERY = 1.0
#: Seconds after which a client says again that it is there: it counts for an hour.
_STAY_EVERY = 1_200.0


@app.command()
def create(
    directory: Dir = None,
    git: Git = None,
    ref: Ref = None,
    from_execution: Annotated[
        str | None, typer.Option("--from", metavar="EXECUTION", help="Continue this one.")
    ] = None,
    ttl: Annotated[int | None, typer.Option("--ttl", min=1, help="Seconds it is kept after its last use.")] = None,
    label: Labels = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Begin a session; `ocf run --session ID` works in it."""
    body: dict[str, Any] = {"project_id": project, **workspace(directory, git, ref), **labelled(label)}
    if from_execution:
        body["from_execution_id"] = from_execution
    if ttl:
        body["ttl_seconds"] = ttl

    async def work(gateway: Gateway) -> int:
        answer = await gateway.call("POST", "/sessions", body=body)
        if answer["status"] != "open":
            await _there(gateway, answer["session_id"])
            answer["status"] = "open"
        if json_output:
            print_json(answer)
        else:
            for name, value in answer.items():
                sys.stdout.write(f"{name:14} {value}\n")
        return 0

    with_gateway(work, project, data_dir)


async def _there(gateway: Gateway, session: str) -> None:
    from ocf.cli.gateway_client import CallFailed

    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    await gateway.call("GET", f"/sessions/{session}")
                    return
                except CallFailed as error:
                    if error.status != 404:
                        raise
                await asyncio.sleep(_LOOK_EVERY)
    fail(f"session {session} is not there yet; its command is kept: ocf session show {session}")


@app.command("list")
def list_(project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """The project's sessions, newest first."""

    async def work(gateway: Gateway) -> int:
        items = (await gateway.call("GET", "/sessions"))["items"]
        if json_output:
            print_json(items)
            return 0
        screen = console()
        for item in items:
            said = "  ".join(
                plain(item.get(name) or "") for name in ("session_id", "state", "created_at", "expires_at")
            )
            screen.print(said, highlight=False)
        return 0

    with_gateway(work, project, data_dir)


@app.command()
def show(
    session: Session, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """What is known of a session."""
    answered(f"/sessions/{session}", "GET", None, project, data_dir, json_output)


@app.command()
def attach(
    session: Session,
    client: As = None,
    following: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", help="Show its executions live, until left; default in a terminal."),
    ] = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Watch a session: every execution as it comes, live. Leaving (Ctrl-C) detaches; what runs, runs on.

    Follow-ups are sent with `ocf submit --session ID PROMPT`, from anywhere. Without a terminal, or with --no-follow,
    it only says that somebody watches, which keeps the session for an hour.
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
        await _say(gateway, session, "attach", name)
        staying = asyncio.create_task(_stay(gateway, session, name))
        sys.stderr.write(f"ocf: watching; a follow-up: ocf submit --session {session} PROMPT · Ctrl-C leaves\n")
        try:
            # What has ended before is not shown again.
            return await _watch(gateway, session, set(known["executions"]) - set(known["queue"]), json_output)
        finally:
            staying.cancel()
            await _say(gateway, session, "detach", name)

    with_gateway(work, project, data_dir)


async def _say(gateway: Gateway, session: str, verb: str, client: str) -> None:
    """Attach or detach; a session that is gone needs neither, and one whose gateway is away forgets who left."""
    from ocf.cli.gateway_client import CallFailed, Unreachable

    try:
        await gateway.call("POST", f"/sessions/{session}/{verb}", body={"client_id": client})
    except Unreachable:
        if verb == "attach":
            raise
    except CallFailed as error:
        if error.status != 404:
            raise


async def _stay(gateway: Gateway, session: str, client: str) -> None:
    from ocf.cli.gateway_client import CallFailed

    while True:
        await asyncio.sleep(_STAY_EVERY)
        with suppress(CallFailed):  # the next time is early enough
            await _say(gateway, session, "attach", client)


async def _watch(gateway: Gateway, session: str, shown: set[str], json_output: bool) -> int:
    """Show each execution to its end, one after the other, until the session is gone."""
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
            await asyncio.sleep(_LOOK_EVERY)


async def _exists(gateway: Gateway, session: str) -> bool:
    """A 404 may also be that of an execution which was deleted."""
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
    """Say that somebody has left; the session stays."""
    body = {"client_id": client} if client else None
    answered(f"/sessions/{session}/detach", "POST", body, project, data_dir, json_output)


@app.command()
def destroy(
    session: Session, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Remove every trace of a session."""
    answered(f"/sessions/{session}", "DELETE", None, project, data_dir, json_output)
