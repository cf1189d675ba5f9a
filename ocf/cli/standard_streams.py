"""Standard streams that work with any locale, a closed pipe and a full disk."""

from __future__ import annotations

import codecs
import os
import sys

#: Replacements of our own marks in encodings that lack them; anything else is `?`.
_ASCII = {
    "✓": "+", "✗": "x", "■": "#", "◷": "@", "●": "*", "○": "o", "▸": ">", "·": "-", "−": "-", "–": "-", "—": "-",
    "→": "->", "…": "...", "⎿": "|", "⏎": "|", "“": '"', "”": '"', "’": "'",
}  # fmt: skip
_HANDLER = "ocf"


def prepare() -> None:
    """Make every stream writable: characters that an encoding lacks are replaced, a closed stream discards.

    Otherwise a lone surrogate in an agent's output would end a verb even with UTF-8.
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
    text = "".join(_ASCII.get(char, "?") for char in error.object[error.start : error.end])
    return text, error.end


def flush() -> None:
    """Flush both streams while an error can still be reported; the interpreter's own flush is too late."""
    sys.stdout.flush()
    sys.stderr.flush()


def discard() -> None:
    """Discard the rest of stdout, also what the interpreter flushes at its end: the reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def discard_errors() -> None:
    """Discard the rest of stderr."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def of_os(error: OSError) -> str:
    """Return an error of the operating system in one line."""
    text = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {text}" if error.filename else text
