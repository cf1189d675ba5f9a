"""The whole system, taken apart: every function, server and store a process of its own, on its own address and disk."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import jwt
import nats.errors

from faults.component import NotReady, Part
from faults.component_disk import Disk
from faults.load_balancer import Service
from faults.net import HUB, Net
from faults.postgres_server import PORT, Database
from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.adapters.s3 import S3Config, S3Store
from ocf.events.client import Client
from ocf.events.errors import Unavailable
from ocf.events.streams import BUCKETS, STREAMS
from ocf.functions.database.migrate import migrate
from ocf.functions.runtime import serve
from ocf.functions.runtime.nats_auth import BACKEND, FUNCTIONS, Trust, mint_user
from ocf.functions.runtime.setup import apply
from ocf.stack import tools
from ocf.stack.keys import Keys, write_private
from ocf.stack.nats_config import nats_argv, nats_config
from ocf.stack.ports import LOOPBACK
from ocf.stack.seaweedfs_config import WEED_GRPC_PORTS, WEED_PORTS, s3_config, weed_argv

ROOT = Path(__file__).resolve().parents[1]
EVENT_FUNCTIONS = tuple(name for name in serve.FUNCTIONS if name != "execute")
EXECUTES = ("execute-1", "execute-2")
BUCKET = "ocf"
#: Where a NATS server says how it is.
MONITOR = 8223
_HTTP, _NATS, _ROUTES, _MODEL = 8080, 4222, 6222, 9000
_WEED_NAMES = (*WEED_PORTS, *WEED_GRPC_PORTS)
#: Every run has its own: SeaweedFS names sockets in /tmp after them, which no network namespace keeps apart.
_WEED_BASE = 12_000 + 16 * secrets.randbelow(1_000)
_WEED = {name: _WEED_BASE + number for number, name in enumerate(_WEED_NAMES)}
_MEGABYTES = {"nats": 1024, "s3": 2048, "database": 256, "execute": 256}
#: One start of the agent in so many is the real OpenCode.
_REAL = 16
_AGENT = """#!/bin/sh
if [ $(($$ % {real})) = 0 ] && [ -x "{folder}/opencode-real" ]; then exec "{folder}/opencode-real" "$@"; fi
exec "{folder}/scripted" "$@"
"""


class System:
    """Made by `running`. `parts` by name; `nodes` are the NATS servers."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.net = Net()
        self.parts: dict[str, Part] = {}
        self.nodes = ("nats",) if nodes == 1 else tuple(f"nats-{number}" for number in range(1, nodes + 1))
        self.keys = Keys.generate()
        self.wrong = Keys.generate()
        self.model_key = "the-right-key"
        self._conf = folder / "conf"
        self._database: Database | None = None

    @property
    def database(self) -> Database:
        """The history's PostgreSQL."""
        assert self._database is not None
        return self._database

    @property
    def _servers(self) -> tuple[str, ...]:
        return (*self.nodes, "s3", "database", "model")

    @property
    def functions(self) -> tuple[str, ...]:
        """Every part that is ours."""
        return (*EVENT_FUNCTIONS, *EXECUTES, "gateway", "dispatcher")

    @property
    def nats_url(self) -> str:
        return ",".join(f"nats://{self.net.addresses[node]}:{_NATS}" for node in self.nodes)

    def url(self, name: str, port: int = _HTTP) -> str:
        """`http://address:port` of a part."""
        return f"http://{self.net.addresses[name]}:{port}"

    @property
    def gateway_token(self) -> str:
        """A caller of every project."""
        return jwt.encode({"sub": "load", "projects": "*", "exp": 4_000_000_000}, self.keys.dispatch_token, "HS256")

    @property
    def wrong_creds(self) -> Path:
        """Credentials of somebody else's account."""
        return self._conf / "wrong.creds"

    @property
    def s3(self) -> S3Config:
        keys = self.keys
        return S3Config(BUCKET, self.url("s3", _WEED["s3"]), keys.s3_access_key, keys.s3_secret_key)

    def configure(self, *, nats: Keys | None = None, s3: Keys | None = None) -> None:
        """Write what the servers trust; somebody else's keys make every client's wrong."""
        now = int(time.time())
        for node in self.nodes:
            address = self.net.addresses[node]
            text = nats_config(
                store=self.folder / node / "store", port=_NATS, ws_port=8222, trust=(nats or self.keys).trust,
                server_name=f"faults-{node}", origins=[self.url("gateway")], now=now,
            )  # fmt: skip
            text = text.replace(f"host: {LOOPBACK}", f"host: {address}")
            text += f"http: {address}:{MONITOR}\n"
            if len(self.nodes) > 1:
                routes = ", ".join(f"nats://{self.net.addresses[other]}:{_ROUTES}" for other in self.nodes)
                text += f"cluster {{ name: faults, host: {address}, port: {_ROUTES}, routes: [{routes}] }}\n"
            write_private(self._conf / f"{node}.conf", text)
        trusted = s3 or self.keys
        write_private(self._conf / "s3.json", s3_config(trusted.s3_access_key, trusted.s3_secret_key))

    def prepare(self) -> None:
        """Namespaces, disks, keys, and the table of parts."""
        self.net.up()
        self._conf.mkdir(mode=0o700)
        self.folder.chmod(0o711)  # PostgreSQL's user passes through
        names = (*self._servers, *self.functions)
        disks = {}
        for name in names:
            self.net.join(name)
            disks[name] = Disk.make(self.folder, name, _MEGABYTES.get(name.split("-")[0], 32))
        self.configure()
        now = int(time.time())
        write_private(self._conf / "functions.creds", mint_user(self.keys.trust, FUNCTIONS, now).file())
        write_private(self._conf / "backend.creds", mint_user(self.keys.trust, BACKEND, now).file())
        write_private(self.wrong_creds, mint_user(Trust.generate(), FUNCTIONS, now).file())
        self._agent()
        for node in self.nodes:
            argv = nats_argv(tools.require("nats-server"), self._conf / f"{node}.conf")
            healthy = self.url(node, MONITOR) + (
                "/healthz" if len(self.nodes) == 1 else "/healthz?js-enabled-only=true"
            )
            self._add(node, disks[node], argv, _plain(), _NATS, healthy)
        (self.folder / "s3" / "data").mkdir()
        weed = weed_argv(tools.require("weed"), self.folder / "s3/data", self._conf / "s3.json", _WEED, BUCKET)
        weed = tuple(each.replace(LOOPBACK, self.net.addresses["s3"]) for each in weed)
        self._add("s3", disks["s3"], weed, _plain(), _WEED["s3"], self.url("s3", _WEED["s3"]) + "/healthz")
        database = self._database = Database(self.folder, disks["database"], self.net.addresses["database"])
        database.prepare()
        self._add("database", disks["database"], (), _plain(), PORT, database.admin_url)
        part = self.parts["database"]
        part.argv, part.farewell = lambda: database.argv(part.overrides.get("LD_PRELOAD")), signal.SIGINT
        self._add("model", disks["model"], (), self._python(), _MODEL, self.url("model", _MODEL))
        self.parts["model"].argv = lambda: (
            sys.executable, "-m", "faults.fixed_answer_model", self.net.addresses["model"], str(_MODEL), self.model_key
        )  # fmt: skip
        for name in self.functions:
            target = name.split("-")[0]
            module = "ocf.functions.dispatcher.main" if target == "dispatcher" else "ocf.functions.runtime.serve"
            ready = self.url(name) + "/ready"
            self._add(name, disks[name], (sys.executable, "-m", module), self._environ(name, target), _HTTP, ready)

    def _add(
        self, name: str, disk: Disk, argv: tuple[str, ...], environ: Mapping[str, str], port: int, ready: str | None
    ) -> None:
        self.parts[name] = Part(name, self.net, disk, lambda: argv, lambda: environ, port, ready)

    def _python(self) -> dict[str, str]:
        return {**_plain(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}

    def _environ(self, name: str, target: str) -> dict[str, str]:
        keys, own = self.keys, self.folder / name
        urls = {function: f"{self.url(function)}/fn/{function}" for function in EVENT_FUNCTIONS}
        urls["execute"] = f"http://{HUB}:{_HTTP}/fn/execute"
        values = {
            **self._python(),
            "HOST": self.net.addresses[name],
            "PORT": str(_HTTP),
            "FUNCTION_TARGET": target,
            "FUNCTION_URLS": ",".join(f"{function}={url}" for function, url in urls.items()),
            "WORKER_ID": name,
            "NATS_URL": self.nats_url,
            "NATS_CREDS": str(self._conf / "functions.creds"),
            "NATS_WS_URL": f"ws://{self.net.addresses[self.nodes[0]]}:8222",
            "STREAM_REPLICAS": str(len(self.nodes)),
            "S3_ENDPOINT_URL": self.url("s3", _WEED["s3"]),
            "S3_BUCKET": BUCKET,
            "AWS_ACCESS_KEY_ID": keys.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": keys.s3_secret_key,
            "DISPATCH_TOKEN": keys.dispatch_token,
            "ENCRYPTION_KEY": keys.encryption_key,
            "GATEWAY_JWT_SECRET": keys.dispatch_token,
            "STATE_DIR": str(own / "state"),
            "DATABASE_URL": self.database.url,
            "WORKSPACE_DIR": str(own / "shared"),
            "DRAIN_SECONDS": "3",
            "WARM_SLOTS": "0",
            "MAX_CONCURRENT_TASKS": "6",
            "SANDBOX": "required",
            "OCF_MODEL": "openai/scripted",
            "OCF_MODEL_ENDPOINT": f"{self.url('model', _MODEL)}/v1",
        }
        if target == "execute":
            values |= {"OPENCODE_BIN": str(self.folder / "agent/opencode"), "OPENCODE_API_KEY": self.model_key}
        return values

    def _agent(self) -> None:
        """The scripted agent, and the real one among it where it is installed."""
        folder = self.folder / "agent"
        shutil.copytree(ROOT / "tests/agent", folder, symlinks=True)
        (folder / "opencode").rename(folder / "scripted")
        real = tools.opencode()
        if real is not None:
            shutil.copy(real, folder / "opencode-real")
        (folder / "opencode").write_text(_AGENT.format(real=_REAL, folder=folder))
        (folder / "opencode").chmod(0o755)

    async def connect(self, role: str = "functions") -> NatsBus:
        """A connection of the harness's own."""
        return await connect(self.nats_url, creds=self._conf / f"{role}.creds", name=f"faults-{role}")

    def client(self, bus: NatsBus, project: str, store: S3Store) -> Client:
        """A backend of a project."""
        executions, sessions = (
            NatsBucket(bus, name) for name in (subjects.EXECUTIONS_BUCKET, subjects.SESSIONS_BUCKET)
        )
        return Client(bus, executions, sessions, project=project, store=store)

    async def start(self) -> None:
        """Servers, then streams, then functions."""
        await asyncio.gather(*(self.parts[name].start() for name in self._servers))
        await asyncio.to_thread(self.database.create)
        await asyncio.to_thread(migrate, self.database.url)
        bus = await self.connect()
        try:
            for left in range(30, -1, -1):
                try:
                    await apply(bus, len(self.nodes))
                    break
                except Unavailable:  # a cluster chooses its leader first
                    if not left:
                        raise
                    await asyncio.sleep(0.5)
        finally:
            await bus.close()
        await asyncio.gather(*(self.parts[name].start() for name in self.functions))

    async def stop(self) -> None:
        """Everything ends."""
        await asyncio.gather(*(self.parts[name].stop() for name in self.functions))
        await asyncio.gather(*(self.parts[name].stop() for name in self._servers))
        for port in _WEED.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - where SeaweedFS puts them
                left.unlink()

    async def whole(self, bus: NatsBus, patience: float = 90.0) -> None:
        """Wait until every stream has a leader and all its copies are current. Raises NotReady."""
        until = time.monotonic() + patience
        streams = [*(spec.name for spec in STREAMS), *(f"KV_{spec.name}" for spec in BUCKETS)]
        while not all([await _current(bus, stream, len(self.nodes)) for stream in streams]):
            if time.monotonic() > until:
                raise NotReady(f"a stream is not whole again after {patience:.0f} s")
            await asyncio.sleep(0.5)

    def clutter(self) -> list[str]:
        """Files of functions that should not be there when nothing runs."""
        return [each for name in self.functions for each in self.parts[name].disk.clutter()]


@asynccontextmanager
async def running(folder: Path, nodes: int = 1) -> AsyncIterator[System]:
    """The system, up; gone at the end."""
    system = System(folder, nodes)
    system.prepare()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(system.stop)
        await stack.enter_async_context(Service(HUB, _HTTP, [(system.net.addresses[e], _HTTP) for e in EXECUTES]))
        await system.start()
        yield system


async def _current(bus: NatsBus, stream: str, nodes: int) -> bool:
    try:
        reply = await bus.nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=3)
    except (nats.errors.Error, TimeoutError):
        return False
    copies = json.loads(reply.data).get("cluster", {})
    others = copies.get("replicas", [])
    return bool(copies.get("leader")) and len(others) == nodes - 1 and all(each.get("current") for each in others)


def _plain() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
