"""The `ocf` application with all verbs, each defined in the file of its group."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer._completion_classes import completion_init

from ocf.cli import (
    bundles,
    compare,
    contexts,
    dlq,
    doctor,
    forge_credentials,
    history_rebuild,
    install,
    models,
    replay,
    sessions,
    stack,
    suite,
    tasks,
    triggers,
    usage,
)
from ocf.cli.common import NAMED_CONTEXT, NAMED_DIRECTORY, NAMED_GATEWAY, DataDir

completion_init()  # answers the script of `ocf completion`
app = typer.Typer(
    name="ocf",
    help="OpenCode executions as event-driven functions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"ocf {version('opencode-functions')}\n")
        raise typer.Exit(0)


@app.callback()
def root(
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", metavar="URL", help="Use this gateway instead of a stack on this machine."),
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", metavar="NAME", help="Use the gateway of this context.")
    ] = None,
    data_dir: DataDir = None,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run OpenCode executions as event-driven functions.

    A verb uses the gateway of --gateway, --context or --data-dir; else of OCF_GATEWAY, OCF_CONTEXT or OCF_DATA_DIR;
    else the current context; else the stack that runs in ./.ocf. OCF_TOKEN is the token where a context has none.
    """
    NAMED_GATEWAY.set(gateway)
    NAMED_CONTEXT.set(context)
    NAMED_DIRECTORY.set(data_dir)


_STACK, _TASKS = "Stack", "Executions"
app.command(rich_help_panel=_STACK)(install.install)
app.command(rich_help_panel=_STACK)(stack.up)
app.command(rich_help_panel=_STACK)(stack.down)
app.command(rich_help_panel=_STACK)(stack.creds)
app.command(rich_help_panel=_STACK)(doctor.doctor)
app.command(rich_help_panel=_STACK)(stack.mcp)
app.command("encrypt-key", rich_help_panel=_STACK)(doctor.encrypt_key)
app.command(rich_help_panel=_STACK)(install.completion)
app.command("run", rich_help_panel=_TASKS)(tasks.run_)
app.command(rich_help_panel=_TASKS)(tasks.submit)
app.command(rich_help_panel=_TASKS)(tasks.watch)
app.command(rich_help_panel=_TASKS)(tasks.status)
app.command("list", rich_help_panel=_TASKS)(tasks.list_)
app.command(rich_help_panel=_TASKS)(tasks.output)
app.command(rich_help_panel=_TASKS)(tasks.diff)
app.command(rich_help_panel=_TASKS)(replay.replay)
app.command(rich_help_panel=_TASKS)(tasks.rerun)
app.command(rich_help_panel=_TASKS)(compare.compare)
app.command(rich_help_panel=_TASKS)(bundles.export)
app.command("import", rich_help_panel=_TASKS)(bundles.import_)
app.command(rich_help_panel=_TASKS)(tasks.cancel)
app.command(rich_help_panel=_TASKS)(tasks.delete)
app.command(rich_help_panel=_TASKS)(tasks.reply)
app.command(rich_help_panel=_TASKS)(tasks.token)
app.add_typer(contexts.app, name="context", rich_help_panel=_STACK)
app.command(rich_help_panel=_TASKS)(models.models)
app.command(rich_help_panel=_TASKS)(usage.usage)
app.add_typer(forge_credentials.app, name="credential", rich_help_panel=_STACK)
app.add_typer(suite.app, name="suite", rich_help_panel=_TASKS)
app.add_typer(tasks.result, name="result", rich_help_panel=_TASKS)
app.add_typer(sessions.app, name="session", rich_help_panel=_TASKS)
app.add_typer(triggers.app, name="trigger", rich_help_panel=_TASKS)
app.add_typer(triggers.schedules, name="schedule", rich_help_panel=_TASKS)
app.add_typer(triggers.hooks, name="hook", rich_help_panel=_TASKS)
app.add_typer(dlq.app, name="dlq", rich_help_panel=_STACK)
app.add_typer(history_rebuild.app, name="history", rich_help_panel=_STACK)
