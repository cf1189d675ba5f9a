"""The embedded stack: what `ocf up` promises, with the scripted agent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.detached import OCF, ROOT, Stack, processes_of, running_stack, up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PARTS = {"up", "fork-server", "nats", "s3", "model", "control", "execute", "dispatcher"}
CONTRACT = {
    *("gateway", "nats", "nats_ws", "nats_creds", "s3_endpoint", "s3_bucket"),
    *("s3_access_key", "s3_secret_key", "console", "data_dir"),
}


def until(condition: Callable[[], object], patience: float = 60) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them is alive (a zombie waits for init only)."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def memory(pid: int) -> bytes:
    """What a process can write to, and its environment."""
    pieces = [Path(f"/proc/{pid}/environ").read_bytes()]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as whole:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            (
                place,
                rights,
                *_,
            ) = line.split()
            if rights.startswith("rw") and "[v" not in line:
                start, end = (int(part, 16) for part in place.split("-"))
                with contextlib.suppress(OSError):  # a page that is reserved and not there
                    whole.seek(start)
                    pieces.append(whole.read(end - start))
    return b"\0".join(pieces)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack for this module."""
    with running_stack(tmp_path_factory.mktemp("stack") / "data") as found:
        yield found


def run_task(stack: Stack, project: str) -> str:
    """Run the scripted agent's default task; returns the execution's id."""
    done = stack.ocf("run", "hello", "--project", project, "--json", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return str(json.loads(done.stdout.splitlines()[-1])["execution_id"])


def test_the_one_line_names_what_runs(stack: Stack) -> None:
    """`ocf up --json` prints the contract's keys; the gateway answers, credentials are the owner's alone."""
    assert set(stack.answer) == CONTRACT
    assert httpx2.get(f"{stack.answer['gateway']}/ready").status_code == 200
    assert set(stack.processes()) == PARTS
    for name in ("keys.json", "backend.creds", "functions.creds", "nats.conf", "s3.json", "stack.json"):
        assert stat.S_IMODE((stack.data_dir / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(stack.data_dir.stat().st_mode) == 0o700


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    """No process of the stack binds to an address that another machine reaches."""
    for name, process in stack.processes().items():
        addresses = {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert addresses <= {"127.0.0.1", "::1"}, name


def test_only_execute_has_the_model_keys(tmp_path: Path) -> None:
    """A provider's key in the user's environment is in the memory of no process but those that talk to models: the
    workers, and not their parent, which hands connections on."""
    key = "sk-seen-nowhere-else"
    with running_stack(tmp_path / "data", {"OPENAI_API_KEY": key}) as stack:
        parts = stack.processes()
        assert "model" not in parts, "a real model is configured, so the offline one is not started"
        until(lambda: any(key.encode() in memory(worker.pid) for worker in parts["execute"].children()))
        have = {name for name, part in parts.items() if key.encode() in memory(part.pid)}
    assert have == {"up"}


def test_up_again_answers_the_same(stack: Stack) -> None:
    """`ocf up --detach` on a running stack starts nothing and prints the same line."""
    before = {name: part.pid for name, part in stack.processes().items()}
    assert up(stack.data_dir).answer == stack.answer
    assert {name: part.pid for name, part in stack.processes().items()} == before


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    """After down and up: same addresses and keys, and the execution with its output is still there."""
    with running_stack(tmp_path / "data") as stack:
        execution = run_task(stack, "restart")
        said = stack.ocf("output", execution, "--project", "restart").stdout
        parts = list(stack.processes().values())
        assert stack.ocf("down").returncode == 0
        assert gone(parts)
        again = up(stack.data_dir)
        assert again.answer == stack.answer
        assert again.ocf("output", execution, "--project", "restart").stdout == said != ""


@pytest.mark.parametrize("name", ["nats", "s3", "dispatcher", "control", "execute", "fork-server"])
def test_a_part_that_is_killed_comes_back(stack: Stack, name: str) -> None:
    """After SIGKILL of one process it is started again on its ports, and tasks run."""
    part = stack.processes()[name]
    part.kill()
    until(lambda: (now := stack.processes().get(name)) is not None and now.pid != part.pid)
    ready = f"{stack.answer['gateway']}/ready"

    def answers() -> bool:
        try:
            return httpx2.get(ready, timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    until(answers)
    run_task(stack, f"killed-{name}")


def test_sigkill_of_up_leaves_no_process(tmp_path: Path) -> None:
    """Even when `ocf up` is killed without a chance to stop its children, they end; and it starts again."""
    stack = up(tmp_path / "data")
    parts = stack.processes()
    parts["up"].kill()
    until(lambda: gone(list(parts.values())))
    with running_stack(stack.data_dir) as again:
        assert again.answer == stack.answer
        run_task(again, "again")


def test_ctrl_c_stops_all(tmp_path: Path) -> None:
    """In the foreground SIGINT ends it with status 0 and no process is left."""
    data_dir = tmp_path / "data"
    command = [*OCF, "up", "--json", "--data-dir", str(data_dir)]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert json.loads(process.stdout.readline())["data_dir"] == str(data_dir)
        parts = list(processes_of(data_dir).values())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert gone(parts)


def test_a_task_that_runs_is_stopped_with_the_stack(tmp_path: Path) -> None:
    """`ocf down` in mid-run ends the agent too, soon; the execution goes on at the next start or has ended."""
    with running_stack(tmp_path / "data") as stack:
        prompt = '[[steps]] [{"text": "begun "}, {"sleep": 60}]'
        execution = stack.ocf("submit", prompt, "--project", "mid").stdout.strip()
        until(lambda: "begun" in stack.ocf("output", execution, "--project", "mid").stdout)
        parts = stack.processes()["execute"].children(recursive=True)
        assert parts
        began = time.monotonic()
        assert stack.ocf("down").returncode == 0
        assert time.monotonic() - began < 30
        assert gone(parts)


def test_a_taken_port_is_said(tmp_path: Path, stack: Stack) -> None:
    """A told port that somebody has is one line and exit 1; nothing is left running."""
    port = stack.answer["gateway"].rsplit(":", 1)[1]
    command = [*OCF, "up", "--detach", "--port", port, "--data-dir", str(tmp_path / uuid.uuid4().hex)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr == f"ocf: port {port} for gateway is taken; stop what listens there, or choose another\n"
