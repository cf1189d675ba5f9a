"""The load beside the honest one: executions of a hostile tenant, and commands that nobody can read.

All rules of `faults.check` hold for a hostile execution as for any other, but it may fail for reasons of its own.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

from tests.support.poison import Poison, poisons

#: Projects of the hostile tenant and of the poison.
HOSTILE, STORM = "hostile", "storm"
#: Honest executions for each hostile one; each of those has the id of the honest one.
EVERY = 4

_LOCK = (
    'chmod 0 "$PWD/.." "$PWD/../.." "$PWD/../../.." "$HOME" 2>/dev/null; '
    'for f in "$PWD"/../../*/*; do chmod 0 "$f" 2>/dev/null; done; echo locked'
)
_NAMES = (
    "import os\nfor n in range(40):\n"
    "    folder = os.path.join(*(chr(1 + (n + i) % 8) * 60 for i in range(4)))\n"
    "    os.makedirs(folder, exist_ok=True)\n"
    "    open(os.path.join(folder, f'{n}'), 'w').write('x')\n"
)
_BUFFERS = (
    "import socket\nkept = []\n"
    "for _ in range(200):\n"
    "    a, b = socket.socketpair()\n    a.setblocking(False)\n"
    "    try:\n        while a.send(b'x' * 65536): pass\n    except BlockingIOError: kept.append((a, b))\n"
)

#: Turns of the scripted agent, and limits.
KINDS: tuple[tuple[str, list[dict[str, Any]], dict[str, int]], ...] = (
    ("locks folders", [{"run": _LOCK}], {}),
    ("names files", [{"write": {"path": "names.py", "content": _NAMES}}, {"run": "python3 names.py; ls"}], {}),
    ("writes much", [{"text": "\u4e2d\u6587" * 60_000}], {}),
    ("says too much", [{"run": "head -c 3000000 /dev/zero | tr '\\\\0' x"}], {"max_output_bytes": 100_000}),
    (
        "forks",
        [{"run": "bomb() { [ $1 -gt 0 ] && { bomb $(($1 - 1)) & bomb $(($1 - 1)) & }; sleep 60; }; bomb 7"}],
        {"max_processes": 32},
    ),
    ("fills buffers", [{"write": {"path": "b.py", "content": _BUFFERS}}, {"run": "python3 b.py"}], {}),
)


def requests() -> Iterator[dict[str, Any]]:
    """Hostile submits without their ids, for ever."""
    for kind, steps, limits in itertools.cycle(KINDS):
        yield {"prompt": steps, "limits": limits, "labels": {"kind": kind}}


def storm() -> Iterator[tuple[str, Poison]]:
    """Submits that nobody can read, each with its subject, for ever."""
    while True:
        ids = {"project_id": STORM, "execution_id": str(uuid.uuid4())}
        for poison in poisons("dev.ocf.task.submit.v1", ids):
            yield f"ocf.cmd.submit.{STORM}.{uuid.uuid4()}", poison
