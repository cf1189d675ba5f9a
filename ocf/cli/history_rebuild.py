"""`ocf history ...`: the database of the history, on the machine that has its settings."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from ocf.cli.common import DataDir, JsonFlag, fail, local_directory, print_json, run

if TYPE_CHECKING:
    from pathlib import Path

    from ocf.functions.settings.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The database of the history.")


@app.callback()
def group() -> None:
    """Keep `rebuild` a verb of its own while it is the only one."""


@app.command()
def rebuild(data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """Write the rows of every execution again, from archive, records and stream.

    The servers must be up: those of the stack in the data directory, else those that the environment names, as in a pod
    of the gateway. It may run at any time, and again.
    """
    run(_rebuild(_settings(local_directory(data_dir)), json_output))


def _settings(data_dir: Path) -> Settings:
    from ocf.functions.settings.settings import Settings, load_or_exit
    from ocf.stack.process_specs import database, environment
    from ocf.stack.up import plan_of

    plan = plan_of(data_dir, os.environ)
    return load_or_exit() if plan is None else Settings.model_validate({**environment(plan), **database(plan)})


async def _rebuild(settings: Settings, json_output: bool) -> int:
    from dataclasses import asdict

    from ocf.events.errors import OcfError
    from ocf.functions.database.migrate import migrate
    from ocf.functions.database.rebuild import rebuild as write
    from ocf.functions.observability import logs
    from ocf.functions.runtime.bootstrap import build

    logs.configure(settings.log_level)
    try:
        migrate(settings.history_url())
        async with build(settings, "rebuild") as deps:
            done = await write(deps.bus, deps.store, deps.records, deps.session_records, deps.history)
    except OcfError as error:
        fail(str(error))
    if json_output:
        print_json(asdict(done))
    else:
        sys.stdout.write(f"{done.archived} from the archive, {done.records} from records, {done.facts} facts read\n")
    if done.unreadable:
        sys.stderr.write(f"ocf: {done.unreadable} archives cannot be read; see the log\n")
    return 1 if done.unreadable else 0
