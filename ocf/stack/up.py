"""One run of the embedded stack: prepare, start in stages, watch, stop. `ocf up` runs this in a process."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from ocf.functions.runtime.nats_auth import BACKEND, FUNCTIONS, mint_user
from ocf.functions.settings.settings import masked
from ocf.stack.fork_client import ForkServer, available
from ocf.stack.keys import load, load_or_generate, make_private_dir, write_private
from ocf.stack.nats_config import nats_config
from ocf.stack.ports import LOOPBACK, allocate, is_free
from ocf.stack.process_specs import PORTS, Layout, Plan, fork_server_environment, settings_of, table
from ocf.stack.processes import Child, StackFailed, exit_with_parent
from ocf.stack.seaweedfs_config import s3_config
from ocf.stack.state import STATE, Running

DEFAULT_GATEWAY_PORT = 3003
#: Host names that a browser may use for the console.
_PAGES = (LOOPBACK, "localhost")


def prepare(data_dir: Path, environ: Mapping[str, str], *, port: int = 0, own_dir: bool = False) -> Plan:
    """Create keys, ports and configuration files for a start.

    Args:
        data_dir: everything is stored below it.
        environ: the user's environment.
        port: the gateway's port, if requested; 0: chosen.
        own_dir: this is not the default data directory, so another stack may use the gateway's default port.

    Raises:
        PortTaken: a requested port is taken.
    """
    layout = Layout(make_private_dir(data_dir).resolve())
    for folder in layout.folders():
        make_private_dir(folder)
    keys = load_or_generate(layout.data_dir)
    saved = json.loads(layout.ports.read_text()) if layout.ports.exists() else {}
    if not saved and not own_dir and is_free(DEFAULT_GATEWAY_PORT):
        saved = {"gateway": DEFAULT_GATEWAY_PORT}
    ports = allocate(PORTS, {"gateway": port}, saved)
    write_private(layout.ports, json.dumps(ports))

    now = int(time.time())
    origins = [f"http://{host}:{ports['gateway']}" for host in _PAGES]
    origins += [part.strip() for part in environ.get("CORS_ORIGINS", "").split(",") if part.strip()]
    config = nats_config(
        store=layout.folder("nats"),
        port=ports["nats"],
        ws_port=ports["nats_ws"],
        trust=keys.trust,
        server_name=keys.server_name,
        origins=origins,
        now=now,
    )
    write_private(layout.nats_config, config)
    write_private(layout.s3_config, s3_config(keys.s3_access_key, keys.s3_secret_key))
    # It holds the last start's flags, which may name ports that other programs use now.
    (layout.folder("s3") / "mini.options").unlink(missing_ok=True)
    write_private(layout.functions_creds, mint_user(keys.trust, FUNCTIONS, now).file())
    write_private(layout.backend_creds, mint_user(keys.trust, BACKEND, now).file())
    return Plan(layout, keys, ports, environ, environ.get("S3_BUCKET") or "ocf")


async def run(
    plan: Plan, *, on_ready: Callable[[list[Child]], None], stop: asyncio.Event, say: Callable[[str], None]
) -> None:
    """Start everything, call `on_ready`, keep it up until `stop` is set, then stop everything.

    Args:
        plan: the start.
        on_ready: called with the running processes.
        stop: ends the run.
        say: prints a line for the user.

    Raises:
        StackFailed: a process did not become ready.
    """
    fork_server = _fork_server(plan)
    children = [Child(spec, say, fork_server) for spec in table(plan)]
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_start(children, fork_server))
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await starting
            write_private(plan.layout.answer, json.dumps(plan.answer()))
            write_private(plan.layout.data_dir / STATE, json.dumps(asdict(_running(plan)), default=str))
            on_ready([child for child in children if not child.spec.once])
            await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        for file in (plan.layout.answer, plan.layout.data_dir / STATE):
            file.unlink(missing_ok=True)
        # Consumers of work stop first, storage last.
        for stage in sorted({child.spec.stage for child in children}, reverse=True):
            await asyncio.gather(*(child.stop() for child in children if child.spec.stage == stage))
        if fork_server is not None:
            await fork_server.close()


def plan_of(data_dir: Path, environ: Mapping[str, str]) -> Plan | None:
    """Return the plan of the stack in `data_dir` as it was last started, or None."""
    layout, keys = Layout(data_dir.resolve()), load(data_dir)
    if keys is None or not layout.ports.exists():
        return None
    return Plan(layout, keys, json.loads(layout.ports.read_text()), environ, environ.get("S3_BUCKET") or "ocf")


def _running(plan: Plan) -> Running:
    return Running(plan.url("gateway"), plan.instance, masked(settings_of(plan)))


def _fork_server(plan: Plan) -> ForkServer | None:
    if not available():
        return None
    log = plan.layout.logs / "fork-server.log"
    return ForkServer(fork_server_environment(plan), log, exit_with_parent(os.getpid()))


async def _start(children: list[Child], fork_server: ForkServer | None) -> None:
    if fork_server is not None:
        await fork_server.start()  # it imports while the servers start
    for stage in sorted({child.spec.stage for child in children}):
        async with _together() as group:
            for child in children:
                if child.spec.stage == stage:
                    group.create_task(child.start())


class _together(asyncio.TaskGroup):  # noqa: N801 - reads as a statement
    """A task group that raises the first failure itself instead of a group."""

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            await super().__aexit__(kind, error, trace)  # type: ignore[arg-type]
        except BaseExceptionGroup as group:
            failed = [each for each in group.exceptions if isinstance(each, StackFailed)]
            raise (failed or group.exceptions)[0] from None
