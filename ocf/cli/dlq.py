"""`ocf dlq ...`: events that could not be handled, over the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ocf.cli.common import DataDir, JsonFlag, Project, print_json
from ocf.cli.tasks import answered, console, plain, with_gateway

if TYPE_CHECKING:
    from ocf.cli.gateway_client import Gateway

app = typer.Typer(no_args_is_help=True, help="Events that could not be handled, each with the reason.")

Letter = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Sequence shown by `ocf dlq list`.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500)] = 50,
    after: Annotated[int, typer.Option("--after", min=0, metavar="SEQ", help="Only dead letters after this one.")] = 0,
    project: Project = "default",
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """List dead letters, oldest first."""

    async def work(gateway: Gateway) -> int:
        page = await gateway.call("GET", "/dlq", limit=limit, after=after)
        items = page["items"]
        if json_output:
            print_json(items)
            return 0
        screen = console()
        for item in items:
            where = f"[cyan]{plain(item['consumer'])}[/]  {plain(item['subject'])}"
            screen.print(f"[bold]{item['seq']}[/]  {item['failed_at'][:19]}  {where}", highlight=False)
            screen.print(f"   [red]{plain(item['reason'])}[/]", highlight=False)
        if page.get("next"):
            screen.print(f"[dim]there are more:[/] ocf dlq list --after {page['next']}", highlight=False)
        return 0

    with_gateway(work, project, data_dir)


@app.command()
def show(letter: Letter, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """Show one dead letter with the event's data."""
    answered(f"/dlq/{letter}", "GET", None, project, data_dir, json_output)


@app.command()
def redrive(
    letter: Letter, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False
) -> None:
    """Publish the event again on its original subject, and drop the dead letter."""
    answered(f"/dlq/{letter}/redrive", "POST", None, project, data_dir, json_output)


@app.command()
def drop(letter: Letter, project: Project = "default", data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """Drop a dead letter for good."""
    answered(f"/dlq/{letter}", "DELETE", None, project, data_dir, json_output)
