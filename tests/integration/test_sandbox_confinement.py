"""The sandbox from inside: one confined process tries everything once, and each attempt is judged on its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocf.functions.execute.sandbox import policy as sandbox
from ocf.functions.execute.sandbox.policy import SandboxPolicy, sandbox_support
from ocf.functions.execute.sandbox.process import AgentFailed, ProcessSpec, start_process
from tests.support.probe import ATTACKS, PROBE

pytestmark = pytest.mark.skipif(bool(sandbox_support().missing), reason=f"no {', '.join(sandbox_support().missing)}")

PATH = "/usr/local/bin:/usr/bin:/bin"
INTERPRETER = (Path(sys.base_prefix), Path(sys.prefix))

ALLOWED: dict[str, str] = {
    "write and read the workspace": "write('file'); read('file')",
    "write and read its home": "write({home!r} + '/file'); read({home!r} + '/file')",
    "write its temporary folder": "import tempfile; tempfile.mkdtemp()",
    "run a script of the workspace": (
        "open('s.sh', 'w').write('#!/bin/sh\\nexit 0\\n'); os.chmod('s.sh', 0o755);"
        "subprocess.run(['./s.sh'], check=True)"
    ),
    "run a pipeline": "subprocess.run(['bash', '-c', 'set -o pipefail; cat <(ls /proc/self/fd) | wc -l'], check=True)",
    "run threads": "import threading; t = threading.Thread(target=int); t.start(); t.join()",
    "read what a file weighs anywhere": "os.stat('/usr/bin/env')",
    "move between folders": "os.makedirs('a'); os.makedirs('b'); write('a/x'); os.rename('a/x', 'b/x')",
    "connect to its model proxy": "tcp({proxy_port})",
    "listen on its own port": "bind({own_port})",
    "use a socket pair": "a, b = socket.socketpair(); a.send(b'x'); b.recv(1)",
    "signal its own children": "p = subprocess.Popen(['sleep', '60']); p.kill(); p.wait()",
    "limit and slow itself": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000)); os.setpriority(0, 0, 1)"
    ),
    "throw away output": "write('/dev/null')",
    "use git": (
        "run = lambda *a: subprocess.run(['git', *a], check=True, stdout=subprocess.DEVNULL);"
        "os.mkdir('repo'); os.chdir('repo'); run('init', '-q'); write('f'); run('add', '.');"
        "run('-c', 'user.name=a', '-c', 'user.email=a@b.c', 'commit', '-qm', 'x'); run('status'); os.chdir('..')"
    ),
}


def listener() -> socket.socket:
    """A TCP server on loopback that accepts and closes for ever."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return server


async def confined(
    argv: tuple[str, ...], cwd: Path, home: Path, policy: SandboxPolicy
) -> tuple[int, list[str], list[str]]:
    env = {"PATH": PATH, "HOME": str(home), "TMPDIR": str(home / "tmp")}
    process = await start_process(ProcessSpec(argv, cwd, env, policy, max_processes=100, max_memory_bytes=2**30))
    try:
        code = await asyncio.wait_for(process.exited(), 30)
    finally:
        await process.stop(grace=0)
    return code, process.stdout_lines, process.stderr_tail


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    base = tmp_path_factory.mktemp("sandbox")
    workspace, home, neighbour = base / "ws", base / "home", base / "all" / "neighbour"
    for path in (workspace, home / "tmp", neighbour):
        path.mkdir(parents=True)
    (neighbour / "secret").write_text("secret")
    proxy, other, unix = listener(), listener(), socket.socket(socket.AF_UNIX)
    unix.bind(str(workspace / "service.sock"))
    unix.listen()
    with socket.create_server(("127.0.0.1", 0)) as free:
        own_port = free.getsockname()[1]
    names = {
        "home": str(home),
        "neighbour": str(neighbour),
        "function": os.getpid(),
        "supervisor": "os.getppid()",
        "proxy_port": proxy.getsockname()[1],
        "other_port": other.getsockname()[1],
        "own_port": own_port,
        "unix": str(workspace / "service.sock"),
    }
    code = {name: attack.format(**names) for name, (attack, _) in ATTACKS.items()}
    # "Become another user" would spoil what comes after it, so the attacks come last.
    code = {name: allowed.format(**names) for name, allowed in ALLOWED.items()} | code
    policy = SandboxPolicy((workspace, home), INTERPRETER, (names["proxy_port"],), own_port)
    argv = (sys.executable, "-I", "-S", "-c", PROBE, json.dumps(code))
    _, out, err = asyncio.run(confined(argv, workspace, home, policy))
    assert out, err
    yield json.loads(out[-1])
    assert (neighbour / "secret").read_text() == "secret"
    for server in (proxy, other, unix):
        server.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused(results: dict[str, Any], attack: str) -> None:
    """The kernel refuses it."""
    assert results[attack] in ATTACKS[attack][1]


