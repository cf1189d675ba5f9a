"""Trees of real processes under a real supervisor: whatever they do, none is left."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from ocf.functions.execute.sandbox import procfs
from ocf.functions.execute.sandbox.process import (
    TREE_VARIABLE,
    AgentFailed,
    AgentNotReady,
    AgentProcess,
    ProcessSpec,
    start_process,
)
from ocf.functions.execute.sandbox.supervisor import THREADS_PER_PROCESS

ROOT = Path(__file__).resolve().parents[2]
PATH = "/usr/local/bin:/usr/bin:/bin"

# A tree of 50: every third daemonises (double fork and a new session), every other ignores SIGTERM. Each writes its
# pid to the file in argv[1]; the main process says "grown" when all have.
TREE = """
import os, signal, sys, time
def live():
    with open(sys.argv[1], "a") as f:
        f.write(f"{os.getpid()}\\n")
    while True:
        time.sleep(60)
for number in range(49):
    if os.fork() == 0:
        if number % 2:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if number % 3 == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.setsid()
        live()
while sum(1 for _ in open(sys.argv[1])) < 49:
    time.sleep(0.01)
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("grown", flush=True)
live()
"""

# Forks as fast as it can, every process a forker, until the tokens in a pipe run out (so that a failing test cannot
# take the machine along). Then all sit there.
BOMB = """
import os, time
read, write = os.pipe()
os.write(write, b"x" * 1500)
os.set_blocking(read, False)
print("armed", flush=True)
while True:
    try:
        os.read(read, 1)
    except BlockingIOError:
        time.sleep(60)
        continue
    if os.fork() == 0:
        os.setsid()
"""


def spec(code: str, *arguments: str, processes: int = 200, memory: int = 2**31) -> ProcessSpec:
    argv = (sys.executable, "-I", "-S", "-c", code, *arguments)
    return ProcessSpec(argv, Path("/"), {"PATH": PATH}, None, max_processes=processes, max_memory_bytes=memory)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def proc_file(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def command_line(pid: int) -> str:
    try:
        return proc_file(pid, "cmdline")
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not met in time"
        await asyncio.sleep(0.01)


@pytest.fixture
async def started() -> AsyncIterator[list[AgentProcess]]:
    """Trees that a test adds here are ended after it."""
    processes: list[AgentProcess] = []
    yield processes
    for process in processes:
        await process.stop(grace=0)


async def grown(tmp_path: Path, started: list[AgentProcess], *, scope_signals: bool) -> tuple[AgentProcess, list[int]]:
    pids = tmp_path / "pids"
    pids.touch()
    process = await start_process(spec(TREE, str(pids)), scope_signals=scope_signals)
    started.append(process)
    await process.wait_line(re.compile("^grown$"), 20)
    await until(lambda: len(pids.read_text().split()) == 50)
    return process, [int(pid) for pid in pids.read_text().split()]


@pytest.mark.parametrize("scope_signals", [True, False])
async def test_stop_ends_a_tree_of_fifty(tmp_path: Path, started: list[AgentProcess], scope_signals: bool) -> None:
    """50 processes, daemonised, double-forked and deaf to SIGTERM, are gone within a second of `stop`."""
    process, pids = await grown(tmp_path, started, scope_signals=scope_signals)
    began = time.monotonic()
    report = await process.stop()
    took = time.monotonic() - began
    assert [pid for pid in pids if alive(pid)] == []
    assert report.left == 0
    assert report.killed >= 50
    assert 0.3 <= report.seconds <= took <= 1.0
    assert await process.exited() == -signal.SIGKILL


@pytest.mark.parametrize("scope_signals", [True, False])
async def test_fork_bomb_is_ended(started: list[AgentProcess], scope_signals: bool) -> None:
    """A fork bomb is noticed, named and gone within seconds, with every process it made."""
    process = await start_process(spec(BOMB, processes=100), scope_signals=scope_signals)
    started.append(process)
    began = time.monotonic()
    assert await asyncio.wait_for(process.exited(), 20) == -signal.SIGKILL
    print("bomb ended after", time.monotonic() - began, process.limit_hit)
    assert process.limit_hit is not None
    assert (process.limit_hit.what, process.limit_hit.limit) == ("processes", 100)
    assert (await process.stop()).left == 0


async def test_thread_bomb_is_ended(started: list[AgentProcess]) -> None:
    """Threads count too: a process with far more than its share is ended."""
    code = "import threading, time\nfor _ in range(9000):\n    threading.Thread(target=time.sleep, args=(60,)).start()"
    process = await start_process(spec(code, processes=8))
    started.append(process)
    await asyncio.wait_for(process.exited(), 20)
    assert process.limit_hit is not None
    assert process.limit_hit.limit == 8 * THREADS_PER_PROCESS


async def test_memory_over_the_limit_ends_the_tree(started: list[AgentProcess]) -> None:
    """Memory counts over the whole tree: two children below the limit are together over it."""
    code = "import os, time\nos.fork()\nkept = b'x' * 80_000_000\nprint('full', flush=True)\ntime.sleep(60)"
    process = await start_process(spec(code, memory=128 * 2**20))
    started.append(process)
    with pytest.raises(AgentFailed) as failure:
        await process.wait_line(re.compile("never"), 20)
    assert failure.value.reason == "out_of_memory"
    assert process.limit_hit is not None
    assert process.limit_hit.value > 128 * 2**20


# Bytes that wait in pairs of sockets, and the tables for pages that are all the one page of zeros: 400 MB of each, and
# no process shows them as its memory.
KERNEL_MEMORY = {
    "socket buffers": """
