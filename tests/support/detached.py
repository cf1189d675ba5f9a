"""The whole embedded stack, as `ocf up --detach --json` starts it, below a directory; stopped afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import parts

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED_AGENT = ROOT / "tests/agent/opencode"
OCF = (sys.executable, "-m", "ocf.cli.main")
#: What a person's environment may have and a test must not depend on.
_NOT_MINE = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENCODE_API_KEY", "OCF_MODEL", "OCF_MODEL_ENDPOINT", "PORT")


@dataclass(frozen=True)
class Stack:
    """A running stack. `answer` is the line of `ocf up --json`."""

    data_dir: Path
    answer: Mapping[str, str]
    environ: Mapping[str, str]

    def ocf(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a verb against this stack."""
        return subprocess.run(
            [*OCF, *words, "--data-dir", str(self.data_dir)],
            env=dict(self.environ),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def processes(self) -> dict[str, psutil.Process]:
        """The stack's processes by their name in its table; `up` is `ocf up` itself."""
        return processes_of(self.data_dir)


def processes_of(data_dir: Path) -> dict[str, psutil.Process]:
    """Every process that the stack of `data_dir` has now."""
    lock = data_dir / "stack.lock"
    if not lock.exists() or not psutil.pid_exists(pid := int(lock.read_text() or 0)) or not pid:
        return {}
    up = psutil.Process(pid)
    return {"up": up, **parts(up)}


def up(data_dir: Path, env: Mapping[str, str] | None = None, *, agent: Path | None = SCRIPTED_AGENT) -> Stack:
    """Start a stack, or find the one that runs; fails with what `ocf up` said."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_MINE} | dict(env or {})
    if agent is not None:
        environ["OPENCODE_BIN"] = str(agent)
    command = [*OCF, "up", "--detach", "--json", "--data-dir", str(data_dir)]
    done = subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise AssertionError(f"ocf up: {done.stderr}\n{_logs(data_dir)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return Stack(data_dir, answer, environ)


@contextmanager
def running_stack(
    data_dir: Path, env: Mapping[str, str] | None = None, *, agent: Path | None = SCRIPTED_AGENT
) -> Iterator[Stack]:
    """A stack with the scripted agent (`agent=None`: the real OpenCode), gone at the end."""
    stack = up(data_dir, env, agent=agent)
    try:
        yield stack
    finally:
        stack.ocf("down")


def _logs(data_dir: Path) -> str:
    logs = sorted((data_dir / "logs").glob("*.log"))
    return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1000:]}" for log in logs)
