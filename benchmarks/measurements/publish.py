"""How many output chunks of 256 bytes one execute process can say in a second, beside raw `publish_async`."""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from ocf.events import subjects
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.output import ChunkType, Draft
from ocf.events.redaction import Redactor
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.attempt.output_publisher import Publisher
from ocf.functions.runtime.setup import apply
from tests.support.nats import running_nats

SIZE = 256
PROJECT = "default"
#: As an execution has: a model key and the model proxy's token.
SECRETS = ("sk-bench-0123456789abcdef0123456789abcdef", "ocf-0123456789abcdefghijklmnopqrstuvwxyz")


class Held:
    """A lease that is held."""

    held = True

    async def wait_until_held(self) -> bool:
        """Yes."""
        return True

    def invalidate(self) -> None:
        """Nobody else writes."""


async def ours(bus: NatsBus, count: int, draft: Draft) -> float:
    """Drafts per second through Publisher and NatsWriter, until all of it is kept."""
    execution = str(uuid.uuid4())
    publisher = Publisher(bus, SystemClock(), Redactor(SECRETS), project=PROJECT, execution=execution)
    publisher.begin(1, await acquire_fence(bus, PROJECT, execution), max_bytes=0, ownership=Held())
    started = time.perf_counter()
    for _ in range(count):
        await publisher.emit(draft)
    await publisher.finish(60)
    took = time.perf_counter() - started
    publisher.close()
    await bus.purge(subjects.OUTPUT, subjects.output(PROJECT, execution))
    return count / took


async def raw(bus: NatsBus, count: int, data: bytes, headers: dict[str, str] | None) -> float:
    """Messages per second of nats-py's `publish_async`; with `headers`, each message has an id of its own."""
    execution = str(uuid.uuid4())
    subject = subjects.output(PROJECT, execution)
    started = time.perf_counter()
    for number in range(count):
        given = {**headers, "Nats-Msg-Id": f"{execution}:{number}"} if headers is not None else None
        await bus.js.publish_async(subject, data, headers=given)
    await bus.js.publish_async_completed()
    took = time.perf_counter() - started
    await bus.purge(subjects.OUTPUT, subject)
    return count / took


async def measure(options: Options) -> list[Row]:
    """Three ways in turn: ours, raw with 256 bytes, raw with the very message that ours is on the wire."""
    count = 500 if options.quick else 4000
    tool = Draft(type=ChunkType.STDOUT, data="x" * SIZE)
    delta = Draft(type=ChunkType.TEXT, data="x" * SIZE, merge_key="text:1")
    found: dict[str, list[float]] = {"ours": [], "joined": [], "bare": [], "same": []}
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_nats(Path(folder), streams=False) as nats:
        bus = await connect(nats.url, creds=nats.creds, name="bench")
        await apply(bus)
        data, headers = await _message(bus, tool)
        for turn in range(options.of(20) + 1):
            rates = {
                "ours": await ours(bus, count, tool),
                "bare": await raw(bus, count, b"x" * SIZE, None),
                "same": await raw(bus, count, data, headers),
                "joined": await ours(bus, count, delta),
            }
            for name, rate in rates.items():
                if turn:
                    found[name].append(rate)
        await bus.close()
    said = f"a message of ours has {len(data)} bytes of data and {len(headers)} headers"
    return [
        Row("output publish throughput, 256 B chunks", "chunks/s", found["ours"], found["bare"],
            "raw publish_async of 256 B, no headers", Target("ratio", 0.6, at_least=True), said),
        Row("the same, against the same message", "chunks/s", found["ours"], found["same"],
            "raw publish_async of the very message, headers and id included"),
        Row("256 B text deltas, joined for 20 ms", "deltas/s", found["joined"], found["bare"],
            "raw publish_async of 256 B, no headers"),
    ]  # fmt: skip


async def _message(bus: NatsBus, draft: Draft) -> tuple[bytes, dict[str, str]]:
    """One of our messages as it is kept."""
    execution = str(uuid.uuid4())
    publisher = Publisher(bus, SystemClock(), Redactor(SECRETS), project=PROJECT, execution=execution)
    publisher.begin(1, await acquire_fence(bus, PROJECT, execution), max_bytes=0, ownership=Held())
    await publisher.emit(draft)
    await publisher.finish(10)
    publisher.close()
    kept = await bus.last(subjects.OUTPUT, subjects.output(PROJECT, execution))
    assert kept is not None
    return kept.data, {k: v for k, v in kept.headers.items() if k.lower().startswith("ce-") or k == "Content-Type"}
