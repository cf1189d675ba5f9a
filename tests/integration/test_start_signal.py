"""A container's first process that is told to go while it is still starting goes, instead of living out its grace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ocf.stack.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["ocf.functions.runtime.serve", "ocf.functions.dispatcher.main"])
def test_told_to_go_while_it_waits_for_nats_it_goes(module: str, tmp_path: Path) -> None:
    """It has a handler for SIGTERM from its first lines on: without one the kernel would keep the signal from a first
    process, and it would serve on for the hour that a run may take."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "FUNCTION_TARGET": "cancel",
        "NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "PORT": str(free_port()),
        "STATE_DIR": str(tmp_path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "ocf.functions.runtime.early_signals", module],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            line = process.stdout.readline()
            assert b"NATS error" in line, line
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0  # a stop by request, as when it is connected
            assert time.monotonic() - told < 5
        finally:
            process.kill()
            process.wait()
