"""`ocf run, submit, status, watch, list, cancel, delete, reply, output, diff, token`: executions, over the gateway."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from ocf.cli import standard_streams
from ocf.cli.common import console, copy, fail, local_time, plain, print_json, printable
from ocf.cli.options.task import RERUN_OPTIONS, TASK_OPTIONS, task_body
from ocf.cli.verb import Call, Execution, verb
from ocf.events.client.pages import newest

if TYPE_CHECKING:
    from ocf.events.client.gateway import GatewayClient

#: Exit status by how an execution ended; 0 only for completed.
EXIT = {"completed": 0, "failed": 1, "rejected": 2, "cancelled": 3, "timed_out": 4}
#: Seconds that a gateway may be away before a following verb gives up, and the exit status then.
PATIENCE, GAVE_UP = 600.0, 5
#: Exit status when the reader closed the pipe early, as a shell reports SIGPIPE.
CLOSED_PIPE = 141

GiveUp = Annotated[
    float, typer.Option("--give-up", min=0, metavar="SECONDS", help="How long a gateway may be away; then exit 5.")
]
From = Annotated[int, typer.Option("--from", min=1, metavar="SEQ", help="First sequence to show.")]


@verb(TASK_OPTIONS, task_body)
async def run_(call: Call, give_up: GiveUp = PATIENCE) -> int:
    """Submit a task and follow it to its end. Exits 0 only when it completed.

    Exit status: 0 completed, 1 failed, 2 rejected, 3 cancelled, 4 timed out, 5 the gateway was away for longer than
    --give-up, 130 stopped following with Ctrl-C (the execution continues), 141 the output's reader closed the pipe.
    With --json every output chunk is one line, and the last line is the final status.
    """
    execution = await _submit(call)
    call.gateway.patience = give_up
    return await follow(call.gateway, execution, 1, call.json)


@verb(TASK_OPTIONS, task_body)
async def submit(call: Call) -> int:
    """Submit a task and print its id; `ocf watch ID` follows it."""
    execution = await _submit(call)
    if call.json:
        print_json({"execution_id": execution, "project_id": call.project, "status": "pending"})
    else:
        sys.stdout.write(f"{execution}\n")
    return 0


async def _submit(call: Call) -> str:
    answer = await call.gateway.call("POST", "/tasks/execute", body={**call.body, "project_id": call.project})
    return str(answer["execution_id"])


@verb(RERUN_OPTIONS)
async def rerun(call: Call, execution: Execution, give_up: GiveUp = PATIENCE) -> int:
    """Run an ended execution again from its recording, without key and cost, and follow it. Exits as `ocf run` does.

    Tools and sandbox are real, only the model's answers are the recorded ones. With `--until CALL --then live` the
    model goes on from there, with another prompt or model if you name one.
    """
    answer = await call.gateway.call("POST", f"/tasks/{execution}/rerun", body=call.body or None)
    call.gateway.patience = give_up
    return await follow(call.gateway, str(answer["execution_id"]), 1, call.json)


@verb()
async def watch(call: Call, execution: Execution, start: From = 1, give_up: GiveUp = PATIENCE) -> int:
    """Follow an execution, from the start or from a sequence, to its end. Exits as `ocf run` does.

    While the gateway is away it reports that, retries, and continues where it was, without loss.
    """
    call.gateway.patience = give_up
    return await follow(call.gateway, execution, start, call.json)


@verb()
async def status(call: Call, execution: Execution) -> int:
    """Show the state of an execution."""
    found = await call.gateway.call("GET", f"/tasks/{execution}/status")
    if call.json:
        print_json(found)
        return 0
    from ocf.cli.render import attempts, ending

    screen = console()
    screen.print(ending(found), highlight=False)
    for name in ("title", "submitted_at", "started_at", "ended_at", "queue_position", "session_id", "result"):
        if found.get(name):
            shown = local_time(found[name]) if name.endswith("_at") else plain(found[name])
            screen.print(f"[dim]{name.replace('_', ' '):14}[/] {shown}", highlight=False)
    published = {**found, "pull_request": (found.get("pull_request") or {}).get("url")}
    for name in ("branch", "commit", "pull_request", "result_message", "comment_url"):
        if published.get(name):
            screen.print(f"[dim]{name.replace('_', ' '):14}[/] {plain(published[name])}", highlight=False)
    if found.get("rerun_of"):
        screen.print(f"[dim]rerun of[/]       {plain(found['rerun_of'])}", highlight=False)
    for line in attempts(found.get("attempts") or []):
        screen.print(line, highlight=False)
    for changed in (found.get("diff") or {}).get("changed") or []:
        screen.print(f"[dim]{changed['change']:14}[/] {plain(changed['path'])}", highlight=False)
    if found.get("archived"):
        screen.print(f"[dim]archive[/]        {found['project_id']}/{execution}/", highlight=False)
    return 0


@verb()
async def list_(
    call: Call,
    state: Annotated[list[str] | None, typer.Option("--status", help="Only these states; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="KEY or KEY=VALUE; all of them.")] = None,
    search: Annotated[str | None, typer.Option("--search", help="Words of title and result.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
) -> int:
    """List executions of the project, newest first."""
    wanted = {"status": state, "label": label, "q": search}
    items, more = await newest(call.gateway, "/tasks", "execution_id", limit, **wanted)
    if call.json:
        print_json(items)
        return 0
    if not items:
        return call.none("executions")
    from ocf.cli.render import task_list

    screen = console()
    screen.print(task_list(items, screen.width))
    if more:
        screen.print(f"[dim]there are more:[/] add --limit {2 * limit}", highlight=False)
    return 0


@verb()
async def cancel(
    call: Call,
    execution: Execution,
    why: Annotated[str | None, typer.Option("--why", help="Reason, stored in its record.")] = None,
) -> int:
    """Cancel an execution in any state."""
    return await call.answer("POST", f"/tasks/{execution}/cancel", {"why": why} if why else None)


@verb()
async def delete(call: Call, execution: Execution) -> int:
    """Remove an execution completely: output, record, archive, workspace."""
    return await call.answer("DELETE", f"/tasks/{execution}")


@verb()
async def reply(
    call: Call,
    execution: Execution,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Request id shown by `ocf watch`.")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="`once`, `always`, `reject`, or the answer.")],
) -> int:
    """Answer a permission or a question of the agent."""
    return await call.answer("POST", f"/tasks/{execution}/replies/{request}", {"answer": answer})


@verb()
async def output(call: Call, execution: Execution, start: From = 1) -> int:
    """Print the output so far as text; with --json one chunk per line. From the archive when the stream has expired."""
    form = "ndjson" if call.json else "text"
    return await copy(call.gateway.download(f"/tasks/{execution}/output", format=form, **{"from": start}))


@verb()
async def diff(call: Call, execution: Execution) -> int:
    """Print the patch of the run's changes; with --json the list of changed files."""
    if call.json:
        return await call.answer("GET", f"/tasks/{execution}/files")
    pieces = call.gateway.download(f"/tasks/{execution}/diff")
    if not sys.stdout.isatty():
        return await copy(pieces)
    from rich.syntax import Syntax

    patch = b"".join([piece async for piece in pieces]).decode(errors="replace")
    console().print(Syntax(printable(patch), "diff", background_color="default"), soft_wrap=True)
    return 0


