"""`ocf replay ID`: a run played again, its events, its commands for a debugger, two runs compared."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocf.cli.common import DataDir, JsonFlag, Project, print_json
from ocf.cli.tasks import Execution, console, plain, with_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocf.cli.gateway_client import Gateway
    from ocf.events.envelope import Event

#: Commands that reach a run while it lasts: they do not wait for the answer of the one before.
_MEANWHILE = ("dev.ocf.task.cancel.v1", "dev.ocf.task.reply.v1")
_LONGEST_GAP = 10.0

Speed = Annotated[
    float, typer.Option("--speed", min=0, help="1 is as it was, 10 ten times faster, 0 is all of it at once.")
]


def replay(
    execution: Execution,
    other: Annotated[str | None, typer.Argument(metavar="[ID2]", help="The second run, for --diff.")] = None,
    speed: Speed = 1.0,
    max_pause: Annotated[float, typer.Option("--max-pause", min=0, help="No silence lasts longer, in seconds.")] = 2.0,
    events: Annotated[bool, typer.Option("--events", help="Show every event instead, and what caused it.")] = False,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="Post its command events, byte for byte, to a function.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="With --to: submit, execute, cancel ...")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show where ID and ID2 part; exits 1 when they do.")] = False,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Play an execution's recorded output again, at its own pace. From the archive when the stream has ended.

    With --to, start the function with DRY_RUN=1 (docs/how-to/replay-executions.md): nothing real is touched.
    """
    if diff and other is None:
        raise typer.BadParameter("--diff takes two executions")

    async def work(gateway: Gateway) -> int:
        if diff and other is not None:
            return await _compare(gateway, execution, other, json_output)
        if to is not None:
            found = await _events(gateway, execution)
            return await _post(found, (gateway.where.project, execution), to, only, json_output)
        if events:
            return await _show_events(gateway, execution, json_output)
        return await _output(gateway, execution, speed, max_pause, json_output)

    with_gateway(work, project, data_dir)


async def _output(gateway: Gateway, execution: str, speed: float, max_pause: float, json_output: bool) -> int:
    recorded = gateway.recorded(execution)
    if json_output:
        async for chunk in recorded:
            print_json(chunk)
        return 0
    from ocf.cli.render import ending

    await _play(recorded, speed, max_pause)
    console().print(ending(await gateway.call("GET", f"/tasks/{execution}/status")), highlight=False)
    return 0


async def _play(recorded: AsyncIterator[dict[str, Any]], speed: float, max_pause: float) -> None:
    import asyncio
    from datetime import datetime

    from ocf.cli.render import View

    before: datetime | None = None
    with View(console()) as view:
        async for chunk in recorded:
            at = datetime.fromisoformat(chunk["timestamp"])
            if before is not None and speed:
                await asyncio.sleep(min(max(0.0, (at - before).total_seconds() / speed), max_pause))
            before = at
            view.show(chunk)


async def _lines(gateway: Gateway, execution: str) -> list[bytes]:
    said = b"".join([piece async for piece in gateway.text(f"/tasks/{execution}/events")])
    return said.splitlines()


async def _events(gateway: Gateway, execution: str) -> list[Event]:
    """Every event of it, oldest first; what was no event is left out."""
    from ocf.events.envelope import of_line
    from ocf.events.errors import InvalidEvent

    found = []
    for line in await _lines(gateway, execution):
        try:
            found.append(of_line(line))
        except InvalidEvent as error:
            sys.stderr.write(f"ocf: left out: {error}\n")
    return found


async def _show_events(gateway: Gateway, execution: str, json_output: bool) -> int:
    if json_output:
        for line in await _lines(gateway, execution):
            sys.stdout.buffer.write(line + b"\n")
        return 0
    found = await _events(gateway, execution)
    names = {event.id: _short(event) for event in found}
    screen = console()
    for event in found:
        seconds = (event.time - found[0].time).total_seconds()
        cause = event.extensions.get("causationid")
        why = f"  [dim]because of[/] {plain(names.get(cause, cause))}" if cause else ""
        about = f"[dim]{plain(event.id[:8])} by {plain(event.source)} · correlation {_correlation(event)}[/]"
        screen.print(f"[cyan]{seconds:+9.3f} s[/]  [bold]{plain(_short(event)):20}[/] {about}{why}", highlight=False)
    return 0


def _correlation(event: Event) -> str:
    return plain(event.extensions.get("correlationid", "none"))[:8]


def _short(event: Event) -> str:
    return event.type.removeprefix("dev.ocf.").removesuffix(".v1")


async def _post(events: list[Event], of: tuple[str, str], url: str, only: list[str] | None, json_output: bool) -> int:
    """Post the commands of an execution (project, id) in order, each once the one before is answered; 0: all taken."""
    import asyncio

    import httpx

    from ocf.events.event_types import TYPES

    commands = [e for e in events if e.type in TYPES and TYPES[e.type].subject_template.startswith("ocf.cmd.")]
    if only:
        commands = [event for event in commands if _short(event).removeprefix("task.") in only]
    posts: list[asyncio.Task[bool]] = []
    # No time limit: a debugger holds a request for as long as somebody thinks.
    async with httpx.AsyncClient(timeout=None, trust_env=False) as http:  # noqa: S113
        for number, event in enumerate(commands):
            if posts and event.type in _MEANWHILE:
                gap = (event.time - commands[number - 1].time).total_seconds()
                await asyncio.wait(posts, timeout=min(max(0.0, gap), _LONGEST_GAP))
            elif posts:
                await asyncio.wait(posts)
            posts.append(asyncio.create_task(_post_one(http, url, event, of, json_output)))
        return 0 if all(await asyncio.gather(*posts)) else 1


async def _post_one(
    http: Any,  # noqa: ANN401 - httpx comes late
    url: str,
    event: Event,
    of: tuple[str, str],
    json_output: bool,
) -> bool:
    import httpx

    from ocf.events.event_types import TYPES

    # By what was asked for: an event need not name its subject, and large data are not in it.
    headers = event.with_extensions(natssubject=TYPES[event.type].subject(*of)).http_headers()
    try:
        answer = await http.post(url, content=event.data, headers=headers)
        status, said = answer.status_code, answer.text[:500]
    except httpx.TransportError as error:
        status, said = 0, str(error) or type(error).__name__
    if json_output:
        print_json({"type": event.type, "id": event.id, "status": status, "answer": said})
    else:
        console().print(f"{_short(event):20} {status or 'no answer'}  [dim]{plain(said)}[/]", highlight=False)
    return bool(200 <= status < 300)


async def _compare(gateway: Gateway, first: str, second: str, json_output: bool) -> int:
    from ocf.cli.replay_compare import Parting, parting, steps

    runs = [steps([chunk async for chunk in gateway.recorded(one)]) for one in (first, second)]
    found: Parting = parting(*runs)
    if json_output:
        print_json({"same": found.same, "common_steps": found.common, "a": found.a, "b": found.b})
        return 0 if found.same else 1
    screen = console()
    if found.same:
        screen.print(f"the same, in all {found.common} steps", highlight=False)
        return 0
    screen.print(f"the same for {found.common} steps, then:", highlight=False)
    for line in found.lines:
        style = {"-": "red", "+": "green"}.get(line[:1], "dim")
        screen.print(f"[{style}]{plain(line)}[/]", highlight=False, soft_wrap=True)
    return 1
