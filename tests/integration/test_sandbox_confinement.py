"""The sandbox from inside: one confined process tries everything once, and each attempt is judged on its own."""

from __future__ import annotations

import asyncio
import errno
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

pytestmark = pytest.mark.skipif(bool(sandbox_support().missing), reason=f"no {', '.join(sandbox_support().missing)}")

PATH = "/usr/local/bin:/usr/bin:/bin"
INTERPRETER = (Path(sys.base_prefix), Path(sys.prefix))

# Runs the attempts of argv[1] (name -> code) and prints name -> "ok" or the errno.
PROBE = """
import ctypes, json, os, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
def tcp(port, host="127.0.0.1"):
    with socket.socket() as s:
        s.settimeout(3)
        s.connect((host, port))
def bind(port):
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
def fast_open(port):
    with socket.socket() as s:
        s.sendto(b"x", 0x20000000, ("127.0.0.1", port))
def fast_open_message(port):
    with socket.socket() as s:
        s.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port))
def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
def read(path):
    with open(path, "rb") as f:
        return f.read(1)
def write(path, mode="wb"):
    with open(path, mode) as f:
        f.write(b"x")
results = {}
for name, code in json.loads(sys.argv[1]).items():
    try:
        exec(code)
        results[name] = "ok"
    except OSError as error:
        results[name] = error.errno
    except Exception as error:
        results[name] = repr(error)
print(json.dumps(results), flush=True)
"""

