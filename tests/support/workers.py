"""A parent with workers that do what they are told in a request: `python -m tests.support.workers HANG_SECONDS`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ocf.functions.observability import metrics
from ocf.functions.runtime import serve, uvicorn_server
from ocf.functions.workers import parent, parent_channel
from ocf.stack.ports import free_port
from tests.support.processes import alive

ROOT = Path(__file__).resolve().parents[2]


class Work:
    """What a worker is at: as long as the number of seconds that it is asked for, whether or not anybody waits."""

    warm = False

    def __init__(self, its: parent_channel.Link) -> None:
        self._tally = its.tally
        self.task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()

    async def idle(self) -> None:
        if self.task is not None:
            await asyncio.wait({self.task})

    async def do(self, request: Request) -> Response:
        """One delivery."""
        told = await request.json()
        metrics.output_bytes.inc()
        self._tally.save()
        if "spin" in told:
            until = time.monotonic() + told["spin"]
            while time.monotonic() < until:
                """The event loop does not answer."""
        if "boot" in told:
            began = time.monotonic()
            async with parent_channel.boot_turn(False):
                turn = time.monotonic()
                await asyncio.sleep(told["boot"])
                ended = time.monotonic()  # before the turn goes to the next one
            return JSONResponse({"pid": os.getpid(), "began": began, "turn": turn, "ended": ended})
        if "warm" in told:
            Work.warm = True
        if "die" in told:
            os.kill(os.getpid(), signal.SIGKILL)
        self.task = asyncio.create_task(asyncio.sleep(told.get("seconds", 0)))
        await asyncio.shield(self.task)
        return JSONResponse({"pid": os.getpid(), "state_dir": os.environ["STATE_DIR"]})


def _work(its: parent_channel.Link) -> int:
    async def run() -> None:
        its.start()
        work = Work(its)

        async def counts(_: Request) -> Response:
            return Response(its.tally.exposition())

        routes = [Route("/", work.do, methods=["POST"]), Route("/metrics", counts)]
        parent_channel.register_work(work)
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, timeout_graceful_shutdown=10)
        await uvicorn_server.serve(config, its)

    if os.environ.get("OCF_MODEL_ENDPOINT") == "http://broken/":
        return 3
    asyncio.run(run())
    return 0


@contextmanager
def running_parent(folder: Path, hang: float = parent.HANG, **environ: str) -> Iterator[Parent]:
    """One, until the block ends. A worker that says nothing for `hang` seconds is killed."""
    port = free_port()
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    own |= {"PYTHONPATH": str(ROOT), "PORT": str(port), "STATE_DIR": str(folder), "DRAIN_SECONDS": "5"}
    own |= {"FUNCTION_TARGET": "execute", **environ}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "tests.support.workers", str(hang)], env=own, stderr=log)
    try:
        yield Parent(process, port, folder / "log")
    finally:
        process.terminate()
        process.wait(30)


class Parent:
    """The process, and how to speak to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @asynccontextmanager
    async def http(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client, once it listens."""
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as client:
            async with asyncio.timeout(30):
                while True:
                    try:
                        await client.get("/health")
                        break
                    except httpx2.TransportError:
                        assert self.process.poll() is None, self.log.read_text()
                        await asyncio.sleep(0.02)
            yield client

    def workers(self) -> list[psutil.Process]:
        """Its workers that live."""
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if alive(child)]


async def post(http: httpx2.AsyncClient, **told: Any) -> httpx2.Response:
    """One delivery."""
    return await http.post("/", content=json.dumps(told))


if __name__ == "__main__":
    parent.HANG = float(sys.argv[1])
    serve.work = _work  # type: ignore[assignment]
    parent.main()