@pytest.mark.parametrize("work", ALLOWED)
def test_allowed(results: dict[str, Any], work: str) -> None:
    """Ordinary work goes on as ever."""
    assert results[work] == "ok"


async def run_shell(tmp_path: Path, script: str, *read_only: Path) -> tuple[int, list[str], list[str]]:
    workspace, home = tmp_path / "ws", tmp_path / "home"
    workspace.mkdir()
    (home / "tmp").mkdir(parents=True)
    return await confined(("/bin/sh", "-c", script), workspace, home, SandboxPolicy((workspace, home), read_only))


async def test_no_capabilities_no_new_privileges_no_cores(tmp_path: Path) -> None:
    """Uid 0 inside is a user without capabilities, and nothing it starts can get any."""
    _, out, _ = await run_shell(tmp_path, "cat /proc/self/status; ulimit -c; ulimit -n")
    status = dict(line.split(":\t", 1) for line in out if ":\t" in line)
    assert [int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")] == [0, 0, 0, 0]
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert out[-2] == "0"
    assert int(out[-1]) <= 16384


async def test_no_ports_given_means_no_network(tmp_path: Path) -> None:
    """A policy without ports leaves no TCP at all."""
    with listener() as server:
        port = server.getsockname()[1]
        script = f"exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'"
        code, _, err = await run_shell(tmp_path, script)
    assert code != 0
    assert any("denied" in line or "not permitted" in line for line in err), err


async def test_missing_path_stops_the_start(tmp_path: Path) -> None:
    """A policy that names a missing path is refused before anything runs, not run without it."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await run_shell(tmp_path, "true", tmp_path / "nowhere")


async def test_broken_sandbox_never_runs_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the sandbox cannot be entered, the agent is not started without it."""
    monkeypatch.setattr(sandbox, "nono_extension", lambda: tmp_path / "no-such-extension.so")
    with pytest.raises(AgentFailed, match="no-such-extension"):
        await run_shell(tmp_path, f"touch {tmp_path}/ws/ran")
    assert not (tmp_path / "ws" / "ran").exists()


async def test_neighbours_are_strangers(tmp_path: Path) -> None:
    """Two sandboxed agents of the same user can neither signal nor look into each other."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    policy = SandboxPolicy((tmp_path / "a",))
    first = await start_process(
        ProcessSpec(("/bin/sh", "-c", "echo $$; exec sleep 60"), tmp_path / "a", {"PATH": PATH}, policy, 20, 2**30)
    )
    try:
        pid = (await first.wait_line(re.compile(r"^\d+$"), 10)).group()
        script = (
            f"kill -0 {pid} && echo signalled; cat /proc/{pid}/environ && echo read; ls /proc/{pid}/cwd && echo seen"
        )
        _, out, _ = await run_shell(tmp_path / "b", script)
        assert out == []
    finally:
        await first.stop(grace=0)
