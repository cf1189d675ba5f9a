"""Bytes of the recording of a long run: 200 calls through a model proxy, whose conversation grows to 150 kB.

Answers and results of tools are lines of this repository.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.measurement import Options, Row, Target
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.command_payloads import Limits
from ocf.events.execution_ref import ExecutionRef
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.model_proxy import ModelProxy, Upstream
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.line_types import Head, Holds
from ocf.functions.recording.model_call_recorder import Recorder
from tests.support.faulty_model import chat, faulty_model

ROOT = Path(__file__).resolve().parents[2]
CALLS, CONVERSATION = 200, 150_000
#: Part of what crossed the wire, in percent.
LIMITS: dict[Holds, float] = {"answers": 1.0, "full": 5.0}


async def measure(options: Options) -> list[Row]:
    """Run it once with each kind of recording: nothing in it is chance."""
    return [await stored(holds) for holds in LIMITS]


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
        async with httpx2.AsyncClient(base_url=proxy.base_url, headers=headers, timeout=30) as client:
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