@verb()
async def token(call: Call, execution: Execution) -> int:
    """Print short-lived credentials that may only watch this execution over NATS WebSocket."""
    return await call.answer("POST", f"/tasks/{execution}/token")


result = typer.Typer(no_args_is_help=True, help="Branches and pull requests of executions.")


@result.command()
@verb()
async def push(call: Call, execution: Execution) -> int:
    """Push a refused result again, from the archive; `ocf status ID` shows the pull request."""
    return await call.answer("POST", f"/tasks/{execution}/result")


async def follow(gateway: GatewayClient, execution: str, start: int, json_output: bool) -> int:
    """Show everything until the end; return the exit status for the final state."""
    import asyncio

    from ocf.events.client.gateway_retry import GaveUp

    try:
        if json_output:
            async with aclosing(gateway.watch(execution, start)) as chunks:
                async for chunk in chunks:
                    print_json(chunk)
        else:
            await _show(gateway, execution, start)
        final = await gateway.lasting(f"/tasks/{execution}/status")
    except BrokenPipeError:
        standard_streams.discard()
        return CLOSED_PIPE
    except GaveUp as error:
        start = error.resume or start
        fail(f"{error}; continue with: ocf watch {execution} --from {start}", GAVE_UP)
    except asyncio.CancelledError:
        sys.stderr.write(f"\nocf: stopped following; it continues: ocf watch {execution} · ocf cancel {execution}\n")
        raise
    if json_output:
        print_json(final)
    else:
        from ocf.cli.render import ending

        console().print(ending(final), highlight=False)
    return EXIT.get(final["status"], 1)


async def _show(gateway: GatewayClient, execution: str, start: int) -> None:
    from ocf.cli.render import View

    screen = console()
    screen.print(f"[dim]execution {execution}[/]", highlight=False)
    with View(screen, lambda: gateway.disconnected) as view:
        async with aclosing(gateway.watch(execution, start)) as chunks:
            async for chunk in chunks:
                view.show(chunk)
                if not view.model and (chunk.get("detail") or {}).get("state") == "running":
                    found = await gateway.lasting(f"/tasks/{execution}/status")
                    view.model = str(found.get("model") or "")
