"""The first process of a container: `python -m ocf.functions.runtime.early_signals MODULE` runs `MODULE.main()`.

It ends at the first SIGTERM or SIGINT.

Linux hands the first process of a container no signal that it has no handler for. Until a function serves it has none:
a SIGTERM that came while it still imported, or waited for NATS, was lost, and the pod stayed for its whole grace, which
is an hour. Nothing runs then that would have to be handed on; `uvicorn_server` takes over
when something does.

Imports nothing of the project by itself: what it is about are the seconds that importing takes.
"""

import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def main() -> None:
    """Run the module named in the arguments."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    raise SystemExit(importlib.import_module(sys.argv[1]).main())


if __name__ == "__main__":
    main()
