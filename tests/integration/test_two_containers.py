"""A worker without capabilities whose agents are another user's, in a process namespace of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import zstandard

from tests.support.containers import UID, AgentContainer, agent_container, why_not
from tests.support.hostile import LOCKS
from tests.support.sessions import opened
from tests.support.stack import Project, Stack, running_stack, until

WHY = why_not()
pytestmark = pytest.mark.skipif(WHY is not None, reason=str(WHY))

HIDES = (
    "mkdir -p deep/er && echo secret > deep/er/file && echo x > alone && chmod 000 alone deep/er/file && "
    "chmod 000 deep/er && chmod 000 deep && echo hidden"
)
LOOKS = (
    "id -u; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done; "
    "cat /proc/1/environ | tr '\\0' '\\n'; echo looked"
)


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """A folder that other users may pass through, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="ocf-two-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def container(top: Path) -> Iterator[AgentContainer]:
    with agent_container(top) as running:
        yield running


@pytest.fixture(scope="module")
def stack(top: Path, container: AgentContainer) -> Iterator[Stack]:
    with running_stack(
        top,
        privileged=False,
        MAX_CONCURRENT_TASKS="1",
        WARM_SLOTS="1",
        ALLOW_SHARED_USER="0",
        AGENT_HOST_SOCKET=str(container.socket),
    ) as running:
        yield running


def checks(stack: Stack) -> dict[str, str]:
    ports = json.loads((stack.data_dir / "ports.json").read_text())
    try:
        with urlopen(f"http://127.0.0.1:{ports['execute']}/ready", timeout=10) as answer:
            said = answer.read()
    except HTTPError as error:
        said = error.read()
    found: dict[str, str] = json.loads(said)["checks"]
    return found


def ready(stack: Stack) -> bool:
    """Whether every check passes, that of the boundary by its name."""
    found = checks(stack)
    return found.pop("boundary").startswith("container of its own") and set(found.values()) == {"ok"}


async def archive(project: Project, execution: str) -> dict[str, tuple[int, bytes]]:
    """Names, modes and contents of the files of the archived workspace."""
    packed = await project.store.get(f"{project.name}/{execution}/workspace.tar.zst")
    data = zstandard.ZstdDecompressor().stream_reader(BytesIO(packed)).read()
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        files = [info for info in tar if info.isfile()]
        return {info.name: (info.mode, tar.extractfile(info).read()) for info in files}  # type: ignore[union-attr]


async def test_a_run_is_another_user_and_sees_no_process_of_the_worker(stack: Stack, project: Project) -> None:
    """The agent is the container's user; the processes that it sees are that container's, and none holds a key."""
    execution = await project.submit([{"run": LOOKS}])
    record = await project.archived(execution, 60)
    assert record.state == "completed", record
    said = "".join(chunk.data for chunk in await project.chunks(execution))
    assert str(UID) in said
    assert "looked" in said
    assert "ocf.functions.runtime.serve" not in said
    assert "AWS_" not in said
    assert "container of its own" in stack.log("execute")


async def test_files_come_in_and_go_out(stack: Stack, project: Project) -> None:
    """A copied source is the agent's own: it may change modes and times there; what it made and changed comes back."""
    source = stack.data_dir.parent / "sources/some"
    source.mkdir()
    (source / "script.sh").write_text("echo from source\n")
    (source / "private").write_text("before\n")
    (source / "private").chmod(0o600)
    (source / "large").touch()
    os.truncate(source / "large", 65 * 1024**2)  # so large that only its stat data tell whether it has changed
    run = (
        "chmod +x script.sh && ./script.sh && touch -d 2020-01-01 private && echo after > private && "
        "mkdir new && echo n > new/file"
    )
    workspace = {"source": "directory", "path": str(source)}
    execution = await project.submit([{"run": run}], workspace=workspace)
    record = await project.archived(execution, 60)
    assert (record.state, record.diff and record.diff.files) == ("completed", 3), record
    files = await archive(project, execution)
    assert files["private"][1] == b"after\n"
    assert files["script.sh"][0] & 0o100
    assert files["new/file"][1] == b"n\n"
    assert (source / "private").read_text() == "before\n"


