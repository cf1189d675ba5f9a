"""`ocf session ...`: conversations that outlive one execution, over the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from functions.cli.common import DataDir, JsonFlag, Project, print_json
from functions.cli.tasks import Dir, Git, Labels, Ref, answered, console, labelled, plain, with_gateway, workspace

if TYPE_CHECKING:
    from functions.cli.gateway import Gateway

app = typer.Typer(no_args_is_help=True, help="Conversations with a workspace that outlive one execution.")

Session = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who attaches; else the caller's name.")]


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
    answered("/sessions", "POST", body, project, data_dir, json_output)


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
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Say that somebody watches and may send follow-ups."""
    body = {"client_id": client} if client else None
    answered(f"/sessions/{session}/attach", "POST", body, project, data_dir, json_output)


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
