"""Process of one schema check; imports nothing of the project. Its parent is `output_check.py`.

Reads {schema, value} from standard input; writes the faults, and nothing when the value fits.
"""

from __future__ import annotations

import json
import resource
import sys

from jsonschema import Draft202012Validator
from referencing import Registry

_CPU_SECONDS = 3
_MEMORY_BYTES = 1024**3
_FAULTS, _FAULT_LENGTH = 5, 300


def main() -> None:
    """Check the value, within seconds of CPU time."""
    used = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + _CPU_SECONDS, used + _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    question = json.load(sys.stdin)
    faults = []
    # An empty registry: the library's own would fetch what a reference names, and this process has no sandbox.
    for error in Draft202012Validator(question["schema"], registry=Registry()).iter_errors(question["value"]):
        faults.append(f"{error.json_path}: {error.message[:_FAULT_LENGTH]}")
        if len(faults) == _FAULTS:
            break
    sys.stdout.write("; ".join(faults))


if __name__ == "__main__":
    main()
