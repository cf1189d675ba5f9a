"""The `ocf` application with all verbs, each defined in the file of its group."""

from __future__ import annotations

from typing import Annotated

import typer

from ocf.cli import dlq, doctor, replay, sessions, stack, tasks
from ocf.cli.common import NAMED_DIRECTORY, NAMED_GATEWAY, DataDir

app = typer.Typer(
    name="ocf",
    help="OpenCode executions as event-driven functions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", metavar="URL", help="Use this gateway instead of a stack on this machine."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Run OpenCode executions as event-driven functions.

    A verb uses the gateway of --gateway; else the stack that runs in --data-dir; else OCF_GATEWAY; else the stack that
    runs in OCF_DATA_DIR or ./.ocf. OCF_TOKEN is the bearer token.
    """
    NAMED_GATEWAY.set(gateway)
    NAMED_DIRECTORY.set(data_dir)


_STACK, _TASKS = "Stack", "Executions"
app.command(rich_help_panel=_STACK)(stack.up)
app.command(rich_help_panel=_STACK)(stack.down)
app.command(rich_help_panel=_STACK)(stack.creds)
app.command(rich_help_panel=_STACK)(doctor.doctor)
app.command("encrypt-key", rich_help_panel=_STACK)(doctor.encrypt_key)
app.command("run", rich_help_panel=_TASKS)(tasks.run_)
app.command(rich_help_panel=_TASKS)(tasks.submit)
app.command(rich_help_panel=_TASKS)(tasks.watch)
app.command(rich_help_panel=_TASKS)(tasks.status)
app.command("list", rich_help_panel=_TASKS)(tasks.list_)
app.command(rich_help_panel=_TASKS)(tasks.output)
app.command(rich_help_panel=_TASKS)(tasks.diff)
app.command(rich_help_panel=_TASKS)(replay.replay)
app.command(rich_help_panel=_TASKS)(tasks.cancel)
app.command(rich_help_panel=_TASKS)(tasks.delete)
app.command(rich_help_panel=_TASKS)(tasks.reply)
app.command(rich_help_panel=_TASKS)(tasks.token)
app.add_typer(sessions.app, name="session", rich_help_panel=_TASKS)
app.add_typer(dlq.app, name="dlq", rich_help_panel=_STACK)
