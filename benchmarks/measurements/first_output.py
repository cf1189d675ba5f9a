"""Submit to the agent's first word and to the end: a warm slot, no slot, and a bare `opencode run`, in turn.

All run the real OpenCode on one script (benchmarks/data/task.json): a shell call of a second, a file, forty words at
20 ms. Bare is given every advantage: its HOME is used again, and any first line of its output counts; of ours, only
what the agent itself says (text, reasoning, a tool call) counts, not our own status lines.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from benchmarks.stack_memory import warm
from ocf.events import subjects
from ocf.events.output import Chunk, ChunkType
from ocf.functions.models.offline_model import OfflineModel
from tests.support.offline import OPENCODE, ROOT, offline_spec, opencode_env
from tests.support.stack import Project, running_stack

PROMPT = "Sleep a second, write hello.txt, and tell me about it."
MODEL = "scripted"


async def ours(project: Project) -> tuple[float, float]:
    """Seconds to the agent's first word, and to the `completed` fact, as somebody hears them who listens to NATS."""
    pattern = (f"ocf.live.{project.name}.*", f"ocf.evt.{project.name}.*.completed", f"ocf.evt.{project.name}.*.failed")
    async with project.bus.listen(*pattern) as messages:
        started = time.perf_counter()
        execution = await project.submit(PROMPT)
        first = None
        async with asyncio.timeout(120):
            async for message in messages:
                if message.subject.endswith((".completed", ".failed")):
                    assert message.subject == subjects.fact(project.name, execution, "completed"), message.data
                    assert first is not None
                    return first, time.perf_counter() - started
                if first is None and Chunk.model_validate_json(message.data).type is ChunkType.TEXT:
                    first = time.perf_counter() - started
    raise AssertionError("the stream ended")


async def bare(model: OfflineModel, home: Path) -> tuple[float, float]:
    """Seconds of `opencode run` to its first line, and to its end."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="ocf-bench-"))
    try:
        env = opencode_env(home, model.base_url, "key", MODEL)
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            OPENCODE, "run", "--format", "json", PROMPT, cwd=folder, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(120):
            await process.stdout.readline()
            first = time.perf_counter() - started
            await process.stdout.read()
            await process.wait()
        assert (folder / "hello.txt").exists(), "bare opencode run did not do the task"
        return first, time.perf_counter() - started
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


async def measure(options: Options) -> list[Row]:
    """Warm, cold, bare, in turn. Two stacks: one with a warm slot, one without."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    found: dict[str, list[tuple[float, float]]] = {"warm": [], "cold": [], "bare": []}
    async with OfflineModel(offline_spec([ROOT / "benchmarks/data/task.json"], speed=1.0)) as model:
        env = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": f"openai/{MODEL}", "OCF_MODEL_ENDPOINT": model.base_url}
        with (
            tempfile.TemporaryDirectory(prefix="ocf-bench-") as top,
            tempfile.TemporaryDirectory(prefix="ocf-bench-") as other,
            running_stack(Path(top), **env, WARM_SLOTS="1") as ready,
            running_stack(Path(other), **env, WARM_SLOTS="0") as empty,
        ):
            home = Path(top) / "home"
            home.mkdir()
            async with ready.project() as with_slot, empty.project() as without:
                for turn in range(options.of(20) + 1):
                    await warm(ready, 1)
                    three = {"warm": await ours(with_slot)}
                    await warm(ready, 1)  # the next slot is filled: what follows has the machine to itself
                    three |= {"cold": await ours(without), "bare": await bare(model, home)}
                    for name, pair in three.items():
                        if turn:
                            found[name].append(pair)
                    sys.stderr.write(f"  { ({name: [round(x, 2) for x in pair] for name, pair in three.items()}) }\n")
    first = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    total = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}
    line, end = "`opencode run --format json`, its first line", "`opencode run --format json`, its exit"
    return [
        Row("submit to first output, warm slot", "s", first["warm"], first["bare"], line, Target("ratio", 0.20)),
        Row("submit to first output, no slot ready", "s", first["cold"], first["bare"], line, Target("ratio", 1.25)),
        Row("submit to completed, warm slot", "s", total["warm"], total["bare"], end, Target("ratio", 0.60)),
        Row("submit to completed, no slot ready", "s", total["cold"], total["bare"], end),
    ]
