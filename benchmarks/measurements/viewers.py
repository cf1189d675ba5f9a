"""200 viewers of one execution at 200 chunks a second: how late, whether anything is lost, what the publisher pays."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import uvloop

from benchmarks.measurement import Options, Row, Target, thinned
from benchmarks.measurements.publish import PROJECT, SECRETS, Held
from benchmarks.nats_wire import connected
from ocf.events import subjects
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.output import ChunkType, Draft
from ocf.events.redaction import Redactor
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.attempt.output_publisher import Publisher
from ocf.functions.runtime.setup import apply
from tests.support.nats import NatsServer, running_nats

VIEWERS = 200
RATE = 200


async def view(port: int, creds: str, subject: str, count: int, expected: int) -> None:
    """The viewers' process: says `ready`, and at the end what all of them heard, as JSON."""
    viewers = [await connected(port, Path(creds), subject) for _ in range(count)]
    print("ready", flush=True)
    deadline = time.perf_counter() + 60
    while min(len(viewer.delays) for viewer in viewers) < expected and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)  # one too many would come now
    heard = [len(viewer.delays) for viewer in viewers]
    delays = sorted(delay for viewer in viewers for delay in viewer.delays)
    cut = {name: delays[int(share * (len(delays) - 1))] for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    print(json.dumps({"heard": [min(heard), max(heard)], **cut, "some": thinned(delays)}), flush=True)


async def say(bus: NatsBus, execution: str, count: int) -> float:
    """Say that many chunks at the rate; processor seconds of this process."""
    publisher = Publisher(bus, SystemClock(), Redactor(SECRETS), project=PROJECT, execution=execution)
    publisher.begin(1, await acquire_fence(bus, PROJECT, execution), max_bytes=0, ownership=Held())
    spent, start = time.process_time(), time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        await publisher.emit(Draft(type=ChunkType.STDOUT, data=f"@{time.perf_counter_ns()}@{'x' * 230}"))
    await publisher.finish(30)
    spent = time.process_time() - spent
    publisher.close()
    return spent


async def watched(bus: NatsBus, nats: NatsServer, count: int, viewers: int) -> tuple[float, dict[str, object]]:
    """A run with viewers: processor seconds of the publisher, and what they heard."""
    execution = str(uuid.uuid4())
    subject = subjects.live(PROJECT, execution)
    argv = [sys.executable, "-m", "benchmarks.measurements.viewers", str(nats.port), str(nats.creds), subject]
    process = await asyncio.create_subprocess_exec(*argv, str(viewers), str(count), stdout=subprocess.PIPE)
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    cpu = await say(bus, execution, count)
    told = await asyncio.wait_for(process.stdout.read(), 90)
    await process.wait()
    return cpu, json.loads(told)


async def measure(options: Options) -> list[Row]:
    """With viewers and without, in turn."""
    count, viewers = (40, 20) if options.quick else (RATE * 4, VIEWERS)
    with_, without, p99, p50, lost = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_nats(Path(folder), streams=False) as nats:
        bus = await connect(nats.url, creds=nats.creds, name="bench")
        await apply(bus)
        await say(bus, str(uuid.uuid4()), count)
        for _ in range(options.of(6)):
            cpu, heard = await watched(bus, nats, count, viewers)
            with_.append(cpu)
            without.append(await say(bus, str(uuid.uuid4()), count))
            p50.append(float(str(heard["p50"])))
            p99.append(float(str(heard["p99"])))
            least, most = heard["heard"]  # type: ignore[misc]
            lost.append(float(max(count - least, most - count)))
        await bus.close()
    named = f"{viewers} viewers at {RATE} chunks/s"
    each = f"each sample is one run of {count} chunks to each of {viewers} connections"
    return [
        Row(f"{named}: chunk said to received, p99 of a run", "ms", p99, target=Target("max", 100), note=each),
        Row(f"{named}: chunk said to received, p50 of a run", "ms", p50),
        Row(f"{named}: chunks lost or doubled by the worst", "chunks", lost, target=Target("max", 0)),
        Row(f"{named}: processor time of the publisher", "s", with_, without, "the same without viewers",
            Target("ratio", 1.1)),
    ]  # fmt: skip


if __name__ == "__main__":
    uvloop.run(view(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
