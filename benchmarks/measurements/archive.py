"""The archive function on 100 MB of output, beside boto3's own multipart upload of the same bytes."""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import psutil
from boto3.s3.transfer import TransferConfig

from benchmarks.measurement import Options, Row, Target
from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.adapters.s3 import S3Config, S3Store
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import new_event
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Completed
from ocf.events.lifecycle import State
from ocf.events.output import Chunk, ChunkType
from ocf.functions.archive.handler import archive
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.function import bind
from ocf.functions.runtime.setup import apply
from ocf.functions.settings.settings import Settings
from tests.support.database import memory_history
from tests.support.nats import running_nats
from tests.support.weed import running_weed

CHUNK = 16 * 1024
PROJECT = "default"


class Peak:
    """The largest RSS of this process while it is entered, over that at the start, in megabytes."""

    def __enter__(self) -> Peak:
        self._process = psutil.Process()
        self._start = self.most = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """In megabytes."""
        return (self.most - self._start) / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, self._process.memory_info().rss)


def text(size: int, seed: int) -> str:
    """Something like a build's log: words that come again, numbers that do not."""
    random_ = random.Random(seed)  # noqa: S311 - not for secrets
    words = ["test", "passed", "building", "src/parser/module", "warning: unused variable", "Compiling", "in", "PASS"]
    lines, have = [], 0
    while have < size:
        line = f"[{random_.random() * 1e6:.3f}] {' '.join(random_.choices(words, k=8))} {random_.getrandbits(64):x}\n"
        lines.append(line)
        have += len(line)
    return "".join(lines)[:size]


async def fill(bus: NatsBus, execution: str, megabytes: int) -> int:
    """Say that much output; how many chunks it is."""
    count = megabytes * 1_000_000 // CHUNK
    writer = bus.writer(subjects.output(PROJECT, execution))
    for seq in range(1, count + 1):
        chunk = Chunk(seq=seq, type=ChunkType.STDOUT, data=text(CHUNK, seq), timestamp=datetime.now(UTC))
        headers = {"ce-sequence": str(seq), "Nats-Msg-Id": f"{execution}:{seq}"}
        await writer.send(chunk.model_dump_json().encode(), headers)
    await writer.flush(60)
    writer.close()
    return count


class Archiver:
    """The function on real servers, and boto3 on the same."""

    def __init__(self, bus: NatsBus, store: S3Store, where: S3Config) -> None:
        clock = SystemClock()
        executions = NatsBucket(bus, subjects.EXECUTIONS_BUCKET)
        triggers = NatsBucket(bus, subjects.TRIGGERS_BUCKET)
        self._deps = Dependencies(
            settings=Settings(),
            clock=clock,
            bus=bus,
            executions=executions,
            sessions=NatsBucket(bus, subjects.SESSIONS_BUCKET),
            triggers=triggers,
            isolation=Isolation(clock, bus, store),
            open_history=functools.cache(memory_history),
            store=store,
            records=Records(
                executions, bus, clock, source="/bench", store=store, open_keys=NatsBucket(bus, subjects.OPEN_BUCKET)
            ),
            keyring=None,
            credentials=ForgeCredentials(NatsBucket(bus, subjects.CREDENTIALS_BUCKET), clock),
            worker="bench",
        )
        keys = {"aws_access_key_id": where.access_key, "aws_secret_access_key": where.secret_key}
        self._client: Any = boto3.client("s3", endpoint_url=where.endpoint_url, region_name=where.region, **keys)
        self._bucket = where.bucket

    async def ours(self, execution: str, chunks: int) -> float:
        """Seconds until the manifest is there."""
        now = self._deps.clock.now()
        given = {"execution_id": execution, "project_id": PROJECT, "submitted_at": now, "updated_at": now}
        record = Record.model_validate({**given, "state": State.COMPLETED, "timeout_seconds": 60})
        key = ExecutionRef(PROJECT, execution).record_key
        if found := await self._deps.executions.get(key):
            await self._deps.executions.update(key, record.model_dump_json().encode(), found.revision)
        else:
            await self._deps.records.create(record)
        fact = Completed(
            execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=1, last_sequence=chunks, model="m/m"
        )
        event = new_event("dev.ocf.task.completed.v1", fact, source="/bench", time=now)
        subject = subjects.fact(PROJECT, execution, "completed")
        started = time.perf_counter()
        await bind(archive, self._deps)(event.with_extensions(**{NATS_SUBJECT: subject}))
        return time.perf_counter() - started

    async def raw(self, path: Path) -> float:
        """Seconds of boto3's own upload in parts."""
        config = TransferConfig(multipart_threshold=8 * 1024**2, multipart_chunksize=8 * 1024**2, max_concurrency=6)
        started = time.perf_counter()
        await asyncio.to_thread(self._client.upload_file, str(path), self._bucket, "bench/raw", Config=config)
        return time.perf_counter() - started


async def measure(options: Options) -> list[Row]:
    """One in turn with the other."""
    small, large = (2, 4) if options.quick else (25, 100)
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder:
        top = Path(folder)
        with running_nats(top / "nats", streams=False) as nats, running_weed(top / "weed") as where:
            bus = await connect(nats.url, creds=nats.creds, name="bench")
            await apply(bus)
            store = S3Store(where)
            archiver = Archiver(bus, store, where)
            execution, quarter = str(uuid.uuid4()), str(uuid.uuid4())
            chunks, few = await fill(bus, execution, large), await fill(bus, quarter, small)
            flat = top / "raw"
            await asyncio.to_thread(flat.write_text, "".join(text(CHUNK, seq) for seq in range(1, chunks + 1)))
            await archiver.ours(quarter, few)  # boto3 is imported at the first call
            ours: list[float] = []
            raw: list[float] = []
            growth: tuple[list[float], list[float]] = ([], [])
            for _ in range(options.of(5)):
                with Peak() as peak:
                    await archiver.ours(quarter, few)
                growth[1].append(peak.growth)
                with Peak() as peak:
                    ours.append(large / await archiver.ours(execution, chunks))
                growth[0].append(peak.growth)
                raw.append(large / await archiver.raw(flat))
            store.close()
            await bus.close()
    said = "ours reads it from the stream, orders and compresses it, hashes, uploads, and verifies what S3 has"
    return [
        Row(f"archive of {large} MB of output", "MB/s", ours, raw, "boto3 upload_file of the same bytes, 8 MiB parts",
            Target("ratio", 0.8, at_least=True), said),
        Row(f"archive of {large} MB, growth of memory", "MB", growth[0], growth[1], f"the same with {small} MB",
            Target("max", 60)),
    ]  # fmt: skip
