"""What recording the model calls costs: chunks and processor time of a run, and the bytes of a long one.

`off` and each kind of recording take turns on one stack. The long run is 200 calls through a model proxy, whose
conversation grows to 150 kB: answers and results of tools are lines of this repository.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness import Options, Row, Target
from benchmarks.machines import warm
from benchmarks.scripted_model import ScriptedModel
from benchmarks.warm_run import Run, run
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_payloads import Limits
from ocf.events.refs import ExecutionRef
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.lines import Head, Holds
from ocf.functions.recording.recorder import Recorder
from tests.support.faulty_model import chat, faulty_model
from tests.support.offline import OPENCODE
from tests.support.stack import running_stack

ROOT = Path(__file__).resolve().parents[2]
KINDS: tuple[Holds, ...] = ("answers", "full")
SCRIPT = "WORDS: 200 10"
CALLS, CONVERSATION = 200, 150_000
#: Part of what crossed the wire, in percent.
LIMITS = {"answers": 1.0, "full": 5.0}


async def measure(options: Options) -> list[Row]:
    """Measure both."""
    rows = [await stored(holds) for holds in KINDS]
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    return [*await _beside_off(options), *rows]


async def _beside_off(options: Options) -> list[Row]:
    """Each kind in turn; a first round is not kept."""
    found: dict[str, list[Run]] = {kind: [] for kind in ("off", *KINDS)}
    with (
        ScriptedModel() as model,
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as top,
        running_stack(
            Path(top),
            OPENCODE_BIN=str(OPENCODE),
            OCF_MODEL="openai/m1",
            OCF_MODEL_ENDPOINT=model.base_url,
            WARM_SLOTS="1",
        ) as stack,
    ):
        for turn in range(options.of(10) + 1):
            for kind, runs in found.items():
                await warm(stack, 1, timeout=300)
                one = await run(stack, model, SCRIPT, recording=kind)
                cpu = sum(one.cpu.values())
                sys.stderr.write(f"  {kind}: end {one.end:.2f} s, cpu {cpu:.2f} s, load {os.getloadavg()[0]:.1f}\n")
                if turn:
                    runs.append(one)
    return list(itertools.chain.from_iterable(_rows(kind, found[kind], found["off"]) for kind in KINDS))


def _rows(kind: str, ours: list[Run], off: list[Run]) -> Iterator[Row]:
    against = "the same with `recording: off`"
    mine, theirs = ([1000 * lag for one in runs for lag in one.lags] for runs in (ours, off))
    yield Row(f"recording `{kind}`: lag of a word", "ms", mine, theirs, against, Target("ratio", 1.02))
    yield Row(f"recording `{kind}`: lag of a word, p95", "ms", mine, theirs, against, Target("p95 ratio", 1.02))
    mine, theirs = ([sum(one.cpu.values()) for one in runs] for runs in (ours, off))
    yield Row(f"recording `{kind}`: processor time of a run", "s", mine, theirs, against, Target("ratio", 1.02))


async def stored(holds: Holds) -> Row:
    """Return the bytes of a long run's recording, in percent of what crossed the wire."""
    store, clock, lines = MemoryStore(), SystemClock(), _lines()
    ref = ExecutionRef("bench", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
    answers = [next(lines) for _ in range(CALLS)]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "".join(itertools.islice(lines, 300))}]
    tools = [{"type": "function", "function": {"name": name, "description": next(lines)}} for name in "abcdefghij"]
    room = CONVERSATION - 85 * CALLS - len(json.dumps([*messages, *tools, *answers]))
    crossed = 0
    async with faulty_model(*(chat(*answer.split(" ")) for answer in answers)) as model:
        upstream = Upstream(clock, read_timeout=30.0)
        proxy = await ModelProxy(upstream, clock).start()
        head = Head(attempt=1, key="ab" * 32, holds=holds)
        recorder = Recorder(store, ref, head, PartTable(head.key, proxy.redactor), clock)
        proxy.assign(ModelTarget("bench", "m", "openai", model.base_url), Limits(), recorder=recorder)
        headers = {"authorization": f"Bearer {proxy.token}"}
        async with httpx.AsyncClient(base_url=proxy.base_url, headers=headers, timeout=30) as client:
            for answer in answers:
                said = ""
                while len(said) < room // CALLS:
                    said += next(lines)
                messages.append({"role": "user", "content": said[: room // CALLS]})
                body = json.dumps({"model": "m", "stream": True, "messages": messages, "tools": tools}).encode()
                reply = await client.post("/chat/completions", content=body)
                reply.raise_for_status()
                crossed += len(body) + len(reply.content)
                messages.append({"role": "assistant", "content": answer})
        await recorder.close(30.0)
        await proxy.close()
        await upstream.close()
    size = sum(len(data) for data in store.objects.values())
    kilobytes = len(json.dumps(messages)) / 1000
    note = f"{size / 1000:,.0f} kB of {crossed / 1e6:.1f} MB; the conversation has {kilobytes:.0f} kB"
    figure = f"recording `{holds}` of {CALLS} calls, part of what crossed the wire"
    return Row(figure, "%", [100 * size / crossed], target=Target("max", LIMITS[holds]), note=note)


def _lines() -> Iterator[str]:
    """Yield the lines of this repository's modules; none comes twice unless it is there twice."""
    for path in sorted((ROOT / "functions").rglob("*.py")):
        yield from path.read_text().splitlines(keepends=True)
