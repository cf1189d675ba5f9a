"""Entry point of `ocf`. Whatever stops a verb is one line on stderr and an exit status, never a traceback.

Nothing but the standard library is imported before Ctrl-C, a closed pipe and a full disk have their answer.
"""

from __future__ import annotations

import os
import signal
import sys

from ocf.cli import streams

#: Exit statuses beside those of a verb: as a shell reports the signal.
INTERRUPTED = 128 + signal.SIGINT
DEBUG = "OCF_DEBUG"


def main() -> None:
    """Run it."""
    streams.prepare()
    status = _run()
    try:
        streams.flush()
    except BrokenPipeError:
        streams.discard()
    except OSError as error:
        streams.discard()
        status = _told(f"cannot write the output: {error.strerror or error}")
    raise SystemExit(status)


def _run() -> int:
    try:
        from ocf.cli.app import app

        app()
    except SystemExit as ending:
        # Typer turns a closed pipe into this: whoever read the output has gone (`ocf list | head -1`).
        if isinstance(ending.__context__, BrokenPipeError):
            streams.discard()
            return 0
        return _status(ending)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _told(streams.of_os(error))
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return _told(f"internal error: {type(error).__name__}: {error} ({DEBUG}=1 shows where)")
    return 0


def _status(ending: SystemExit) -> int:
    if isinstance(ending.code, str):
        return _told(ending.code)
    return ending.code or 0


def _told(problem: str) -> int:
    try:
        sys.stderr.write(f"ocf: {problem}\n")
        sys.stderr.flush()
    except OSError:
        streams.discard_errors()
    return 1


if __name__ == "__main__":
    main()