import socket, time
pairs = []
while len(pairs) < 2000:
    pair = socket.socketpair()
    pair[0].setblocking(False)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    try:
        while pair[0].send(b"x" * 65536):
            pass
    except BlockingIOError:
        pairs.append(pair)
print("full", flush=True)
time.sleep(60)
""",
    "page tables": """
import ctypes, mmap, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
size, reach = 100_000 << 21, 1 << 21
start = libc.mmap(None, ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0))
libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), 15)
for number in range(size // reach):
    ctypes.c_char.from_address(start + number * reach).value
print("full", flush=True)
time.sleep(60)
""",
}


@pytest.mark.parametrize("kind", KERNEL_MEMORY)
async def test_kernel_memory_counts(started: list[AgentProcess], kind: str) -> None:
    """What the kernel keeps for a tree is its memory: under a limit of 256 MiB it ends as `out_of_memory`."""
    process = await start_process(spec(KERNEL_MEMORY[kind], memory=256 * 2**20))
    started.append(process)
    with pytest.raises(AgentFailed) as failure:
        await process.wait_line(re.compile("never"), 60)
    assert failure.value.reason == "out_of_memory"


async def test_tree_dies_with_its_function(tmp_path: Path) -> None:
    """SIGKILL of the function, which can clean up nothing, takes the supervisor and the whole tree along."""
    pids = tmp_path / "pids"
    pids.touch()
    code = f"""
import asyncio, re, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from ocf.functions.execute.sandbox.process import ProcessSpec, start_process
async def main():
    argv = (sys.executable, "-I", "-S", "-c", {TREE!r}, {str(pids)!r})
    p = await start_process(ProcessSpec(argv, Path("/"), {{}}, None, 200, 2**31))
    await p.wait_line(re.compile("grown"), 20)
    print(p.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    function = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert function.stdout is not None
    supervisor = int(await asyncio.wait_for(function.stdout.readline(), 20))
    await until(lambda: len(pids.read_text().split()) == 50)
    everyone = [supervisor, *map(int, pids.read_text().split())]
    function.kill()
    await function.wait()
    await until(lambda: not any(alive(pid) for pid in everyone), 10)


async def test_tree_dies_with_its_supervisor(tmp_path: Path, started: list[AgentProcess]) -> None:
    """SIGKILL of the supervisor ends the whole tree, daemons included; `exited` and `stop` still answer."""
    process, pids = await grown(tmp_path, started, scope_signals=True)
    os.kill(process.pid, signal.SIGKILL)
    assert await asyncio.wait_for(process.exited(), 5) == -signal.SIGKILL
    # Their memory is gone, which is all that can be seen of a process with another parent; the rest takes a moment.
    await until(lambda: not any(alive(pid) for pid in pids))
    report = await process.stop()
    assert report.killed >= 49
    assert report.left == 0


async def test_agent_without_sandbox_cannot_signal_out(started: list[AgentProcess]) -> None:
    """With SANDBOX=off, too, the agent can signal neither its supervisor nor the function."""
    argv = ("/bin/sh", "-c", f"kill -9 $PPID; kill -0 {os.getpid()}; echo tried; exec sleep 60")
    process = await start_process(ProcessSpec(argv, Path("/"), {"PATH": PATH}, None, 20, 2**30))
    started.append(process)
    if not process.scoped:
        pytest.skip("this kernel does not scope signals")
    await process.wait_line(re.compile("^tried$"), 10)
    assert len([line for line in process.stderr_tail if "not permitted" in line]) == 2
    assert alive(process.pid)


async def test_daemons_end_when_the_agent_does(tmp_path: Path, started: list[AgentProcess]) -> None:
    """An agent that ends by itself leaves no daemon; its exit code is kept, `stop` afterwards changes nothing."""
    note = tmp_path / "pid"
    code = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
while not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()):
    time.sleep(0.01)
sys.exit(7)
"""
    process = await start_process(spec(code, str(note)))
    started.append(process)
    assert await asyncio.wait_for(process.exited(), 10) == 7
    assert not alive(int(note.read_text()))
    report = await process.stop()
    assert (report.killed, report.left) == (1, 0)
    assert await process.stop() == report


async def test_polite_agent_gets_its_grace(started: list[AgentProcess]) -> None:
    """An agent that ends on SIGTERM ends with its own code, before the grace is over."""
    code = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(3))\nprint('up', flush=True)\ntime.sleep(9)"
    process = await start_process(spec(code))
    started.append(process)
    await process.wait_line(re.compile("up"), 10)
    report = await process.stop(grace=10)
    assert report.seconds < 5
    assert await process.exited() == 3


async def test_start_failures_name_the_cause(tmp_path: Path) -> None:
    """A missing program is an AgentFailed that names it, and no supervisor stays."""
    missing = ProcessSpec(("/nowhere/agent",), tmp_path, {}, None, max_processes=10, max_memory_bytes=2**30)
    with pytest.raises(AgentFailed, match="No such file"):
        await start_process(missing)
    assert not [pid for pid in procfs.sample(os.getpid()).pids if "supervisor" in command_line(pid)]


async def test_a_supervisor_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen container never answers; the start ends and may be tried again, and no supervisor stays."""
    monkeypatch.setattr("ocf.functions.execute.sandbox.process._BOOT", "import time; time.sleep(600)")
    monkeypatch.setattr("ocf.functions.execute.sandbox.process._START_SECONDS", 0.2)
    before = set(procfs.sample(os.getpid()).pids)
    with pytest.raises(AgentNotReady, match=r"did not answer within 0\.2 s"):
        await start_process(spec("pass"))
    assert set(procfs.sample(os.getpid()).pids) <= before


async def test_a_supervisor_whose_pipes_stay_open_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs in the kernel keeps the pipes of the supervisor that was given up."""
    boot = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    monkeypatch.setattr("ocf.functions.execute.sandbox.process._BOOT", boot)
    monkeypatch.setattr("ocf.functions.execute.sandbox.process._START_SECONDS", 3.0)
    monkeypatch.setattr("ocf.functions.execute.sandbox.process._ANSWER_SECONDS", 0.2)
    before, open_files = set(_sleeping()), len(os.listdir("/proc/self/fd"))
    async with asyncio.timeout(20):
        with pytest.raises(AgentNotReady, match=r"did not answer within 3 s"):
            await start_process(spec("pass"))
    for pid in set(_sleeping()) - before:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while len(os.listdir("/proc/self/fd")) > open_files:
            await asyncio.sleep(0.01)


def test_an_agent_that_has_not_begun_dies_with_its_supervisor() -> None:
    """A supervisor that was given up leaves no agent that starts later, without limits."""
    code = (
        "import os, signal, time\n"
        "from ocf.functions.execute.sandbox import confine, supervisor\n"
        "read, write = os.pipe()\n"
        "def starved(number): os.write(write, b'x'); time.sleep(600)\n"
        "confine.limit_resources = starved\n"
        "parent, child = os.getpid(), os.fork()\n"
        "if not child:\n"
        "    supervisor._become_agent({'idle': False, 'open_files': 64}, -1, write, scope=False, supervisor=parent)\n"
        "os.read(read, 1)\n"
        "print(child, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout)
    psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=20)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def _sleeping() -> list[int]:
    """Processes `sleep 600`."""
    return [one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "600"]]


async def test_early_end_shows_stderr(started: list[AgentProcess]) -> None:
    """Waiting for a line of an agent that ends raises with the tail of its standard error."""
    process = await start_process(spec("import sys\nprint('port is taken', file=sys.stderr)\nsys.exit(1)"))
    started.append(process)
    with pytest.raises(AgentFailed, match="code 1") as failure:
        await process.wait_line(re.compile("listening"), 10)
    assert failure.value.stderr_tail == ("port is taken",)


async def test_silence_is_a_timeout(started: list[AgentProcess]) -> None:
    """Waiting for a line that never comes ends after the given time."""
    process = await start_process(spec("import time\ntime.sleep(60)"))
    started.append(process)
    with pytest.raises(AgentFailed, match=r"not ready after 0\.1 s"):
        await process.wait_line(re.compile("listening"), 0.1)


async def test_environment_is_exactly_the_given_one(
    started: list[AgentProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the agent nor its supervisor has anything of the function's environment."""
    monkeypatch.setenv("ENCRYPTION_KEY", "not-for-the-agent")
    argv = ("/bin/sh", "-c", "/usr/bin/env; echo end; exec sleep 60")
    process = await start_process(ProcessSpec(argv, Path("/"), {"PATH": PATH, "A": "b c"}, None, 20, 2**30))
    started.append(process)
    await process.wait_line(re.compile("^end$"), 10)
    shell_made = {"PWD=/", "OLDPWD=/", "SHLVL=0", "_=/usr/bin/env", "end"}
    made = {line for line in process.stdout_lines if not line.startswith(f"{TREE_VARIABLE}=")}
    assert made - shell_made == {f"PATH={PATH}", "A=b c"}
    assert proc_file(process.pid, "environ") == ""


async def test_floods_of_output_are_drained(started: list[AgentProcess]) -> None:
    """Output without line ends and without bound neither blocks the agent nor grows this process."""
    code = "import os\nfor _ in range(1000):\n    os.write(1, b'x' * 100_000)\nos.write(2, b'\\ndone\\n')"
    process = await start_process(spec(code))
    started.append(process)
    await process.wait_line(re.compile("^done$"), 20)
    assert await asyncio.wait_for(process.exited(), 10) == 0
    assert max(map(len, process.stdout_lines)) <= 8192


async def test_memory_covers_daemonised_processes(started: list[AgentProcess]) -> None:
    """`memory_bytes` includes a daemon that has left the agent's session."""
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        kept = b"x" * 64_000_000
        print("full", flush=True)
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
    process = await start_process(spec(code))
    started.append(process)
    await process.wait_line(re.compile("full"), 10)
    assert process.memory_bytes() > 64_000_000
    # The agent, the daemon, and its parent in between, dead but not yet waited for.
    assert process.process_count() == 3


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no /proc/PID/schedstat")
async def test_waiting_for_a_processor_is_seen() -> None:
    """Two that are busy on one processor wait for each other, one that sleeps waits for nobody."""
    core = min(os.sched_getaffinity(0))
    busy = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    code = f"import os, time\nfor _ in range(2):\n    if os.fork() == 0:\n        exec({busy!r})\ntime.sleep(60)"
    process = await start_process(spec(code))
    try:
        async with asyncio.timeout(20):
            while not (children := psutil.Process(process.pid).children()):
                await asyncio.sleep(0.02)
            # On a busy machine the sleeper waits too, but only until it sleeps.
            while process.cpu_wait_seconds() < procfs.cpu_wait_seconds((children[0].pid,)) + 0.1:
                await asyncio.sleep(0.02)
    finally:
        await process.stop(0.0)
