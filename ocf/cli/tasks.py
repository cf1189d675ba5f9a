"""`ocf run, submit, status, watch, list, cancel, delete, reply, output, diff, token`: executions, over the gateway."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocf.cli import streams
from ocf.cli.common import PATIENCE, DataDir, JsonFlag, Project, copy, print_json, printable, run

if TYPE_CHECKING:
    from ocf.cli.gateway_client import Gateway

#: Exit status by how an execution ended; 0 only for completed.
EXIT = {"completed": 0, "failed": 1, "rejected": 2, "cancelled": 3, "timed_out": 4}
#: Exit status when the reader closed the pipe early, as a shell reports SIGPIPE.
_CLOSED_PIPE = 141

Execution = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
Prompt = Annotated[str, typer.Argument(help="Task of the agent; `-` reads it from standard input.")]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", exists=True, file_okay=False, help="Work on a copy of this local directory."),
]
Git = Annotated[str | None, typer.Option("--git", help="Work on a clone of this repository.")]
Ref = Annotated[str | None, typer.Option("--ref", help="Branch, tag or commit of --git.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="provider/model; else the operator's default.")]
Timeout = Annotated[int | None, typer.Option("--timeout", min=1, help="Seconds the run may take.")]
Session = Annotated[str | None, typer.Option("--session", help="Continue this session.")]
GiveUp = Annotated[
    float, typer.Option("--give-up", min=0, metavar="SECONDS", help="How long a gateway may be away; then exit 5.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", "-l", help="KEY=VALUE, may be repeated.")]


def run_(
    prompt: Prompt,
    directory: Dir = None,
    git: Git = None,
    ref: Ref = None,
    model: Model = None,
    timeout: Timeout = None,
    session: Session = None,
    label: Labels = None,
    give_up: GiveUp = PATIENCE,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Submit a task and follow it to its end. Exits 0 only when it completed.

    Exit status: 0 completed, 1 failed, 2 rejected, 3 cancelled, 4 timed out, 5 the gateway was away for longer than
    --give-up, 130 stopped following with Ctrl-C (the execution continues), 141 the output's reader closed the pipe.
    With --json every output chunk is one line, and the last line is the final status.
    """
    body = _body(prompt, directory, git, ref, model, timeout, session, label)

    async def work(gateway: Gateway) -> int:
        execution = await _submit(gateway, body)
        gateway.patience = give_up
        return await follow(gateway, execution, 1, json_output)

    with_gateway(work, project, data_dir)


