"""`ocf models`: the models that a task may ask for, and what they cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ocf.cli.common import console, plain, print_json
from ocf.cli.verb import Call, verb


@verb()
async def models(
    call: Call,
    search: Annotated[str, typer.Argument(metavar="[TEXT]", help="Only models with this text in their name.")] = "",
    provider: Annotated[str | None, typer.Option("--provider", help="Only models of this provider.")] = None,
) -> int:
    """List the models that a task may ask for: limits, kinds of input, variants, prices.

    Prices are US dollars per million tokens of input and output. `-` means that it is not known.
    """
    wanted = {} if provider is None else {"provider": provider}
    found = (await call.gateway.call("GET", "/models", **wanted))["models"]
    found = [one for one in found if search.lower() in f"{one['provider']}/{one['model']} {one['name']}".lower()]
    if call.json:
        print_json({"models": found})
        return 0
    screen = console()
    for one in found:
        screen.print(f"[bold]{plain(one['provider'])}/{plain(one['model'])}[/]", highlight=False)
        screen.print(f"   {plain(_facts(one))}", highlight=False)
    screen.print(f"[dim]{len(found)} models[/]", highlight=False)
    return 0


def _facts(model: dict[str, Any]) -> str:
    price = model["price"]
    parts = [
        f"context {_tokens(model['context'])}",
        f"output {_tokens(model['output'])}",
        "+".join(model["input"] or ["-"]),
        f"${price['input']:g} in, ${price['output']:g} out" if price else "price -",
    ]
    return ", ".join(parts + ([f"variants {' '.join(model['variants'])}"] if model["variants"] else []))


def _tokens(number: int | None) -> str:
    if number is None:
        return "-"
    if number >= 1_000_000:
        return f"{number / 1_000_000:g}M"
    return f"{number // 1000}k" if number >= 1000 else str(number)
