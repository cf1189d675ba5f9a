"""Entry point of `ocf`: every verb, each from a small file of its group."""

from __future__ import annotations

import typer

from functions.cli import stack

app = typer.Typer(
    name="ocf",
    help="OpenCode executions as event-driven functions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_STACK = "Stack"
app.command(rich_help_panel=_STACK)(stack.up)
app.command(rich_help_panel=_STACK)(stack.down)


def main() -> None:
    """Run it."""
    app()


if __name__ == "__main__":
    main()
