"""Submit events per second of one core, beside a function of the bare functions-framework that does nothing.

Both are processes of their own behind the same caller. A core's worth is events over the processor time of the
function's process: what the rest of the machine does, and waiting for NATS, is not in it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from benchmarks.gateway import Caller
from benchmarks.measurement import Options, Row, Target, thinned
from ocf.events import subjects
from ocf.events.adapters.nats.bus import connect
from ocf.events.command_payloads import Submit
from ocf.events.envelope import new_event
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.runtime.setup import apply
from ocf.stack.ports import allocate
from tests.support.nats import NatsServer, running_nats

CALLERS = 16
BARE = "functions-framework, a function that does nothing"


def echo(port: int) -> None:
    """The baseline's process: a CloudEvent function that does nothing, in uvicorn with uvloop, as ours is."""
    import functions_framework.aio
    import uvicorn
    import uvloop
    from cloudevents.http import CloudEvent
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def done(event: CloudEvent) -> None:
        """Nothing."""

    module = sys.modules[__name__]
    module.done = functions_framework.aio.cloud_event(done)  # type: ignore[attr-defined]
    app = functions_framework.aio.create_asgi_app_from_module("done", __file__, "cloudevent", module, module.__spec__)

    async def health(_: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    routes = [Route("/health", health), Mount("/", app=app)]
    config = uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=port, log_config=None, access_log=False)
    uvloop.run(uvicorn.Server(config).serve())


class Poster(Caller):
    """One keep-alive connection that posts submit events in binary mode."""

    async def submit(self, path: str) -> float:
        """Seconds of one new submit event. Raises RuntimeError unless the function takes it."""
        execution = str(uuid.uuid4())
        data = Submit.model_validate({"prompt": "Fix the test", "execution_id": execution, "project_id": "default"})
        event = new_event("dev.ocf.task.submit.v1", data, source="/bench", time=SystemClock().now())
        event = event.with_extensions(
            natssubject=subjects.command("submit", "default", execution), natssequence="1", natsdeliveries="1"
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in event.headers().items())
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(event.data)}\r\n{lines}\r\n"
        started = time.perf_counter()
        self._writer.write(head.encode() + event.data)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = answer.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        said = await self._reader.readexactly(int(length))
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"submit: {answer.splitlines()[0]!r} {said[:200]!r}")
        return time.perf_counter() - started


@asynccontextmanager
async def function(argv: list[str], port: int, env: dict[str, str]) -> AsyncIterator[psutil.Process]:
    """A function's process, once it is ready."""
    process = subprocess.Popen([sys.executable, *argv], env={**os.environ, **env})  # noqa: ASYNC220  (before anything runs)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    async with Caller(port) as caller:
                        await caller.call("GET", "/health")
                        break
                except (OSError, RuntimeError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


async def batch(port: int, process: psutil.Process, path: str, count: int) -> tuple[float, list[float]]:
    """Events per processor second of a batch, and the time of each event."""
    took: list[float] = []
    left = count

    async def one() -> None:
        nonlocal left
        async with Poster(port) as poster:
            while left > 0:
                left -= 1
                took.append(await poster.submit(path))

    spent = sum(process.cpu_times()[:2])
    await asyncio.gather(*(one() for _ in range(CALLERS)))
    return count / (sum(process.cpu_times()[:2]) - spent), took


def submit_env(nats: NatsServer, port: int) -> dict[str, str]:
    """The environment of the submit function; nothing in these events needs S3."""
    s3 = {"S3_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    nats_env = {"NATS_URL": nats.url, "NATS_CREDS": str(nats.creds)}
    return {"FUNCTION_TARGET": "submit", "PORT": str(port), "LOG_LEVEL": "warning", **nats_env, **s3}


async def measure(options: Options) -> list[Row]:
    """Batches in turn."""
    count = 64 if options.quick else 600
    rates: tuple[list[float], list[float]] = ([], [])
    waits: tuple[list[float], list[float]] = ([], [])
    ports = (allocate(("a",), {}, {})["a"], allocate(("b",), {}, {})["b"])
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder, running_nats(Path(folder), streams=False) as nats:
        bus = await connect(nats.url, creds=nats.creds, name="bench")
        await apply(bus)
        ours = function(["-m", "ocf.functions.runtime.serve"], ports[0], submit_env(nats, ports[0]))
        bare = function(["-c", f"from benchmarks.measurements.submit import echo; echo({ports[1]})"], ports[1], {})
        async with ours as one, bare as two:
            for turn in range(options.of(20) + 1):
                for way, (port, process, path) in enumerate(((ports[0], one, "/fn/submit"), (ports[1], two, "/"))):
                    rate, took = await batch(port, process, path, count)
                    if turn:
                        rates[way].append(rate)
                        waits[way].extend(1000 * each for each in took)
        await bus.close()
    said = "ours validates, makes the record, its schedule, the execute command and the accepted fact"
    return [
        Row("submit, events per second and core", "events/s", *rates, BARE,
            Target("ratio", 0.7, at_least=True), said),
        Row(f"submit, time to answer, {CALLERS} callers", "ms", thinned(waits[0]), thinned(waits[1]), BARE),
    ]  # fmt: skip
