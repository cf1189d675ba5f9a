"""The real OpenCode in the sandbox, and what its shell tool can do there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from functions.execute.process import AgentProcess, ProcessSpec, start_process
from functions.execute.sandbox import SandboxPolicy, sandbox_support

ROOT = Path(__file__).resolve().parents[2]
OPENCODE = ROOT / ".tools/node_modules/opencode-linux-x64/bin/opencode"
QUIET = {f"OPENCODE_DISABLE_{name}": "1" for name in ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")}
MODEL = {"providerID": "none", "modelID": "none"}

pytestmark = [
    pytest.mark.skipif(bool(sandbox_support().missing), reason=f"no {', '.join(sandbox_support().missing)}"),
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed"),
]


@dataclass
class Server:
    """OpenCode in its sandbox, and a session to run shell commands in."""

    process: AgentProcess
    client: httpx.AsyncClient
    directory: Path
    session: str = ""

    async def shell(self, command: str) -> str:
        """Run `command` with OpenCode's own shell tool; its output."""
        answer = await self.client.post(
            f"/session/{self.session}/shell",
            params={"directory": str(self.directory)},
            json={"agent": "build", "command": command, "model": MODEL},
            timeout=40,
        )
        answer.raise_for_status()
        return str(answer.json()["parts"][-1]["state"]["output"])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    workspace, home = tmp_path / "workspace", tmp_path / "home"
    workspace.mkdir()
    (home / "tmp").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "OPENCODE_CONFIG_CONTENT": json.dumps({"share": "disabled"}),
        **QUIET,
    }
    argv = (str(OPENCODE), "serve", "--hostname", "127.0.0.1", "--port", str(port))
    policy = SandboxPolicy((workspace, home), (OPENCODE.parent,), (), port)
    process = await start_process(ProcessSpec(argv, workspace, env, policy, max_processes=64, max_memory_bytes=2**30))
    try:
        # A request before this line is accepted and never answered.
        await process.wait_line(re.compile("listening on"), 40)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            made = Server(process, client, workspace)
            answer = await client.post(
                "/session", params={"directory": str(workspace)}, json={"title": "t"}, timeout=30
            )
            made.session = answer.json()["id"]
            yield made
    finally:
        report = await process.stop()
        assert report.left == 0


async def test_healthy_and_confined(server: Server, tmp_path: Path) -> None:
    """The real server gets healthy; from its shell tool the workspace is writable and everything else is shut."""
    health = await server.client.get("/global/health", timeout=10)
    assert health.json()["healthy"] is True
    outside = tmp_path / "another"
    outside.mkdir()
    (outside / "secret").write_text("planted")
    script = "; ".join(
        (
            "echo made > file && cat file",
            "git init -q . && git add file && git -c user.name=a -c user.email=a@b.c commit -qm x && git log --oneline",
            f"cat {shlex.quote(str(outside))}/secret",
            f"cat /proc/{os.getpid()}/environ",
            "ls /root",
            f"echo x > {shlex.quote(str(outside))}/new",
            f"kill -9 {os.getpid()} {server.process.pid}",
            "bash -c 'exec 3<>/dev/tcp/127.0.0.1/22'",
            "bash -c 'exec 3<>/dev/udp/127.0.0.1/53'",
        )
    )
    output = await server.shell(script)
    assert output.startswith("made\n")
    assert " x\n" in output  # the commit
    assert "planted" not in output
    assert not (outside / "new").exists()
    assert output.count("denied") + output.count("not permitted") >= 7, output


async def test_daemons_of_the_shell_tool_are_found(server: Server) -> None:
    """What the shell tool leaves behind, deaf and daemonised, ends with `stop`."""
    command = (
        "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; while :; do sleep 60; done' >/dev/null 2>&1 & done; echo ok"
    )
    assert "ok" in await server.shell(command)
    assert server.process.process_count() >= 4
    report = await server.process.stop()
    assert report.left == 0
    assert report.killed >= 4


@pytest.mark.parametrize(
    ("attack", "what"),
    [
        # Bounded, so that a failing test does not take the machine along.
        ("yes 60 | head -n 300 | xargs -P 300 -n 1 sleep", "processes"),
        ("head -c 2000000000 /dev/zero | tail", "memory"),
    ],
)
async def test_bombs_of_the_shell_tool_are_ended(server: Server, attack: str, what: str) -> None:
    """A fork bomb and a memory bomb from the shell tool end this tree, with the reason."""
    running = asyncio.create_task(server.shell(attack))
    try:
        await asyncio.wait_for(server.process.exited(), 30)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert server.process.limit_hit is not None
    assert server.process.limit_hit.what == what
