"""Standard input and output, whatever the locale, the reader of the pipe and the disk are like."""

from __future__ import annotations

import codecs
import os
import sys

#: What stands for our own marks where the encoding has none; anything else is `?`.
_ASCII = {
    "✓": "+", "✗": "x", "■": "#", "◷": "@", "●": "*", "○": "o", "▸": ">", "·": "-", "−": "-", "–": "-", "—": "-",
    "→": "->", "…": "...", "⎿": "|", "⏎": "|", "“": '"', "”": '"', "’": "'",
}  # fmt: skip
_HANDLER = "ocf"


def prepare() -> None:
    """Make every stream writable: what an encoding cannot say is replaced, a closed one discards.

    Without this a lone surrogate in an agent's output ends a verb even where the encoding is UTF-8.
    """
    codecs.register_error(_HANDLER, _replaced)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lasts
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `ocf list >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    said = "".join(_ASCII.get(char, "?") for char in error.object[error.start : error.end])
    return said, error.end


def flush() -> None:
    """Write what is left, while an error can still be told: the interpreter's own attempt is too late for that."""
    sys.stdout.flush()
    sys.stderr.flush()


def discard() -> None:
    """Nobody takes the output any more: what is left of it, and what the interpreter flushes at its end, goes away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def discard_errors() -> None:
    """The same for stderr."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def of_os(error: OSError) -> str:
    """An error of the operating system in one line."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {said}" if error.filename else said
