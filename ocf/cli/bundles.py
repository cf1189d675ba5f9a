"""`ocf export ID`, `ocf import FILE`: an archived execution as one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ocf.cli.common import fail, print_json, printable
from ocf.cli.verb import Call, Execution, verb

MEDIA_TYPE = "application/x-tar"
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; ID.ocf.tar here unless given.")
]
Bundle = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A bundle that `ocf export` wrote.")
]


@verb()
async def export(call: Call, execution: Execution, output: Output = None) -> int:
    """Write an archived execution to one file: output, events, patch, recording and input; no secrets of the task.

    Whoever has the file can read what the agent read and wrote. `ocf import` takes it on any installation.
    """
    target = output or Path(f"{execution}.ocf.tar")
    if target.exists():
        fail(f"{target} exists; name another file with -o")
    unfinished = target.with_name(f"{target.name}.part")
    try:
        file = unfinished.open("xb")
    except FileExistsError:
        fail(f"{unfinished} exists: another export writes it; if none does, remove it")
    except OSError as error:
        fail(f"{unfinished}: {error.strerror}")
    try:
        with file:
            async for piece in call.gateway.download(f"/tasks/{execution}/bundle"):
                file.write(piece)
        unfinished.rename(target)
    except OSError as error:
        fail(f"{error.filename or target}: {error.strerror}")
    finally:
        unfinished.unlink(missing_ok=True)
    size = target.stat().st_size
    if call.json:
        print_json({"execution_id": execution, "file": str(target), "bytes": size})
    else:
        sys.stdout.write(f"{target}  {size:,} bytes\n")
    return 0


@verb()
async def import_(call: Call, file: Bundle) -> int:
    """Take a bundle as an archived execution of the project, and print its new id.

    Everything in the file is checked before anything is stored. Compare it, replay it, run it again.
    """
    found = await call.gateway.upload("/bundles", file, MEDIA_TYPE)
    if call.json:
        print_json(found)
    else:
        sys.stdout.write(f"{printable(found['execution_id'])}\n")
    return 0
