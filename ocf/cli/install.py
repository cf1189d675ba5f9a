"""`ocf install`: fetches what the embedded stack runs. `ocf completion`: a shell's completion."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from ocf.cli.common import JsonFlag, fail, print_json


def install(json_output: JsonFlag = False) -> None:
    """Install the agent and the servers of the embedded stack, for this user; nothing else on the machine changes.

    Every download is checked against the hashes of this release. After an interruption, run it again: it continues.
    """
    from rich.console import Console
    from rich.filesize import decimal

    from ocf.stack import program_downloads as installer

    console = Console(stderr=True)
    last = ""
    with console.status("") as status:

        def progress(what: str, size: int) -> None:
            nonlocal last
            status.update(f"installing {what} · {decimal(size)}")
            if what != last and not console.is_terminal:
                console.print(f"installing {what}", highlight=False)
            last = what

        try:
            result = installer.install(progress)
        except installer.InstallFailed as error:
            fail(str(error))
    if json_output:
        print_json(asdict(result))
    elif result.installed:
        sys.stdout.write(f"installed {', '.join(result.installed)} in {result.folder}\n")
        sys.stdout.write(f"{result.seconds:.1f} s · {decimal(result.bytes)} downloaded\n")
    else:
        sys.stdout.write(f"everything is installed in {result.folder}\n")


class Shell(StrEnum):
    """Shells that can complete `ocf`."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the completion of a shell, e.g. for ~/.bashrc: eval "$(ocf completion bash)"."""
    from typer._completion_shared import get_completion_script

    sys.stdout.write(get_completion_script(prog_name="ocf", complete_var="_OCF_COMPLETE", shell=shell) + "\n")
