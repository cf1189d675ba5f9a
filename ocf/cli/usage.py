"""`ocf usage`: runs, tokens and cost, summed by the gateway."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ocf.cli.common import console, copy, plain, print_json
from ocf.cli.verb import Call, verb

_GROUPS = ("project", "model", "day", "label")


@verb()
async def usage(
    call: Call,
    group_by: Annotated[str, typer.Option("--by", metavar="GROUPS", help="project, model, day, label.")] = "day",
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Submitted at or after.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Submitted before.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of all projects that you may read.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, for a spreadsheet.")] = False,
) -> int:
    """Sum runs, results, tokens, cost and mean time to first output by day, model, label (comma separated).

    Open executions count what their row has. Times are RFC 3339 with a zone, such as 2026-11-29T00:00:00Z.
    """
    wanted: dict[str, Any] = {
        "group_by": group_by,
        "from": since,
        "to": until,
        "project_id": None if every else call.project,
    }
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if csv:
        return await copy(call.gateway.download("/usage", **wanted, format="csv"))
    found = await call.gateway.call("GET", "/usage", **wanted)
    if call.json:
        print_json(found)
        return 0
    screen = console()
    for row in found["usage"]:
        name = "  ".join(plain(row[group] or "-") for group in _GROUPS if group in row)
        tokens = f"{row['input_tokens']:,} in, {row['output_tokens']:,} out"
        screen.print(f"[bold]{name}[/]", highlight=False)
        line = f"   {row['completed']}/{row['runs']} completed, {tokens}, ${row['cost_usd']:.2f}"
        if (first := row.get("first_output_ms")) is not None:
            line += f", first output after {first / 1000:.1f} s"
        screen.print(line, highlight=False)
    reasons = ", ".join(f"{plain(reason)} {count}" for reason, count in sorted(found["reasons"].items()))
    if reasons:
        screen.print(f"[dim]failures:[/] {reasons}", highlight=False)
    return 0
