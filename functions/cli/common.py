"""What every verb shares: exit codes, JSON on stdout, problems on stderr, which project and which stack."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

DEFAULT_DATA_DIR = Path(".ocf")

JsonFlag = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="OCF_DATA_DIR", show_default=".ocf", help="Where the stack keeps everything."),
]
Project = Annotated[str, typer.Option("--project", "-p", envvar="PROJECT_ID", help="Project the executions belong to.")]


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def fail(message: str, code: int = 1) -> NoReturn:
    """End with one line on stderr."""
    sys.stderr.write(f"ocf: {message}\n")
    raise typer.Exit(code)


def run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a verb's coroutine and end with the status it returns. Ctrl-C is 130."""
    from events.errors import OcfError

    try:
        status = asyncio.run(work)
    except KeyboardInterrupt:
        status = 130
    except OcfError as error:
        fail(str(error))
    except BrokenPipeError:
        # Whoever read our output has gone (`ocf output ID | head`); stdout must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise typer.Exit(status)
