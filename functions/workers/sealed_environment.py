"""The environment of workers: a file in memory that only they read, so that their parent never has a key."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import NoReturn

#: Variable of the parent's environment with the descriptor of the whole environment.
SEALED = "OCF_ENVIRONMENT_FD"
#: Variables that the parent keeps; none can be a key.
_PLAIN = (
    *("PORT", "HOST", "FUNCTION_TARGET", "MAX_CONCURRENT_TASKS", "WARM_SLOTS", "STATE_DIR", "DRAIN_SECONDS"),
    *("LOG_LEVEL", "DRY_RUN", "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"),
)


def needs_parent(environ: Mapping[str, str]) -> bool:
    """Return whether a process with this environment must be a parent: execute, with concurrent executions."""
    dry = environ.get("DRY_RUN", "").lower() not in ("", "0", "false", "no", "off", "f", "n")
    alone = dry or environ.get("MAX_CONCURRENT_TASKS", "").strip() == "1"
    return environ.get("FUNCTION_TARGET", "").strip() == "execute" and not alone


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the parent may have."""
    return {name: environ[name] for name in _PLAIN if name in environ}


def memory_file(content: bytes = b"") -> int:
    """Return the descriptor of an unnamed file with `content`, in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ocf")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.write(descriptor, content)
    return descriptor


def reexec_sealed() -> NoReturn:
    """Execute the same program again with a sealed environment; exec discards the memory, which has the keys."""
    descriptor = memory_file(json.dumps(dict(os.environ)).encode())
    os.set_inheritable(descriptor, True)
    environ = {**without_secrets(os.environ), SEALED: str(descriptor)}
    os.execve(sys.executable, sys.orig_argv, environ)  # noqa: S606 - this very program


def unseal(descriptor: int) -> None:
    """Replace this process's environment by the sealed one, and close the descriptor."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(json.loads(content))
