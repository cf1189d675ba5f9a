"""`ocf dlq ...`: events that could not be handled, over the gateway."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ocf.cli.common import console, local_time, plain, print_json
from ocf.cli.verb import Call, verb

app = typer.Typer(no_args_is_help=True, help="Events that could not be handled, each with the reason.")

Letter = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Sequence shown by `ocf dlq list`.")]


@app.command("list")
@verb()
async def list_(
    call: Call,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 50,
    after: Annotated[int, typer.Option("--after", min=0, metavar="SEQ", help="Only dead letters after this one.")] = 0,
) -> int:
    """List dead letters, oldest first."""
    page = await call.gateway.call("GET", "/dlq", limit=limit, after=after)
    items = page["items"]
    if call.json:
        print_json(items)
        return 0
    if not items:
        sys.stdout.write("no dead letters\n")
        return 0
    screen = console()
    for item in items:
        where = f"[cyan]{plain(item['consumer'])}[/]  {plain(item['subject'])}"
        screen.print(f"[bold]{item['seq']}[/]  {local_time(item['failed_at'])}  {where}", highlight=False)
        screen.print(f"   [red]{plain(item['reason'])}[/]", highlight=False)
    if page.get("next"):
        screen.print(f"[dim]there are more:[/] ocf dlq list --after {page['next']}", highlight=False)
    return 0


@app.command()
@verb()
async def show(call: Call, letter: Letter) -> int:
    """Show one dead letter with the event's data."""
    return await call.answer("GET", f"/dlq/{letter}")


@app.command()
@verb()
async def redrive(call: Call, letter: Letter) -> int:
    """Publish the event again and drop the dead letter. A fact goes only to the consumer that failed."""
    return await call.answer("POST", f"/dlq/{letter}/redrive")


@app.command()
@verb()
async def drop(call: Call, letter: Letter) -> int:
    """Drop a dead letter for good."""
    return await call.answer("DELETE", f"/dlq/{letter}")
