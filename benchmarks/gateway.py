"""What the gateway does in a second, and how long a caller waits: one worker, a real nats-server with file storage.

Run: python -m benchmarks.gateway [--seconds 5] [--json]

The gateway is a process of its own. The caller speaks HTTP over bare sockets, so that it costs little of the machine.
`cpu` is the gateway's own processor time per call, which does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import psutil
import uvicorn
from websockets.asyncio.client import connect as connect_websocket

from ocf.events import subjects
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.output import Chunk, ChunkType
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.database.migrate import migrate
from ocf.functions.database.store import History
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.gateway_deps import GatewayDeps
from ocf.functions.gateway.settings import GatewaySettings
from ocf.functions.runtime import uvicorn_server
from ocf.stack.ports import allocate
from tests.support.nats import NatsServer, running_nats

TASK = json.dumps({"prompt": "Fix the failing test in tests/test_parser.py", "labels": {"team": "bench"}}).encode()
VIEWERS = 20
RATE = 200
RECORDS = 10_000


async def serve(url: str, creds: str, port: int, database: str) -> None:
    """The gateway's process."""
    bus = await connect(url, creds=Path(creds), name="gateway-bench")
    deps = GatewayDeps(
        bus=bus,
        executions=NatsBucket(bus, subjects.EXECUTIONS_BUCKET),
        sessions=NatsBucket(bus, subjects.SESSIONS_BUCKET),
        triggers=NatsBucket(bus, subjects.TRIGGERS_BUCKET),
        store=MemoryStore(),
        history=History.at(database),
        clock=SystemClock(),
        settings=GatewaySettings(),
        credentials=ForgeCredentials(NatsBucket(bus, subjects.CREDENTIALS_BUCKET), SystemClock()),
    )
    config = uvicorn.Config(
        create_app(deps), host="127.0.0.1", port=port, log_config=None, access_log=False, ws="websockets-sansio"
    )
    await uvicorn_server.serve(config)


