"""What figures that need a whole stack share: where it is, what its processes hold, when its slots are warm."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.stack import Stack

ROWS = ("nats", "s3", "control", "execute", "dispatcher")


def pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages are counted once over all who share them. 0 when it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def component_memory(stack: Stack) -> dict[str, int]:
    """Bytes of each process of the stack, execute with its workers, without the agents."""
    found = {name: pss(pid) for name in ROWS if (pid := stack.pid(name)) is not None}
    found["execute"] = found.get("execute", 0) + sum(pss(worker.pid) for worker in stack.workers())
    return found


def total(pids: Iterable[int]) -> int:
    """Bytes of all of them."""
    return sum(pss(pid) for pid in pids)


async def warm(stack: Stack, slots: int, timeout: float = 90.0) -> None:
    """Wait until that many slots are ready. Raises TimeoutError."""
    url = _execute_url(stack) + "/metrics"
    async with asyncio.timeout(timeout):
        while True:
            text = ""
            with suppress(OSError):  # the worker that answers may just be leaving
                text = await asyncio.to_thread(_read, url)
            found = [line for line in text.splitlines() if line.startswith("ocf_warm_slots ")]
            if found and float(found[0].split()[1]) >= slots:
                return
            await asyncio.sleep(0.1)


def _execute_url(stack: Stack) -> str:
    ports = json.loads((stack.data_dir / "ports.json").read_text())
    return f"http://127.0.0.1:{ports['execute']}"


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback address of ours
        return str(answer.read().decode())


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie does not."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
