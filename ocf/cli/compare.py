"""`ocf compare A B`: the difference of two executions, from the first one on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ocf.cli.common import console, plain, print_json
from ocf.cli.options.ids import EXECUTION
from ocf.cli.verb import Call, verb

First = Annotated[str, typer.Argument(metavar="A", help="An ended execution's id, or its beginning."), EXECUTION]
Second = Annotated[str, typer.Argument(metavar="B", help="The other one's."), EXECUTION]
_STYLES = {"-": "red", "+": "green"}


@verb()
async def compare(call: Call, a: First, b: Second) -> int:
    """Compare two ended executions: plan, tool calls, output, files from the first difference on; tokens, cost, time.

    Exit status: 0 they did the same, 1 they did not. Times, ids and costs make no difference.
    """
    found = await call.gateway.call("GET", f"/tasks/{a}/compare/{b}")
    if call.json:
        print_json(found)
    else:
        screen = console()
        for line in lines(found):
            screen.print(line, highlight=False, soft_wrap=not screen.is_terminal)
    return 0 if found["same"] else 1


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a comparison as lines of markup: figures of both, then what `-` A and `+` B did."""
    sides = found["a"], found["b"]
    for name, values in _figures(*sides):
        style = "" if values[0] == values[1] else "bold"
        yield f"[dim]{name:<9}[/] [{style or 'dim'}]{plain(values[0]):<14} {plain(values[1])}[/]"
    for mark, side in zip("-+", sides, strict=True):
        if side["missing"]:
            yield f"[{_STYLES[mark]}]{mark} not compared: {plain(', '.join(side['missing']))}[/]"
    if found["same"]:
        yield f"the same, in all {found['common_steps']} steps"
        return
    yield f"[bold]different: {plain(', '.join(found['differs']).replace('_', ' '))}[/]"
    if found["rows"]:
        yield f"the same for {found['common_steps']} steps, then:"
    for row in found["rows"]:
        if row["same"]:
            yield _step(" ", row["a"])
            continue
        for mark, step in zip("-+", (row["a"], row["b"]), strict=True):
            if step is not None:
                yield _step(mark, step)
    if found["steps_left_out"]:
        yield f"[dim]… {found['steps_left_out']} more steps[/]"
    for file in found["files"]:
        yield f"[bold]{plain(file['path'])}[/] [dim]{_CHANGES[file['change']]}[/]"
        for line in file["lines"]:
            yield f"[{_STYLES.get(line[:1], 'dim')}]{plain(line)}[/]"
    if found["files_left_out"]:
        yield f"[dim]… {found['files_left_out']} more files[/]"


_CHANGES = {"only_a": "changed by A only", "only_b": "changed by B only", "differs": "changed differently"}


def _figures(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    from ocf.cli.render import tokens

    def of(side: dict[str, Any]) -> dict[str, str]:
        usage = side["usage"]
        took = f"{side['duration_ms'] / 1000:.1f} s" if side.get("duration_ms") is not None else "-"
        return {
            "": side["execution_id"][:8],
            "state": side["status"],
            "reason": side.get("reason") or "-",
            "model": side.get("model") or "-",
            "steps": str(side["steps"]),
            "tools": str(side["tool_calls"]),
            "requests": str(usage["requests"]),
            "tokens": tokens({**usage, "cost_usd": 0}).removesuffix(" tokens") or "0",
            "cost": f"${usage['cost_usd']:.4f}",
            "time": took,
        }

    one, two = of(a), of(b)
    for name, value in one.items():
        if (value, two[name]) != ("-", "-"):
            yield name, (value, two[name])


def _step(mark: str, step: dict[str, Any]) -> str:
    first, *rest = plain(step["text"]).split("\n")
    text = "\n".join(
        [f"{mark} {step['seq']:>4} {plain(step['type'])}: {first}", *(f"{mark}      {one}" for one in rest)]
    )
    return f"[{_STYLES.get(mark, 'dim')}]{text}[/]"
