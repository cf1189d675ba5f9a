"""`ocf replay ID`: replays a run, shows its events, posts its commands to a debugger."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocf.cli.common import console, plain, print_json, printable
from ocf.cli.verb import Call, Execution, verb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocf.events.client.gateway import GatewayClient
    from ocf.events.envelope import Event

#: Commands to a running execution: posted without waiting for the previous answer.
_MEANWHILE = ("dev.ocf.task.cancel.v1", "dev.ocf.task.reply.v1")
_LONGEST_GAP = 10.0

Speed = Annotated[
    float, typer.Option("--speed", min=0, help="1 is the original pace, 10 ten times faster, 0 everything at once.")
]


@verb()
async def replay(
    call: Call,
    execution: Execution,
    speed: Speed = 1.0,
    max_pause: Annotated[float, typer.Option("--max-pause", min=0, help="Longest silence, in seconds.")] = 2.0,
    events: Annotated[bool, typer.Option("--events", help="Show every event and its cause instead.")] = False,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="Post its command events, byte for byte, to a function.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="With --to: submit, execute, cancel ...")] = None,
) -> int:
    """Replay an execution's recorded output at its own pace. From the archive when the stream has expired.

    With --to, start the function with DRY_RUN=1 (docs/how-to/replay-executions.md): it then changes nothing real.
    """
    if to is not None:
        found = await _events(call.gateway, execution)
        return await _post(found, (call.project, execution), to, only, call.json)
    if events:
        return await _show_events(call.gateway, execution, call.json)
    return await _output(call.gateway, execution, speed, max_pause, call.json)


async def _output(gateway: GatewayClient, execution: str, speed: float, max_pause: float, json_output: bool) -> int:
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


async def _lines(gateway: GatewayClient, execution: str) -> list[bytes]:
    text = b"".join([piece async for piece in gateway.download(f"/tasks/{execution}/events")])
    return text.splitlines()


async def _events(gateway: GatewayClient, execution: str) -> list[Event]:
    """Return all of its events, oldest first; lines that are not events are left out."""
    from ocf.events.envelope import of_line
    from ocf.events.errors import InvalidEvent

    found = []
    for line in await _lines(gateway, execution):
        try:
            found.append(of_line(line))
        except InvalidEvent as error:
            sys.stderr.write(f"ocf: left out: {printable(str(error))}\n")
    return found


async def _show_events(gateway: GatewayClient, execution: str, json_output: bool) -> int:
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
    return plain(str(event.extensions.get("correlationid", "none"))[:8])


def _short(event: Event) -> str:
    return event.type.removeprefix("dev.ocf.").removesuffix(".v1")


async def _post(events: list[Event], of: tuple[str, str], url: str, only: list[str] | None, json_output: bool) -> int:
    """Post the commands of an execution (project, id) in order, each after the previous answer.

    Returns:
        0 when all were accepted, else 1.
    """
    import asyncio

    import httpx2

    from ocf.events.event_types import TYPES

    commands = [e for e in events if e.type in TYPES and TYPES[e.type].subject_template.startswith("ocf.cmd.")]
    if only:
        commands = [event for event in commands if _short(event).removeprefix("task.") in only]
    posts: list[asyncio.Task[bool]] = []
    # No time limit: a debugger may hold a request for as long as its user needs.
    async with httpx2.AsyncClient(timeout=None, trust_env=False) as http:
        for number, event in enumerate(commands):
            if posts and event.type in _MEANWHILE:
                gap = (event.time - commands[number - 1].time).total_seconds()
                await asyncio.wait(posts, timeout=min(max(0.0, gap), _LONGEST_GAP))
            elif posts:
                await asyncio.wait(posts)
            posts.append(asyncio.create_task(_post_one(http, url, event, of, json_output)))
        return 0 if all(await asyncio.gather(*posts)) else 1


async def _post_one(
    http: Any,  # noqa: ANN401 - httpx2 comes late
    url: str,
    event: Event,
    of: tuple[str, str],
    json_output: bool,
) -> bool:
    import httpx2

    from ocf.events.event_types import TYPES

    # From the requested ids: an event need not name its subject, and large data is not in it.
    headers = event.with_extensions(natssubject=TYPES[event.type].subject(*of)).http_headers()
    try:
        answer = await http.post(url, content=event.data, headers=headers)
        status, text = answer.status_code, answer.text[:500]
    except httpx2.TransportError as error:
        status, text = 0, str(error) or type(error).__name__
    if json_output:
        print_json({"type": event.type, "id": event.id, "status": status, "answer": text})
    else:
        console().print(f"{plain(_short(event)):20} {status or 'no answer'}  [dim]{plain(text)}[/]", highlight=False)
    return bool(200 <= status < 300)
