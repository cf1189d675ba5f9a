"""Entry point of a container: `python -m ocf.functions.runtime.early_signals MODULE` runs `MODULE.main()`.

The process exits at the first SIGTERM or SIGINT.

Linux delivers no signal to the first process of a container unless the process has a handler. A function has no handler
while it imports modules or waits for NATS, so a SIGTERM then would be lost, and the pod would stay for its whole grace
period of an hour. At that time no work needs a graceful stop; `uvicorn_server` installs its handlers later.

This module imports nothing of the project, because it covers the seconds that these imports take.
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