def submit(
    prompt: Prompt,
    directory: Dir = None,
    git: Git = None,
    ref: Ref = None,
    model: Model = None,
    timeout: Timeout = None,
    session: Session = None,
    label: Labels = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Submit a task and print its id; `ocf watch ID` follows it."""
    body = _body(prompt, directory, git, ref, model, timeout, session, label)

    async def work(gateway: Gateway) -> int:
        execution = await _submit(gateway, body)
        if json_output:
            print_json({"execution_id": execution, "project_id": project, "status": "pending"})
        else:
            sys.stdout.write(f"{execution}\n")
        return 0

    with_gateway(work, project, data_dir)


def watch(
    execution: Execution,
    start: Annotated[int, typer.Option("--from", min=1, metavar="SEQ", help="First sequence to show.")] = 1,
    give_up: GiveUp = PATIENCE,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Follow an execution, from the start or from a sequence, to its end. Exits as `ocf run` does.

    While the gateway is away it reports that, retries, and continues where it was, without loss.
    """

    async def work(gateway: Gateway) -> int:
        gateway.patience = give_up
        return await follow(gateway, execution, start, json_output)

    with_gateway(work, project, data_dir)


def status(
    execution: Execution, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Show the state of an execution."""

    async def work(gateway: Gateway) -> int:
        found = await gateway.call("GET", f"/tasks/{execution}/status")
        if json_output:
            print_json(found)
            return 0
        from ocf.cli.render import attempts, ending

        screen = console()
        screen.print(ending(found), highlight=False)
        for name in ("title", "submitted_at", "started_at", "ended_at", "queue_position", "session_id", "result"):
            if found.get(name):
                screen.print(f"[dim]{name.replace('_', ' '):14}[/] {plain(found[name])}", highlight=False)
        for line in attempts(found.get("attempts") or []):
            screen.print(line, highlight=False)
        for changed in (found.get("diff") or {}).get("changed") or []:
            screen.print(f"[dim]{changed['change']:14}[/] {plain(changed['path'])}", highlight=False)
        if found.get("archived"):
            screen.print(f"[dim]archive[/]        {found['project_id']}/{execution}/", highlight=False)
        return 0

    with_gateway(work, project, data_dir)


def list_(
    state: Annotated[list[str] | None, typer.Option("--status", help="Only these states; may be repeated.")] = None,
    label: Labels = None,
    search: Annotated[str | None, typer.Option("--search", help="Part of the title.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 20,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """List executions of the project, newest first."""

    async def work(gateway: Gateway) -> int:
        page = await gateway.call("GET", "/tasks", status=state, label=label, q=search, limit=limit)
        if json_output:
            print_json(page["items"])
        elif page["items"]:
            from ocf.cli.render import task_list

            screen = console()
            screen.print(task_list(page["items"], screen.width))
        else:
            sys.stdout.write(f"no executions in project {project}\n")
        return 0

    with_gateway(work, project, data_dir)


def cancel(
    execution: Execution,
    why: Annotated[str | None, typer.Option("--why", help="Reason, stored in its record.")] = None,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Cancel an execution in any state."""
    answered(f"/tasks/{execution}/cancel", "POST", {"why": why} if why else None, project, data_dir, json_output)


def delete(
    execution: Execution, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Remove an execution completely: output, record, archive, workspace."""
    answered(f"/tasks/{execution}", "DELETE", None, project, data_dir, json_output)


def reply(
    execution: Execution,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Request id shown by `ocf watch`.")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="`once`, `always`, `reject`, or the answer.")],
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Answer a permission or a question of the agent."""
    answered(f"/tasks/{execution}/replies/{request}", "POST", {"answer": answer}, project, data_dir, json_output)


def output(
    execution: Execution,
    start: Annotated[int, typer.Option("--from", min=1, metavar="SEQ", help="First sequence.")] = 1,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Print the output so far as text; with --json one chunk per line. From the archive when the stream has expired."""
    form = "ndjson" if json_output else "text"
    _download(f"/tasks/{execution}/output", project, data_dir, format=form, **{"from": start})


def diff(
    execution: Execution,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Print the patch of the run's changes; with --json the list of changed files."""
    if json_output:
        answered(f"/tasks/{execution}/files", "GET", None, project, data_dir, json_output)

    async def work(gateway: Gateway) -> int:
        pieces = gateway.text(f"/tasks/{execution}/diff")
        if not sys.stdout.isatty():
            return await copy(pieces)
        from rich.syntax import Syntax

        patch = b"".join([piece async for piece in pieces]).decode(errors="replace")
        console().print(Syntax(printable(patch), "diff", background_color="default", word_wrap=True))
        return 0

    with_gateway(work, project, data_dir)


def token(
    execution: Execution, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Print short-lived credentials that may only watch this execution over NATS WebSocket."""
    answered(f"/tasks/{execution}/token", "POST", None, project, data_dir, json_output)


def _body(
    prompt: str,
    directory: Path | None,
    git: str | None,
    ref: str | None,
    model: str | None,
    timeout: int | None,
    session: str | None,
    labels: list[str] | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": _utf8(sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt))}
    body |= workspace(directory, git, ref)
    if model:
        provider, slash, name = model.partition("/")
        if not slash or not name:
            raise typer.BadParameter("--model is provider/model, for example anthropic/claude-sonnet-4-5")
        body["model_config"] = {"provider": provider, "model": name}
    if timeout:
        body["limits"] = {"timeout_seconds": timeout}
    if session:
        body["session_id"] = session
    return body | labelled(labels)


def _utf8(prompt: bytes) -> str:
    try:
        return prompt.decode("utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"PROMPT is not UTF-8 (byte {error.start})") from None


def workspace(directory: Path | None, git: str | None, ref: str | None) -> dict[str, Any]:
    """Return the request's `workspace` for --dir, --git and --ref, or nothing."""
    if directory and git:
        raise typer.BadParameter("--dir and --git exclude each other")
    if ref and not git:
        raise typer.BadParameter("--ref belongs to --git")
    if directory:
        return {"workspace": {"source": "directory", "path": str(directory.resolve())}}
    return {"workspace": {"source": "git", "url": git, **({"ref": ref} if ref else {})}} if git else {}


def labelled(labels: list[str] | None) -> dict[str, Any]:
    """Return the request's `labels`, or nothing."""
    if any("=" not in label for label in labels or []):
        raise typer.BadParameter("--label is KEY=VALUE")
    return {"labels": dict(label.split("=", 1) for label in labels)} if labels else {}


async def _submit(gateway: Gateway, body: dict[str, Any]) -> str:
    answer = await gateway.call("POST", "/tasks/execute", body={**body, "project_id": gateway.where.project})
    return str(answer["execution_id"])


async def follow(gateway: Gateway, execution: str, start: int, json_output: bool) -> int:
    """Show everything until the end; return the exit status for the final state."""
    import asyncio

    try:
        if json_output:
            async for chunk in gateway.chunks(execution, start):
                print_json(chunk)
        else:
            await _show(gateway, execution, start)
        final = await gateway.lasting(f"/tasks/{execution}/status")
    except BrokenPipeError:
        streams.discard()
        return _CLOSED_PIPE
    except asyncio.CancelledError:
        sys.stderr.write(f"\nocf: stopped following; it continues: ocf watch {execution} · ocf cancel {execution}\n")
        raise
    if json_output:
        print_json(final)
    else:
        from ocf.cli.render import ending

        console().print(ending(final), highlight=False)
    return EXIT.get(final["status"], 1)


async def _show(gateway: Gateway, execution: str, start: int) -> None:
    from ocf.cli.render import View

    screen = console()
    screen.print(f"[dim]execution {execution}[/]", highlight=False)
    with View(screen) as view:
        async for chunk in gateway.chunks(execution, start):
            view.show(chunk)
            if not view.model and (chunk.get("detail") or {}).get("state") == "running":
                found = await gateway.lasting(f"/tasks/{execution}/status")
                view.model = str(found.get("model") or "")


def answered(path: str, method: str, body: object, project: str, data_dir: Path | None, json_output: bool) -> None:
    """Make one call and print its answer."""

    async def work(gateway: Gateway) -> int:
        answer = await gateway.call(method, path, body=body)
        if json_output:
            print_json(answer)
        else:
            for name, value in (answer or {}).items():
                sys.stdout.write(f"{name:14} {printable(str(value))}\n")
        return 0

    with_gateway(work, project, data_dir)


def _download(path: str, project: str, data_dir: Path | None, **query: Any) -> None:
    async def work(gateway: Gateway) -> int:
        return await copy(gateway.text(path, **query))

    with_gateway(work, project, data_dir)


def with_gateway(work: Any, project: str, data_dir: Path | None) -> None:  # noqa: ANN401 - async callable
    """Run `work` with the gateway, and exit with its status."""
    from ocf.cli.gateway_client import connect, where

    async def connected() -> int:
        async with connect(lambda: where(project, data_dir)) as gateway:
            status: int = await work(gateway)
            return status

    run(connected())


def console() -> Any:  # noqa: ANN401 - rich is imported late
    """Return a console that keeps broken pipes as errors, 200 columns wide outside a terminal."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error itself: Rich would exit, and `ocf run` has a status for this

    screen = Screen()
    return screen if screen.is_terminal else Screen(width=200)


def plain(value: object) -> str:
    """Return a value as markup-free printable text."""
    from rich.markup import escape

    return escape(printable(str(value)))
