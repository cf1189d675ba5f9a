"""A whole embedded stack of a test's own (`ocf up`), with the scripted agent in OpenCode's place."""

from __future__ import annotations

import asyncio
import ctypes
import gzip
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.adapters.s3 import S3Config, S3Store
from ocf.events.client import Client
from ocf.events.envelope import Event, decode
from ocf.events.errors import NotYetKnown, Unavailable
from ocf.events.execution_record import Record
from ocf.events.output import Chunk
from ocf.functions.core.syscalls import drop_capabilities
from ocf.stack.ports import free_port
from ocf.stack.process_specs import table
from ocf.stack.up import plan_of
from tests.support.processes import alive, parts
from tests.support.relay import GATEWAYS, relay_thread

ROOT = Path(__file__).resolve().parents[2]
OCF = Path(sys.executable).with_name("ocf")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


async def until(wanted: Callable[[], Awaitable[Any]], *, timeout: float = 30.0, what: str = "it") -> Any:
    """The first true value of `wanted()`, looked at ten times a second. A bus that is away is waited for."""
    last: BaseException | None = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    if found := await wanted():
                        return found
                except Unavailable as error:
                    last = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {timeout:g} s ({last or 'it stayed false'})") from None


@dataclass
class Stack:
    """A running stack: where its parts are, and how to hurt them."""

    answer: dict[str, str]
    process: subprocess.Popen[str]
    #: A copy of tests/agent: `opencode` in it is what runs.
    agent: Path
    killed: list[int] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return Path(self.answer["data_dir"])

    @property
    def temporary(self) -> Path:
        """Its TMPDIR."""
        return self.data_dir.parent / "tmp"

    def log(self, name: str) -> str:
        """What a process wrote so far."""
        return (self.data_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def pid(self, name: str) -> int | None:
        """The process of that row of the stack's table; None while it is down."""
        found = parts(psutil.Process(self.process.pid)).get(name)
        return None if found is None else found.pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal that process, SIGKILL unless told; the stack starts it again. Returns its pid."""
        pid = self.pid(name)
        assert pid is not None, f"{name} does not run"
        os.kill(pid, number)
        self.killed.append(pid)
        return pid

    async def back(self, name: str, before: int, timeout: float = 60.0) -> int:
        """Wait until another process than `before` is in its place, and ready; returns its pid."""

        async def replaced() -> int | None:
            pid = self.pid(name)
            return pid if pid not in (None, before) else None

        found: int = await until(replaced, timeout=timeout, what=f"{name} is back")
        return found

    @contextmanager
    def faulty_agent(self, fault: str) -> Iterator[None]:
        """`missing`, or a fault of tests/agent/README.md: executions that start meanwhile get it."""
        started = self.agent / "opencode"
        started.unlink()
        try:
            if fault != "missing":
                started.write_text(f'#!/bin/sh\nexec "{self.agent}/opencode-{fault}" "$@"\n')
                started.chmod(0o755)
            yield
        finally:
            started.unlink(missing_ok=True)
            started.symlink_to("scripted")

    def children(self) -> list[psutil.Process]:
        """Every process that runs below the stack, but its own rows and the workers; zombies are left out."""
        with suppress(psutil.NoSuchProcess):
            up = psutil.Process(self.process.pid)
            own = {process.pid for process in parts(up).values()} | {process.pid for process in self.workers()}
            return [child for child in up.children(recursive=True) if child.pid not in own and alive(child)]
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes below execute that take one execution at a time; what has just died is left out."""
        with suppress(psutil.NoSuchProcess):
            parent = parts(psutil.Process(self.process.pid))["execute"]
            return [child for child in parent.children() if alive(child)]
        return []

    @property
    def s3(self) -> S3Config:
        said = self.answer
        return S3Config(
            bucket=said["s3_bucket"],
            endpoint_url=said["s3_endpoint"],
            access_key=said["s3_access_key"],
            secret_key=said["s3_secret_key"],
        )

    @asynccontextmanager
    async def project(self, name: str | None = None) -> AsyncIterator[Project]:
        """A project nobody else uses."""
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        backend = await connect(self.answer["nats"], creds=Path(self.answer["nats_creds"]), name="test-backend")
        bus = await connect(self.answer["nats"], creds=self.data_dir / "functions.creds", name="test")
        store = S3Store(self.s3)
        records, sessions = (
            NatsBucket(backend, bucket) for bucket in (subjects.EXECUTIONS_BUCKET, subjects.SESSIONS_BUCKET)
        )
        client = Client(backend, records, sessions, project=name, store=store)
        try:
            yield Project(self, name, client, bus, store)
        finally:
            await backend.close()
            await bus.close()
            store.close()


@dataclass
class Project:
    """What a test does with executions of one project. `client` has a backend's rights, `bus` a function's."""

    stack: Stack
    name: str
    client: Client
    bus: NatsBus
    store: S3Store

    async def submit(self, prompt: str | list[dict[str, Any]], **request: Any) -> str:
        """Submit a prompt, or the steps of a scripted turn; returns the execution id."""
        text = prompt if isinstance(prompt, str) else f"[[steps]] {json.dumps(prompt)}"
        return await self.client.submit(prompt=text, **request)

    async def record(self, execution: str) -> Record | None:
        """Its record, once there is one."""
        try:
            return await self.client.status(execution)
        except NotYetKnown:
            return None

    async def when(self, execution: str, wanted: Callable[[Record], bool], timeout: float = 30.0) -> Record:
        """The record as soon as it is as wanted."""
        seen: list[Record] = []

        async def look() -> Record | None:
            record = await self.record(execution)
            seen[:] = [record] if record else []
            return record if record is not None and wanted(record) else None

        try:
            found: Record = await until(look, timeout=timeout, what=f"record of {execution}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from None
        return found

    async def ended(self, execution: str, timeout: float = 30.0) -> Record:
        """The record once it has ended and its terminal fact is said."""
        return await self.when(execution, lambda record: record.terminal and not record.outbox, timeout)

    async def archived(self, execution: str, timeout: float = 30.0) -> Record:
        """The record once the archive claims it."""
        return await self.when(execution, lambda record: record.archived, timeout)

    async def running(self, execution: str, data: str, timeout: float = 60.0) -> None:
        """Wait until a chunk with `data` in it was said."""

        async def said() -> bool:
            return any(data in chunk.data for chunk in await self.chunks(execution))

        await until(said, timeout=timeout, what=f"{data!r} in the output of {execution}")

    async def facts(self, execution: str) -> list[str]:
        """The facts of an execution, in order; each is the last word of its subject."""
        pattern = f"ocf.evt.{self.name}.{execution}.*"
        return [m.subject.rsplit(".", 1)[-1] async for m in self.bus.history(subjects.EVENTS, pattern)]

    async def fact(self, execution: str, what: str, timeout: float = 30.0) -> dict[str, Any]:
        """The data of one fact, once it is said."""

        async def look() -> Event | None:
            message = await self.bus.last(subjects.EVENTS, f"ocf.evt.{self.name}.{execution}.{what}")
            return decode(message.headers, message.data) if message else None

        found: Event = await until(look, timeout=timeout, what=f"{what} of {execution}")
        data: dict[str, Any] = json.loads(found.data)
        return data

    async def chunks(self, execution: str) -> list[Chunk]:
        """Output as the stream keeps it, in the stream's order."""
        subject = subjects.output(self.name, execution)
        return [Chunk.model_validate_json(m.data) async for m in self.bus.history(subjects.OUTPUT, subject)]

    async def archive(self, execution: str) -> list[Chunk]:
        """Output as the archive keeps it."""
        packed = await self.store.get(f"{self.name}/{execution}/output.ndjson.gz")
        return [Chunk.model_validate_json(line) for line in gzip.decompress(packed).splitlines()]

    async def objects(self, execution: str) -> set[str]:
        """Names of its objects in S3."""
        prefix = f"{self.name}/{execution}/"
        return {info.key.removeprefix(prefix) async for info in self.store.list(prefix)}

    async def dead_letter(self, subject: str, timeout: float = 30.0) -> Mapping[str, str]:
        """Headers of the dead letter that came in on `subject`, once there is one."""

        async def look() -> Mapping[str, str] | None:
            async for message in self.bus.history(subjects.DLQ, "ocf.dlq.>"):
                if message.headers.get("Ocf-Dlq-Subject") == subject:
                    return message.headers
            return None

        found: Mapping[str, str] = await until(look, timeout=timeout, what=f"dead letter of {subject}")
        return found


def gapless(chunks: list[Chunk]) -> bool:
    """Whether the sequences are 1, 2, 3 …"""
    return [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))


@contextmanager
def running_stack(directory: Path, *, privileged: bool = True, **environ: str) -> Iterator[Stack]:
    """`ocf up` below `directory` until the block ends; it also ends when this process does, however that goes.

    `environ` adds to the environment. Without privileges it has no capabilities, like any user's. No aimock is started:
    the scripted agent asks no model.
    """
    agent = _agent(directory / "agent")
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    defaults = {
        "PYTHONPATH": str(ROOT),
        "OPENCODE_BIN": str(agent / "opencode"),
        "OCF_MODEL": "openai/none",
        "OCF_MODEL_ENDPOINT": "http://127.0.0.1:9/v1",
        "MAX_CONCURRENT_TASKS": "10",
        "WARM_SLOTS": "0",
        # Each test has a project of its own, also where all agents are one user.
        "ALLOW_SHARED_USER": "1",
        "WORKSPACE_SOURCES": str(directory / "sources"),
        "TMPDIR": str(directory / "tmp"),
    }
    for folder in ("sources", "tmp"):
        (directory / folder).mkdir()
    both = free_port() if GATEWAYS > 1 else None
    if both is not None:  # as for any console at another address than the gateway's own
        defaults |= {"CONSOLE_URL": f"http://127.0.0.1:{both}", "CORS_ORIGINS": f"http://127.0.0.1:{both}"}
    given = {**plain, **defaults, **environ}
    log = directory / "ocf.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [OCF, "up", "--json", "--data-dir", directory / "data"],
            cwd=directory,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=_die_with_us if privileged else _die_with_us_unprivileged,
        )
    try:
        answer = _ready(process, log)
        with second_gateway(answer, given, both) if both is not None else nullcontext():
            yield Stack(answer, process, agent)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def second_gateway(answer: dict[str, str], environ: Mapping[str, str], both: int) -> Iterator[None]:
    """Another gateway of the stack, and a relay at port `both` to the two, in the place of the first in `answer`."""
    plan = plan_of(Path(answer["data_dir"]), environ)
    assert plan is not None
    control = next(spec for spec in table(plan) if spec.name == "control")
    port = free_port()
    with (Path(answer["data_dir"]) / "logs" / "gateway-2.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ocf.functions.runtime.serve"],
            cwd=control.cwd,
            env={**control.env, "FUNCTION_TARGET": "gateway", "PORT": str(port)},
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_us,
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                break
            time.sleep(0.1)
        with relay_thread([plan.ports["gateway"], port], both):
            answer["gateway"] = f"http://127.0.0.1:{both}"
            yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _agent(folder: Path) -> Path:
    """A copy of tests/agent in which every name that starts it is a link to `scripted`."""
    shutil.copytree(ROOT / "tests/agent", folder, symlinks=True)
    (folder / "opencode").rename(folder / "scripted")
    for link in [folder / "opencode", *folder.glob("opencode-*")]:
        link.unlink(missing_ok=True)
        link.symlink_to("scripted")
    return folder


def _ready(process: subprocess.Popen[str], log: Path, timeout: float = 90.0) -> dict[str, str]:
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 1.0)[0]:
            line = process.stdout.readline()
            if line:
                answer: dict[str, str] = json.loads(line)
                return answer
            break
    raise AssertionError(f"the stack did not start: {log.read_text()[-3000:]}")


def _die_with_us_unprivileged() -> None:
    drop_capabilities()  # first: who gives up privileges is no more told of its parent's death
    _die_with_us()


def _die_with_us() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
