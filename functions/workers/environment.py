"""The environment of workers: a file in memory, which only they read, so that their parent never holds a key."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import NoReturn

#: Names the descriptor of the whole environment in that of the parent.
SEALED = "OCF_ENVIRONMENT_FD"
#: What the parent has of the environment: nothing that could be a key.
_PLAIN = (
    *("PORT", "HOST", "FUNCTION_TARGET", "MAX_CONCURRENT_TASKS", "WARM_SLOTS", "STATE_DIR", "DRAIN_SECONDS"),
    *("LOG_LEVEL", "DRY_RUN", "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"),
)


def needs_parent(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment is to be a parent: execute, for more than one execution at once."""
    dry = environ.get("DRY_RUN", "").lower() not in ("", "0", "false", "no", "off", "f", "n")
    alone = dry or environ.get("MAX_CONCURRENT_TASKS", "").strip() == "1"
    return environ.get("FUNCTION_TARGET", "").strip() == "execute" and not alone


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that the parent may have."""
    return {name: environ[name] for name in _PLAIN if name in environ}


def memory_file(content: bytes = b"") -> int:
    """A descriptor of a file with `content` that has no name and, where the system can, lies on no disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ocf")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, content)
    return descriptor


def reexec_sealed() -> NoReturn:
    """Run the same program in this process again, with the environment sealed: `exec` leaves nothing of its memory."""
    descriptor = memory_file(json.dumps(dict(os.environ)).encode())
    os.set_inheritable(descriptor, True)
    own = {**without_secrets(os.environ), SEALED: str(descriptor)}
    os.execve(sys.executable, sys.orig_argv, own)  # noqa: S606 - this very program


def unseal(descriptor: int) -> None:
    """Make the whole environment this process's own, and close the descriptor."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(json.loads(content))
