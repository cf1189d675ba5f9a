"""Shared parts of the verbs: exit codes, JSON on stdout, errors on stderr, project and data directory."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

DEFAULT_DATA_DIR = Path(".ocf")
JsonFlag = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", show_default="OCF_DATA_DIR, else .ocf", help="Data directory of the stack."),
]
Project = Annotated[
    str | None,
    typer.Option(
        "--project", "-p", envvar="PROJECT_ID", show_default="default", help="Project the executions belong to."
    ),
]
DEFAULT_PROJECT = "default"
#: A bearer token (RFC 6750, b64token).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
MAX_TOKEN_BYTES = 64 * 1024

#: `ocf --gateway URL ...`.
NAMED_GATEWAY: ContextVar[str | None] = ContextVar("NAMED_GATEWAY", default=None)
#: `ocf --context NAME ...`.
NAMED_CONTEXT: ContextVar[str | None] = ContextVar("NAMED_CONTEXT", default=None)
#: `ocf --data-dir DIR ...`; the verb's own --data-dir wins.
NAMED_DIRECTORY: ContextVar[Path | None] = ContextVar("NAMED_DIRECTORY", default=None)


def directory(data_dir: Path | None) -> Path:
    """Return the data directory: --data-dir, else OCF_DATA_DIR, else `.ocf`."""
    return data_dir or NAMED_DIRECTORY.get() or Path(os.environ.get("OCF_DATA_DIR") or DEFAULT_DATA_DIR)


def local_directory(data_dir: Path | None) -> Path:
    """Return the data directory, for a verb that acts on this machine; exit 2 if the command line names a gateway."""
    for option, value in (("--gateway", NAMED_GATEWAY.get()), ("--context", NAMED_CONTEXT.get())):
        if value is not None:
            fail(
                f"{option} {value}: this verb acts on a data directory of this machine, not on a gateway; "
                f"leave {option} out, or give --data-dir DIR instead",
                2,
            )
    return directory(data_dir)


def print_json(value: object) -> None:
    """Print one line of JSON on stdout."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # The locale lacks the character, or it is a lone surrogate: escapes preserve both.
        text = json.dumps(value, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


#: Sequences that control a terminal: escape sequences, complete or cut off, and control characters, except the colours
#: of group 1; and characters that reverse the text direction, so that a file's name could read as another.
_OBEYED = re.compile(
    r"(\x1b\[[0-9;:]*m)"
    r"|\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|[ -/]*[0-~]?)"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u202a-\u202e\u2066-\u2069]"
)


def local_time(text: str) -> str:
    """Return an RFC 3339 time as `2026-01-31 10:15:02` in the terminal's time zone; `--json` has times in UTC."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def printable(text: str) -> str:
    """Return `text` without terminal control, except colours: no titles, clipboard or cursor movement.

    An agent, or a source that it read, wrote most of the displayed text.
    """
    return _OBEYED.sub(lambda found: found[1] or "", text)


async def copy(pieces: AsyncIterator[bytes]) -> int:
    """Copy a download to stdout: byte for byte, but without control sequences in a terminal."""
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


def checked_token(text: str, source: str) -> str:
    """Return a bearer token without surrounding space. Raises CallFailed with `source`, never with the text."""
    from ocf.events.client.gateway_retry import CallFailed

    token = text.strip()
    if len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
        raise CallFailed(f"{source}: is not a bearer token (letters, digits and - . _ ~ + / =)")
    return token


def fail(message: str, code: int = 1) -> NoReturn:
    """Exit with one line on stderr."""
    sys.stderr.write(f"ocf: {printable(message)}\n")
    raise typer.Exit(code)


def console() -> Any:  # noqa: ANN401 - rich is imported late
    """Return a console that keeps broken pipes as errors, 200 columns wide outside a terminal."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error itself: Rich would exit, and `ocf run` has a status for this

    screen = Screen(emoji=False)  # `:bug:` in a value is no emoji
    return screen if screen.is_terminal else Screen(width=200, emoji=False)


#: A bracket, with what decides whether it may begin a tag; and backslashes before the tag that follows a value.
_BRACKET = re.compile(r"(\\*)\[([a-z#/@]|\Z)?")
_LAST_BACKSLASHES = re.compile(r"(\\+)\Z")


def plain(value: object) -> str:
    """Return a value as markup that shows it without terminal control.

    Control characters go first: one after a bracket hides a tag. Rich's own `escape` is not enough: it leaves a bracket
    that the value does not close, and another value beside it may close it.
    """

    def escaped(found: re.Match[str]) -> str:
        return found[1] * (1 if found[2] is None else 2) + "\\[" + (found[2] or "")

    return _LAST_BACKSLASHES.sub(r"\1\1", _BRACKET.sub(escaped, printable(str(value))))


def run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a verb's coroutine and exit with the status it returns, or with that of its error."""
    from ocf.events.errors import OcfError

    try:
        status = asyncio.run(work)
    except OcfError as error:
        hint = "; the token is that of OCF_TOKEN, or of a context (`ocf context add NAME --token-file FILE`)"
        fail(f"{error}{hint if getattr(error, 'status', 0) == 401 else ''}")
    raise typer.Exit(status)
