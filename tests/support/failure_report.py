"""Report of a failed test about the stack that it used, whose folder is deleted soon afterwards."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

#: Newest executions, lines of each log, and characters of each line.
_EXECUTIONS, _LINES, _WIDTH = 5, 12, 400
#: Logs of programs that are not ours.
_FOREIGN = ("s3", "setup", "nats")
_SHOWN = ("execution_id", "status", "reason", "message", "waiting_for", "attempt", "last_sequence", "updated_at")


def stack_sections(data_dir: Path, gateway: str) -> list[tuple[str, str]]:
    """Return sections of a test report: the newest executions, and the ends of the logs.

    Args:
        data_dir: folder of the stack.
        gateway: address of its gateway.
    """
    logs = [log for log in sorted((data_dir / "logs").glob("*.log")) if log.stem not in _FOREIGN]
    return [("newest executions", _executions(gateway)), *((f"end of {log.name}", _end(log)) for log in logs)]


def _executions(gateway: str) -> str:
    try:
        with urllib.request.urlopen(f"{gateway}/tasks?limit={_EXECUTIONS}", timeout=5) as answer:
            found = json.load(answer)["items"]
    except (OSError, ValueError, LookupError) as error:
        return f"{gateway} does not list them: {error!r}"
    return "\n".join(json.dumps({key: item[key] for key in _SHOWN if item.get(key) is not None}) for item in found)


def _end(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LINES:]
    return "\n".join(line[:_WIDTH] for line in lines)