class Caller:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def call(self, method: str, path: str, body: bytes = b"") -> float:
        """Seconds from the first byte sent to the last received. Raises unless the answer is 2xx."""
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        started = time.perf_counter()
        self._writer.write((head + "content-type: application/json\r\n\r\n").encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = answer.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        content = await self._reader.readexactly(int(length))
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{method} {path}: {answer.splitlines()[0]!r} {content[:200]!r}")
        return time.perf_counter() - started


@dataclass(frozen=True)
class Bench:
    """The running parts."""

    port: int
    process: psutil.Process
    bus: NatsBus
    history: History
    seconds: float

    async def flat_out(self, connections: int, method: str, path: str, body: bytes = b"") -> dict[str, float]:
        """As many calls as it answers."""
        took: list[float] = []
        until = time.perf_counter() + self.seconds

        async def one() -> None:
            async with Caller(self.port) as caller:
                while time.perf_counter() < until:
                    took.append(await caller.call(method, path, body))

        spent, started = _cpu(self.process), time.perf_counter()
        await asyncio.gather(*(one() for _ in range(connections)))
        wall = time.perf_counter() - started
        return {
            "per_second": round(len(took) / wall),
            "cpu_ms": round(1000 * (_cpu(self.process) - spent) / len(took), 3),
            **quantiles(took),
        }

    async def at(self, rate: float, method: str, path: str, body: bytes = b"") -> dict[str, float]:
        """Calls at a fixed rate, whether or not earlier ones were answered."""
        took: list[float] = []
        idle: asyncio.Queue[Caller] = asyncio.Queue()
        callers = [Caller(self.port) for _ in range(32)]
        for caller in callers:
            await caller.__aenter__()
            idle.put_nowait(caller)

        async def one(due: float) -> None:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            caller = await idle.get()
            await caller.call(method, path, body)
            # From when it was due: a call that had to wait for a connection waited for the gateway.
            took.append(time.perf_counter() - due)
            idle.put_nowait(caller)

        start = time.perf_counter() + 0.1
        await asyncio.gather(*(one(start + n / rate) for n in range(int(self.seconds * rate))))
        for caller in callers:
            await caller.__aexit__()
        return quantiles(took)


def quantiles(took: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cut = statistics.quantiles(took, n=100)
    return {f"p{at}_ms": round(1000 * cut[at - 1], 2) for at in (50, 95, 99)}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _record(executions: NatsBucket, execution: str, **fields: object) -> Record:
    given = {"state": State.RUNNING, "timeout_seconds": 60, **fields}
    record = Record.model_validate({"execution_id": execution, "project_id": "default", **given})
    await executions.create(ExecutionRef("default", execution).record_key, record.model_dump_json().encode())
    return record


async def flood(bench: Bench, executions: NatsBucket) -> dict[str, float]:
    """`/health` while 20 WebSocket viewers follow an execution that says 200 chunks a second."""
    execution = str(uuid.uuid4())
    now = datetime.now(UTC)
    await _record(executions, execution, submitted_at=now, updated_at=now)
    said, heard, late = 0, [0] * VIEWERS, list[float]()

    async def say() -> None:
        nonlocal said
        start = time.perf_counter()
        while True:
            said += 1
            chunk = Chunk(seq=said, type=ChunkType.TEXT, data="x" * 120, timestamp=datetime.now(UTC))
            headers = {"ce-sequence": str(said), "Nats-Msg-Id": f"{execution}:{said}"}
            await bench.bus.publish(subjects.output("default", execution), chunk.model_dump_json().encode(), headers)
            await asyncio.sleep(max(0.0, start + said / RATE - time.perf_counter()))

    async def view(number: int) -> None:
        async with connect_websocket(f"ws://127.0.0.1:{bench.port}/tasks/{execution}/stream") as socket:
            async for text in socket:
                message = json.loads(text)
                if "attempt" in message:
                    heard[number] += 1
                    sent = datetime.fromisoformat(message["timestamp"])
                    late.append((datetime.now(UTC) - sent).total_seconds())

    tasks = [asyncio.ensure_future(view(number)) for number in range(VIEWERS)]
    await asyncio.sleep(0.5)
    tasks.append(asyncio.ensure_future(say()))
    spent = _cpu(bench.process)
    measured = await bench.at(50, "GET", "/health")
    busy = (_cpu(bench.process) - spent) / bench.seconds
    tasks[-1].cancel()
    deadline = time.perf_counter() + 30
    while min(heard) < said - 1:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"of {said} chunks the viewers have {sorted(heard)}")
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    delay = {f"chunk_{name}": value for name, value in quantiles(late).items()}
    return {
        **measured,
        **delay,
        "chunks_per_second": round(sum(heard) / bench.seconds),
        "cpu_of_a_core": round(busy, 2),
    }


async def run(nats: NatsServer, bench: Bench, executions: NatsBucket) -> dict[str, dict[str, float]]:
    """Every figure."""
    figures = {
        "POST /tasks/execute, 16 callers": await bench.flat_out(16, "POST", "/tasks/execute", TASK),
        "POST /tasks/execute at 100/s": await bench.at(100, "POST", "/tasks/execute", TASK),
        "GET /health, 16 callers": await bench.flat_out(16, "GET", "/health"),
        f"GET /health at 50/s, {VIEWERS} viewers at {RATE} chunks/s": await flood(bench, executions),
    }
    start = datetime.now(UTC) - timedelta(days=1)
    for hundred in range(0, RECORDS, 100):
        times = [(number, start + timedelta(seconds=number)) for number in range(hundred, hundred + 100)]
        made = (
            _record(executions, str(uuid.uuid4()), submitted_at=at, updated_at=at, title=f"Task {n}") for n, at in times
        )
        for record in await asyncio.gather(*made):
            await bench.history.save(record)
    figures[f"GET /tasks, first page of {RECORDS}"] = await bench.at(20, "GET", "/tasks")
    figures[f"GET /tasks?q=none of {RECORDS}"] = await bench.at(5, "GET", "/tasks?q=there-is-no-such-title")
    return figures


@asynccontextmanager
async def started(nats: NatsServer, seconds: float) -> AsyncIterator[tuple[Bench, NatsBucket]]:
    """The gateway's process, once it answers."""
    port = allocate(("gateway",), {}, {})["gateway"]
    folder = tempfile.TemporaryDirectory(prefix="ocf-bench-")
    database = f"sqlite:///{folder.name}/history.db"
    migrate(database)
    history = History.at(database)
    arguments = ("--serve", nats.url, str(nats.creds), str(port), database)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gateway", *arguments])  # noqa: ASYNC220  (once, before anything runs)
    bus = await connect(nats.url, creds=nats.creds, name="bench")
    try:
        await _answering(port)
        bench = Bench(port, psutil.Process(process.pid), bus, history, seconds)
        yield bench, NatsBucket(bus, subjects.EXECUTIONS_BUCKET)
    finally:
        process.terminate()
        process.wait()
        await bus.close()
        history.close()
        folder.cleanup()


async def _answering(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with Caller(port) as caller:
                    await caller.call("GET", "/ready")
                    return
            except (OSError, RuntimeError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.1)


def main() -> None:
    """Print the figures."""
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="per figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=4, metavar=("URL", "CREDS", "PORT", "DATABASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        url, creds, port, database = options.serve
        uvloop.run(serve(url, creds, int(port), database))
        return

    async def all_of_it(nats: NatsServer) -> dict[str, dict[str, float]]:
        async with started(nats, options.seconds) as (bench, executions):
            return await run(nats, bench, executions)

    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_nats(Path(folder)) as nats:
        figures = uvloop.run(all_of_it(nats))
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, values in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))


if __name__ == "__main__":
    main()
