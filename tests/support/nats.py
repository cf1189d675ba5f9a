"""A real nats-server with JWT authentication on, as the embedded stack runs it; gone afterwards."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ocf.events.adapters.nats.bus import connect
from ocf.functions.runtime.nats_auth import BACKEND, FUNCTIONS, Role, Trust, mint_user, public_key
from ocf.functions.runtime.setup import apply
from ocf.stack.keys import write_private
from ocf.stack.nats_config import nats_argv, nats_config
from ocf.stack.ports import LOOPBACK, is_free

ORIGIN = "http://console.test"


def _ports() -> Iterator[int]:
    """Yield free ports outside the range of `ocf.stack.ports`, other ones in each worker of pytest.

    A server that a test has killed keeps its ports: nothing else looks for one there.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    block = range(32_000, 32_768)[worker % 4 :: 4]
    yield from filter(is_free, itertools.cycle(block))


#: Free ports for servers of tests.
PORTS = _ports()


@dataclass
class NatsServer:
    """How to reach it, as whom, and how to hurt it."""

    directory: Path
    port: int
    ws_port: int
    trust: Trust
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{LOOPBACK}:{self.ws_port}"

    @property
    def account(self) -> str:
        """Public key of the account."""
        return public_key(self.trust.account)

    @property
    def creds(self) -> Path:
        """Credentials of the functions."""
        return self.directory / "functions.creds"

    @property
    def backend_creds(self) -> Path:
        """Credentials of a backend of every project."""
        return self.directory / "backend.creds"

    def creds_for(self, role: Role, project: str = "*") -> Path:
        """A new credentials file."""
        found = mint_user(self.trust, role, int(time.time()), project=project)
        return write_private(self.directory / f"{role.name}-{project.replace('*', 'all')}.creds", found.file())

    def trust_in(self, trust: Trust) -> None:
        """Write its configuration for these keys; it counts from its next start or `reload` on."""
        self.trust = trust
        _configure(self.directory, self.port, self.ws_port, trust)

    def reload(self) -> None:
        """SIGHUP, as the reloader of the Helm chart sends it."""
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        """Start it (again), on the same ports and the same store."""
        self.process = _start(self.directory, self.port)


@contextmanager
def running_nats(directory: Path, *, streams: bool = True) -> Iterator[NatsServer]:
    """Start nats-server below `directory`; with `streams`, every stream and bucket is there."""
    directory.mkdir(parents=True, exist_ok=True)
    port, ws_port = next(PORTS), next(PORTS)
    trust, now = Trust.generate(), int(time.time())
    _configure(directory, port, ws_port, trust)
    server = NatsServer(directory, port, ws_port, trust, _start(directory, port))
    try:
        write_private(server.creds, mint_user(trust, FUNCTIONS, now).file())
        write_private(server.backend_creds, mint_user(trust, BACKEND, now).file())
        if streams:
            asyncio.run(_apply(server))
        yield server
    finally:
        server.kill()


def _configure(directory: Path, port: int, ws_port: int, trust: Trust) -> None:
    config = nats_config(
        store=directory / "store",
        port=port,
        ws_port=ws_port,
        trust=trust,
        server_name=f"test-{os.getpid()}-{port}",
        origins=[ORIGIN],
        now=int(time.time()),
    )
    write_private(directory / "nats.conf", config)


async def _apply(server: NatsServer) -> None:
    bus = await connect(server.url, creds=server.creds, name="setup")
    try:
        await apply(bus)
    finally:
        await bus.close()


def _start(directory: Path, port: int, timeout: float = 20.0) -> subprocess.Popen[bytes]:
    binary = Path(sys.executable).parent / "nats-server"
    with (directory / "nats.log").open("ab") as log:
        process = subprocess.Popen(
            nats_argv(binary, directory / "nats.conf"), stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + timeout
    while True:
        # Ours must be alive: somebody else's server on that port would answer too.
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"nats-server did not start: {(directory / 'nats.log').read_text()[-2000:]}")
        try:
            with socket.create_connection((LOOPBACK, port), 1) as connection:
                if connection.recv(4) == b"INFO":
                    return process
        except OSError:
            time.sleep(0.01)  # a condition with a deadline: the server says nothing when it is ready
