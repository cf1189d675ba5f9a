"""What every verb shares: exit codes, JSON on stdout, problems on stderr, which project and which stack."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

DEFAULT_DATA_DIR = Path(".ocf")
#: Seconds that a gateway may be away before a verb that follows something gives up.
PATIENCE = 600.0

JsonFlag = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", show_default="OCF_DATA_DIR, else .ocf", help="Where the stack keeps everything."),
]
Project = Annotated[str, typer.Option("--project", "-p", envvar="PROJECT_ID", help="Project the executions belong to.")]


#: `ocf --gateway URL ...`.
NAMED_GATEWAY: ContextVar[str | None] = ContextVar("NAMED_GATEWAY", default=None)
#: `ocf --data-dir DIR ...`; the verb's own --data-dir wins.
NAMED_DIRECTORY: ContextVar[Path | None] = ContextVar("NAMED_DIRECTORY", default=None)


def directory(data_dir: Path | None) -> Path:
    """The data directory: of --data-dir, else OCF_DATA_DIR, else `.ocf`."""
    return data_dir or NAMED_DIRECTORY.get() or Path(os.environ.get("OCF_DATA_DIR") or DEFAULT_DATA_DIR)


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # The locale has no such character, or it is half an emoji, which no UTF-8 has: as escapes both are kept.
        text = json.dumps(value, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


#: What a terminal obeys: escape sequences, whole or cut off, and control characters, without the colours of (1); and
#: what turns the direction of the text behind it, so that a file's name reads as another.
_OBEYED = re.compile(
    r"(\x1b\[[0-9;:]*m)"
    r"|\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|[ -/]*[0-~]?)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """`text` as a terminal may be given it: colours stay; what sets titles or clipboards or moves the cursor goes.

    Most of what is shown was written by an agent, or by whoever the agent has read.
    """
    return _OBEYED.sub(lambda found: found[1] or "", text)


async def copy(pieces: AsyncIterator[bytes]) -> int:
    """A download to stdout: byte for byte, unless a terminal would obey what is in it."""
    if not sys.stdout.isatty():
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return 0
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    async for piece in pieces:
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        for line in lines:
            sys.stdout.write(printable(line) + "\n")
    sys.stdout.write(printable(rest))
    sys.stdout.flush()
    return 0


def fail(message: str, code: int = 1) -> NoReturn:
    """End with one line on stderr."""
    sys.stderr.write(f"ocf: {printable(message)}\n")
    raise typer.Exit(code)


def run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a verb's coroutine and end with the status it returns; an error has its own."""
    from ocf.events.errors import OcfError

    try:
        status = asyncio.run(work)
    except OcfError as error:
        fail(str(error), getattr(error, "exit_status", 1))
    raise typer.Exit(status)