async def test_a_repository_is_cloned_and_a_session_goes_on(stack: Stack, project: Project) -> None:
    """git works in what was copied to the agent's user, and a session's second turn finds the files of its first."""
    session = await opened(project)
    first = await project.submit([{"run": "git init -q . ; git status --short && echo 1 > one"}], session_id=session)
    assert (await project.archived(first, 60)).state == "completed"
    second = await project.submit([{"run": "cat one && echo 2 > one && git status --short"}], session_id=session)
    record = await project.archived(second, 60)
    assert (record.state, record.diff and record.diff.files) == ("completed", 1), record


async def test_files_that_an_agent_hides_are_collected(project: Project) -> None:
    """Files and folders with no permission at all are in the archive and in the summary of changes."""
    execution = await project.submit([{"run": HIDES}])
    record = await project.archived(execution, 60)
    assert (record.state, record.diff and record.diff.files) == ("completed", 2), record
    files = await archive(project, execution)
    assert {name: content for name, (_, content) in files.items() if not name.startswith(".git/")} == {
        "alone": b"x\n",
        "deep/er/file": b"secret\n",
    }


async def test_a_hostile_run_and_then_one_of_another_project(
    stack: Stack, container: AgentContainer, project: Project
) -> None:
    """It locks and removes all it can reach and signals everybody: the next, of another project, completes, and
    nothing of the first is left, neither a process nor a file."""
    execution = await project.submit([{"run": LOCKS.shell}])
    await project.ended(execution, 60)
    async with stack.project() as other:
        after = await other.submit([{"run": "echo x > made; ls -a /proc | grep -c '^[0-9]'"}])
        record = await other.archived(after, 90)
        assert (record.state, record.diff and record.diff.files) == ("completed", 1), record
    host = container.inside()
    assert host is not None

    async def alone() -> bool:
        left = [path.name for path in container.socket.parent.iterdir()]
        return len(left) <= 1  # the warm server's, at most

    await until(alone, what="folders of ended executions are removed")
    assert ready(stack)


async def test_a_host_that_is_killed_fails_its_run_and_comes_back(
    stack: Stack, container: AgentContainer, project: Project
) -> None:
    """Its run ends as failed, with its files; the next completes in the container that was started since."""
    execution = await project.submit(
        [{"run": "echo kept > made; chmod 000 made"}, {"text": "here"}, {"run": "sleep 60"}]
    )
    await project.running(execution, "here")
    host = container.inside()
    assert host is not None
    os.kill(host, signal.SIGKILL)
    record = await project.archived(execution, 90)
    assert (record.state, record.reason) == ("failed", "agent_error"), record
    assert (await archive(project, execution))["made"][1] == b"kept\n"
    again = await project.submit([{"run": "echo x > made"}])
    assert (await project.archived(again, 90)).state == "completed"
    assert container.inside() != host


async def test_a_limit_of_memory_is_that_of_the_tree(project: Project) -> None:
    """The supervisor counts where the processes are: too much memory ends the run by name."""
    run = "python3 -c 'x = bytearray(400_000_000); import time; time.sleep(30)'"
    execution = await project.submit([{"run": run}], limits={"max_memory_bytes": 256 * 1024 * 1024})
    record = await project.ended(execution, 60)
    assert (record.state, record.reason) == ("failed", "out_of_memory"), record


async def test_a_stopped_host_makes_the_worker_unready(stack: Stack, container: AgentContainer) -> None:
    """No request is to come to a pod whose agent's container does not answer."""
    host = container.inside()
    assert host is not None
    os.kill(host, signal.SIGSTOP)
    try:

        async def unready() -> bool:
            return not ready(stack)

        await until(unready, what="the check of the agent's container fails")
    finally:
        os.kill(host, signal.SIGCONT)

    async def again() -> bool:
        return ready(stack)

    await until(again, what="it is ready again")
