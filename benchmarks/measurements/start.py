"""`ocf up` in a fresh directory: seconds until it says where everything is, and what it holds when idle."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measurement import Options, Row, Target
from benchmarks.stack_memory import component_memory, pss
from tests.support.processes import parts
from tests.support.stack import OCF, Stack, running_stack

MIB = 1024**2


def _plain() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def up_and_down(folder: Path, **environ: str) -> float:
    """Seconds of `ocf up --detach --json`."""
    data = ["--data-dir", str(folder)]
    env = {**_plain(), **environ}
    started = time.perf_counter()
    told = subprocess.run([OCF, "up", "--detach", "--json", *data], env=env, cwd=folder, capture_output=True, text=True)
    took = time.perf_counter() - started
    subprocess.run([OCF, "down", *data], env=env, cwd=folder, capture_output=True, check=False)
    if told.returncode:
        raise RuntimeError(f"ocf up: {told.stderr[-500:]}")
    return took


async def idle(seconds: float, **environ: str) -> dict[str, float]:
    """MiB of each process of a stack that has been idle for a while."""
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_stack(Path(folder), **environ) as stack:
        await asyncio.sleep(seconds)
        found = component_memory(stack)
        return {name: size / MIB for name, size in found.items()} | {"ocf up": _rest(stack, found) / MIB}


def _rest(stack: Stack, found: dict[str, int]) -> int:
    """`ocf up` itself and whatever else it started, such as the offline model."""
    others = [process.pid for name, process in parts(psutil.Process(stack.process.pid)).items() if name not in found]
    return pss(stack.process.pid) + sum(pss(pid) for pid in others)


async def measure(options: Options) -> list[Row]:
    """With the machine's own OpenCode found, no slot warmed: a slot is OpenCode, and not waited for."""
    times, memory = [], []
    model = {"OCF_MODEL": "openai/none", "OCF_MODEL_ENDPOINT": "http://127.0.0.1:9/v1"}
    offline, again = [], []
    for _ in range(options.of(20)):
        with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder:
            times.append(await asyncio.to_thread(up_and_down, Path(folder), WARM_SLOTS="0", **model))
            again.append(await asyncio.to_thread(up_and_down, Path(folder), WARM_SLOTS="0", **model))
        with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder:
            offline.append(await asyncio.to_thread(up_and_down, Path(folder)))
    parts: dict[str, list[float]] = {}
    for _ in range(options.of(2)):
        found = await idle(1 if options.quick else 10)
        memory.append(sum(found.values()))
        for name, size in found.items():
            parts.setdefault(name, []).append(size)
    rows = [
        Row("`ocf up` to ready, fresh directory", "s", times, target=Target("p50", 3.0), note="a model is configured"),
        Row("`ocf up` to ready, second start", "s", again),
        Row("`ocf up` to ready, offline model and a warm slot starting", "s", offline),
        Row("idle memory of the stack, no OpenCode", "MiB", memory, target=Target("max", 300), note="PSS, summed"),
    ]
    return rows + [Row(f"of it: {name}", "MiB", sizes) for name, sizes in parts.items()]
