"""A started OpenCode server: one process tree, one port, one private home."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import time
from pathlib import Path

from ocf.events.lifecycle import Reason
from ocf.functions.execute.agent import config
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_api import OpenCode, OpenCodeError
from ocf.functions.execute.sandbox.policy import SandboxPolicy
from ocf.functions.execute.sandbox.process import (
    AgentFailed,
    AgentNotReady,
    AgentProcess,
    ProcessSpec,
    StopReport,
    start_process,
)

#: Seconds from the server's start. Time spent waiting for a CPU on an overloaded machine does not count, up to a
#: minute.
START_SECONDS = 30.0
_MAX_CPU_WAIT = 60.0
_PORT_TRIES = 3
_TCP = Path("/proc/net/tcp")
_LISTENING = re.compile(r"listening on (http://\S+)")
_PORT_TAKEN = re.compile(r"EADDRINUSE|address already in use|port .* in use|Failed to start server", re.IGNORECASE)


class AgentServer:
    """A started server with its process, client and private home. `stop` ends it."""

    def __init__(
        self, spec: ServerSpec, process: AgentProcess, client: OpenCode, port: int, password: str, version: str = ""
    ) -> None:
        self.spec = spec
        self.version = version
        #: Password of its API; the agent's shell finds it in its environment.
        self.password = password
        self.process = process
        self.client = client
        self.port = port
        # The path in OpenCode's events.
        self.directory = os.path.realpath(spec.directory)

    @classmethod
    async def start(cls, spec: ServerSpec, timeout: float = START_SECONDS) -> AgentServer:
        """Start a server and wait until it answers; `timeout` in seconds covers everything but waiting for a CPU.

        Raises:
            AgentFailed: OpenCode is missing or has the wrong version; AgentNotReady: not ready in time. Nothing is left
                running.
        """
        if spec.binary is None or not os.access(spec.binary, os.X_OK):
            where = spec.binary or "no path is set"
            raise AgentFailed(Reason.AGENT_ERROR, f"OpenCode is not installed ({where}); see OPENCODE_BIN")
        config.prepare_home(spec.home, spec.tools, spec.definitions.skills, spec.models)
        if spec.user is not None:
            await spec.user.hand_over(spec.home)
        until = time.monotonic() + timeout
        for left in range(_PORT_TRIES - 1, -1, -1):
            try:
                return await cls._try(spec, spec.binary, _free_port(), until)
            except AgentFailed as error:
                # Another process took the port between the probe and the server's bind.
                if not left or not any(_PORT_TAKEN.search(line) for line in error.stderr_tail):
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    @classmethod
    async def _try(cls, spec: ServerSpec, binary: Path, port: int, until: float) -> AgentServer:
        password = secrets.token_urlsafe(24)
        process = await _started(
            ProcessSpec(
                argv=(str(binary), "serve", "--hostname", "127.0.0.1", "--port", str(port)),
                # Not the workspace: Bun loads .env and bunfig.toml (with its preloads) from its start directory.
                cwd=spec.home,
                env=config.environment(spec, password),
                sandbox=policy(spec, binary, port),
                max_processes=spec.max_processes,
                max_memory_bytes=spec.max_memory_bytes,
                user=spec.user,
                paths=reached(spec, binary),
                idle=spec.idle,
            )
        )
        client = OpenCode(f"http://127.0.0.1:{port}", spec.directory, password)
        try:
            await _listening(process, until)
            _check_owner(port, os.geteuid() if spec.user is None else spec.user.uid)
            version = await _version(client, until)
            if not version.startswith(config.SUPPORTED_VERSION):
                message = f"OpenCode {version or '?'} is not supported, this needs {config.SUPPORTED_VERSION}x"
                raise AgentFailed(Reason.AGENT_ERROR, message)
        except BaseException as error:
            tail = tuple(process.stderr_tail)
            await client.close()
            await process.stop(0.0)
            if isinstance(error, AgentFailed):
                raise type(error)(error.reason, error.message, error.stderr_tail or tail) from None
            if isinstance(error, OpenCodeError):
                kind = AgentFailed if process.ended else AgentNotReady
                raise kind(Reason.AGENT_ERROR, f"OpenCode never became ready: {error}", tail) from error
            raise
        return cls(spec, process, client, port, password, version)

    def failed(self, message: str, reason: Reason = Reason.AGENT_ERROR) -> AgentFailed:
        """Return a failure with the last lines of OpenCode's stderr."""
        return AgentFailed(reason, message, tuple(self.process.stderr_tail))

    def not_ready(self, message: str) -> AgentFailed:
        """Return a failure before any work was done, worth another try unless the process ended by itself."""
        kind = AgentFailed if self.process.ended else AgentNotReady
        return kind(Reason.AGENT_ERROR, message, tuple(self.process.stderr_tail))

    async def stop(self, grace: float = 0.3) -> StopReport:
        """End the server and every process below it; safe to call again."""
        await self.client.close()
        return await self.process.stop(grace)


async def _started(spec: ProcessSpec) -> AgentProcess:
    """Call `start_process`; when cancelled, leave no half-started process."""
    starting = asyncio.ensure_future(start_process(spec))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting})
        if starting.exception() is None:
            await starting.result().stop(0.0)
        raise


async def _listening(process: AgentProcess, until: float) -> None:
    began, cpu_wait = time.monotonic(), 0.0
    while True:
        try:
            await process.wait_line(_LISTENING, max(0.1, until + cpu_wait - time.monotonic()))
            return
        except AgentFailed as error:
            if process.ended:
                raise
            cpu_wait = min(process.cpu_wait_seconds(), _MAX_CPU_WAIT)
            if until + cpu_wait <= time.monotonic():
                message = f"OpenCode was not ready after {time.monotonic() - began:.0f} s"
                raise AgentNotReady(error.reason, message, error.stderr_tail) from None


def _check_owner(port: int, user: int) -> None:
    """Raise AgentNotReady when another user listens: password and prompt must not reach it."""
    # proc(5): local address, state (0A: listening) and user are columns 1, 3 and 7.
    rows = (row.split() for row in _TCP.read_text().splitlines()[1:])
    owners = {int(row[7]) for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    if owners != {user}:
        message = f"user {user} should listen on its port, found {sorted(owners) or 'nobody'}"
        raise AgentNotReady(Reason.AGENT_ERROR, f"OpenCode never became ready: {message}")


async def _version(client: OpenCode, until: float) -> str:
    while True:
        try:
            return await client.version()
        except OpenCodeError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


def policy(spec: ServerSpec, binary: Path, port: int) -> SandboxPolicy | None:
    """Return the sandbox policy of the server; None when it is not sandboxed."""
    if not spec.sandboxed:
        return None
    proxy_port = int(spec.model_proxy_url.split("//", 1)[1].split("/", 1)[0].rsplit(":", 1)[1])
    return SandboxPolicy(
        read_write=(spec.directory, spec.home),
        read_only=reached(spec, binary)[2:],
        connect_ports=(proxy_port, *spec.connect_ports),
        bind_port=port,
    )


def reached(spec: ServerSpec, binary: Path) -> tuple[Path, ...]:
    """Return the paths the server uses beside the system's: workspace, home, then those it only reads."""
    tools = (tool.resolve() for tool in spec.tools)
    return (spec.directory, spec.home, binary.resolve().parent, *tools, *spec.read_only)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
