"""Health is the process, readiness its dependencies: an outage of NATS restarts no pod, and none has to start again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from ocf.events.adapters.s3 import S3Config
from ocf.stack.ports import free_port
from tests.support.nats import NatsServer
from tests.support.stack import until

ROOT = Path(__file__).parents[2]
SERVE, DISPATCHER = "ocf.functions.runtime.serve", "ocf.functions.dispatcher.main"
PARTS = ("submit", "execute", "cancel", "cleanup", "session", "archive", "gateway", "dispatcher")


@asynccontextmanager
async def started(part: str, nats: NatsServer, s3: S3Config, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The process of a function, as a container runs it; a client of its port."""
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "TMPDIR": str(folder),
        "FUNCTION_TARGET": part, "PORT": str(port), "HOST": "127.0.0.1", "STATE_DIR": str(folder / "state"),
        "NATS_URL": nats.url, "NATS_CREDS": str(nats.creds), "S3_ENDPOINT_URL": s3.endpoint_url or "",
        "S3_BUCKET": s3.bucket, "AWS_ACCESS_KEY_ID": s3.access_key or "", "AWS_SECRET_ACCESS_KEY": s3.secret_key or "",
        "OPENCODE_BIN": sys.executable, "WARM_SLOTS": "0", "SANDBOX": "preferred", "MAX_CONCURRENT_TASKS": "1",
        "ALLOW_SHARED_USER": "1", "FUNCTION_URLS": "submit=http://127.0.0.1:9/", "DISPATCH_CONSUMERS": "submit",
    }  # fmt: skip
    (folder / "state").mkdir()
    command = [
        sys.executable,
        "-m",
        "ocf.functions.runtime.early_signals",
        DISPATCHER if part == "dispatcher" else SERVE,
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=5) as http:
            yield http
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


async def answered(http: httpx2.AsyncClient, path: str) -> httpx2.Response | None:
    """The answer; None while nothing listens."""
    try:
        return await http.get(path)
    except httpx2.TransportError:
        return None


@pytest.mark.parametrize("part", PARTS)
async def test_a_process_lives_without_nats_and_is_ready_with_it(
    part: str, own_nats_server: NatsServer, s3_server: S3Config, tmp_path: Path
) -> None:
    """Without NATS `/health` answers 200 and `/ready` 503 with the check by name; a request is told to come again.
    When NATS comes, the same process is ready."""
    own_nats_server.kill()
    folder = tmp_path / "process"
    folder.mkdir()
    async with started(part, own_nats_server, s3_server, folder) as http:
        health = await until(lambda: answered(http, "/health"), timeout=60, what="it listens")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})

        async def told() -> bool:
            ready = await http.get("/ready")
            assert ready.status_code == 503
            return "refused" in ready.json()["checks"]["nats"]

        await until(told, what="it says that NATS does not answer")
        if part != "dispatcher":
            answer = await http.post("/", content=b"{}")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["status"] == 503
        own_nats_server.start()

        async def ready() -> bool:
            answer = await http.get("/ready")
            return answer.status_code == 200

        await until(ready, what="it is ready")
        assert (await http.get("/health")).status_code == 200
