"""Entry point of `ocf`. Every error is one line on stderr and an exit status, never a traceback.

Only the standard library is imported before Ctrl-C, a closed pipe and a full disk are handled.
"""

from __future__ import annotations

import os
import signal
import sys

from ocf.cli import standard_streams

#: Exit status after Ctrl-C, as a shell reports the signal.
INTERRUPTED = 128 + signal.SIGINT
DEBUG = "OCF_DEBUG"


def main() -> None:
    """Run the command line and exit."""
    standard_streams.prepare()
    status = _run()
    try:
        standard_streams.flush()
    except BrokenPipeError:
        standard_streams.discard()
    except OSError as error:
        standard_streams.discard()
        status = _print_error(f"cannot write the output: {error.strerror or error}")
    raise SystemExit(status)


def _run() -> int:
    try:
        from ocf.cli.app import app

        app()
    except SystemExit as ending:
        # Typer turns a closed pipe into this: the reader of the output has gone (`ocf list | head -1`).
        if isinstance(ending.__context__, BrokenPipeError):
            standard_streams.discard()
            return 0
        return _status(ending)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _print_error(standard_streams.of_os(error))
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return _print_error(f"internal error: {error!r} ({DEBUG}=1 shows where)")
    return 0


def _status(ending: SystemExit) -> int:
    if isinstance(ending.code, str):
        return _print_error(ending.code)
    return ending.code or 0


def _print_error(problem: str) -> int:
    try:
        sys.stderr.write(f"ocf: {problem}\n")
        sys.stderr.flush()
    except OSError:
        standard_streams.discard_errors()
    return 1


if __name__ == "__main__":
    main()