DENIED = {errno.EACCES, errno.EPERM}
#: name -> (code, what the kernel answers when it is refused)
ATTACKS: dict[str, tuple[str, set[int]]] = {
    "list the function's home": ("os.listdir('/root')", DENIED),
    "list the root directory": ("os.listdir('/')", DENIED),
    "read a secret of the system": ("read('/etc/shadow')", DENIED),
    "read another execution's workspace": ("read({neighbour!r} + '/secret')", DENIED),
    "list the folder of all workspaces": ("os.listdir(os.path.dirname({neighbour!r}))", DENIED),
    "read it through a symlink": ("os.symlink({neighbour!r}, 'link'); read('link/secret')", DENIED),
    "read it through a hard link": ("os.link({neighbour!r} + '/secret', 'hard')", DENIED | {errno.EXDEV}),
    "write outside": ("write({neighbour!r} + '/new')", DENIED),
    "change a file outside": ("write({neighbour!r} + '/secret', 'ab')", DENIED),
    "truncate a file outside": ("os.truncate({neighbour!r} + '/secret', 0)", DENIED),
    "remove a file outside": ("os.unlink({neighbour!r} + '/secret')", DENIED),
    "move a file out": ("write('mine'); os.rename('mine', {neighbour!r} + '/mine')", DENIED | {errno.EXDEV}),
    "make a folder outside": ("os.mkdir({neighbour!r} + '/new')", DENIED),
    "write to the system": ("write('/usr/bin/new')", DENIED),
    "write to the shared temporary folder": ("write('/tmp/new-file-of-the-agent')", DENIED),
    "write to shared memory": ("write('/dev/shm/new-file-of-the-agent')", DENIED),
    "open a disk": (
        "read('/dev/' + next(d for d in ('vda', 'sda', 'nvme0n1', 'loop0', 'mem')))",
        DENIED | {errno.ENOENT},
    ),
    "make a device": ("os.mknod('device', 0o20600, os.makedev(1, 1))", DENIED),
    "mount": ("call(165, b'none', os.getcwdb(), b'tmpfs', 0, None)", DENIED),
    "read the function's environment": ("read('/proc/{function}/environ')", DENIED),
    "read the first process's environment": ("read('/proc/1/environ')", DENIED),
    "read the supervisor's environment": ("read(f'/proc/{{os.getppid()}}/environ')", DENIED),
    "read the function's memory": ("read('/proc/{function}/mem')", DENIED),
    "read the function's map": ("read('/proc/{function}/maps')", DENIED),
    "name the function's files": ("os.readlink('/proc/{function}/fd/0')", DENIED),
    "open the function's files": ("read('/proc/{function}/fd/0')", DENIED),
    "reach files through the function's root": ("os.listdir('/proc/{function}/root/root')", DENIED),
    "trace the function": ("call(101, 16, {function}, 0, 0)", DENIED),
    "copy the function's memory": (
        # The last argument is on the stack, where half of a C int is whatever was there.
        "b = ctypes.create_string_buffer(8); v = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 8);"
        "call(310, {function}, v, 1, v, 1, ctypes.c_long(0))",
        DENIED,
    ),
    "take a descriptor of the function": (
        "fd = libc.syscall(434, {function}, 0); call(438, fd, 0, 0)",
        DENIED,
    ),
    "take the function's limits away": ("call(302, {function}, 7, 0, 0)", DENIED),
    "slow the function down": ("os.setpriority(os.PRIO_PROCESS, {function}, 19)", DENIED),
    "slow every process of the user down": ("os.setpriority(os.PRIO_USER, 0, 19)", DENIED),
    "slow every process of the group down": ("os.setpriority(os.PRIO_PGRP, 0, 19)", DENIED),
    "stop disk access of every process of the user": ("call(251, 3, 0, 3 << 13)", DENIED),
    "pin the function to one core": ("os.sched_setaffinity({function}, {{0}})", DENIED),
    "change kernel settings": ("write('/proc/sys/kernel/core_pattern')", DENIED),
    "become the last to be killed": ("write('/proc/self/oom_score_adj')", DENIED),
    "signal the function": ("os.kill({function}, 0)", DENIED),
    "signal the supervisor": ("os.kill(os.getppid(), 0)", DENIED),
    "signal the first process": ("os.kill(1, 0)", DENIED),
    "connect to another port": ("tcp({other_port})", DENIED),
    "connect to the metadata address": ("tcp(80, '169.254.169.254')", DENIED),
    "connect by fast open": ("fast_open({other_port})", DENIED),
    "connect by fast open, sendmsg": ("fast_open_message({other_port})", DENIED),
    "connect by multipath TCP": ("socket.socket(2, 1, 262).connect(('127.0.0.1', {other_port}))", DENIED),
    "send a datagram": ("socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 53))", DENIED),
    "send a datagram over IPv6": ("socket.socket(10, 2)", DENIED),
    "open a raw socket": ("socket.socket(2, 3, 1)", DENIED),
    "open a packet socket": ("socket.socket(17, 3)", DENIED),
    "talk netlink": ("socket.socket(16, 3)", DENIED),
    "talk to the hypervisor": ("socket.socket(40, 1)", DENIED),
    "connect to a service's UNIX socket": ("unix({unix!r})", DENIED),
    "listen on another port": ("bind({other_port} + 1)", DENIED),
    "use io_uring": ("call(425, 8, 0)", DENIED),
    "make a user namespace": ("call(272, 0x10000000)", DENIED),
    "clone into a user namespace": ("call(56, 0x10000011, 0, 0, 0, 0)", DENIED),
    "clone3 into a user namespace": ("call(435, 0, 0)", {errno.ENOSYS}),
    "read the keyring": ("call(250, 0, -3, 0)", DENIED),
    "load a BPF program": ("call(321, 0, 0, 0)", DENIED),
    "watch the processor": ("call(298, 0, 0, 0, 0, 0)", DENIED),
    "handle page faults": ("call(323, 0)", DENIED),
    "open a file by its handle": ("call(304, -100, 0, 0)", DENIED),
    "hold memory outside every process, SysV": ("call(29, 0, 4096, 0o1600)", DENIED),
    "hold memory outside every process, POSIX": ("call(240, b'q', 0o102, 0o600, 0)", DENIED),
    "hold memory outside every process, memfd": ("os.memfd_create('x')", {errno.ENOSYS}),
    "set the clock": ("import time; time.clock_settime(0, time.time())", DENIED),
    "restart the machine": ("call(169, 0, 0, 0, 0)", DENIED),
    "load a kernel module": ("call(175, 0, 0, b'')", DENIED),
    "change the root": ("os.chroot('.')", DENIED),
    "become another user": ("os.setuid(12345)", DENIED),
}
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
    "connect to its broker": "tcp({broker_port})",
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
    broker, other, unix = listener(), listener(), socket.socket(socket.AF_UNIX)
    unix.bind(str(workspace / "service.sock"))
    unix.listen()
    with socket.create_server(("127.0.0.1", 0)) as free:
        own_port = free.getsockname()[1]
    names = {
        "home": str(home),
        "neighbour": str(neighbour),
        "function": os.getpid(),
        "broker_port": broker.getsockname()[1],
        "other_port": other.getsockname()[1],
        "own_port": own_port,
        "unix": str(workspace / "service.sock"),
    }
    code = {name: attack.format(**names) for name, (attack, _) in ATTACKS.items()}
    # "Become another user" would spoil what comes after it, so the attacks come last.
    code = {name: allowed.format(**names) for name, allowed in ALLOWED.items()} | code
    policy = SandboxPolicy((workspace, home), INTERPRETER, (names["broker_port"],), own_port)
    argv = (sys.executable, "-I", "-S", "-c", PROBE, json.dumps(code))
    _, out, err = asyncio.run(confined(argv, workspace, home, policy))
    assert out, err
    yield json.loads(out[-1])
    assert (neighbour / "secret").read_text() == "secret"
    for server in (broker, other, unix):
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
