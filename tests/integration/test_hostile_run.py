"""A hostile run and then one of another project, on one machine: as root, and as a user without capabilities."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from ocf.functions.execute.sandbox.users import cannot_change_users
from tests.support.stack import OCF, Stack, running_stack, until

pytestmark = pytest.mark.slow

# As far up as a path goes; then what is next to it, as far as its name is known or can be read.
HOSTILE = (
    "mkdir src; echo x > src/file; chmod -R 644 src; "
    'chmod 0 "$PWD/.." "$PWD/../.." "$PWD/../../.." "$HOME"; for f in "$PWD"/../../*/*; do chmod 0 "$f"; done; '
    "ls $PWD/../..; echo tried"
)
WHY = cannot_change_users(200_000, 265_535, ())


@pytest.fixture(scope="module", params=["root", "unprivileged"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a warm server, as root and as a user without capabilities; one machine for both of its projects."""
    if request.param == "root" and WHY is not None:
        pytest.skip(WHY)
    privileged = request.param == "root"
    with running_stack(
        tmp_path_factory.mktemp(request.param), privileged=privileged, WARM_SLOTS="1", ALLOW_SHARED_USER="0"
    ) as running:
        yield running


def own_users(stack: Stack) -> bool:
    return "user of its own" in stack.log("execute")


def ready(stack: Stack) -> dict[str, str]:
    ports = json.loads((stack.data_dir / "ports.json").read_text())
    with urlopen(f"http://127.0.0.1:{ports['execute']}/ready", timeout=10) as answer:
        found: dict[str, str] = json.loads(answer.read())["checks"]
    return found


async def test_a_hostile_run_stops_nobody(machine: Stack) -> None:
    """After one that locks every folder it can, its own too, its work is stored, the next of its project completes, and
    the worker is ready; so is that of another project where each has a user of its own."""
    privileged = own_users(machine)
    async with machine.project() as one, machine.project() as two:
        neighbour = await one.submit([{"text": "here"}, {"run": "sleep 3; echo x > made"}, {"text": "there"}])
        await one.running(neighbour, "here")
        hostile = await one.submit([{"run": HOSTILE}])
        record = await one.ended(hostile, 60)
        assert (record.state, record.artifacts, record.diff and record.diff.files) == ("completed", "stored", 1), record
        assert any("tried" in chunk.data for chunk in await one.chunks(hostile))
        again = await one.submit([{"run": "echo y > made"}])
        record = await one.archived(again, 60)
        assert (record.state, record.diff and record.diff.files) == ("completed", 1), record
        if privileged:
            third = await two.submit([{"run": "echo z > made"}])
            assert (await two.archived(third, 60)).state == "completed"
            record = await one.archived(neighbour, 60)
            assert (record.state, record.diff and record.diff.files) == ("completed", 1), record
        await one.ended(neighbour, 60)
    checks = ready(machine)
    assert checks.pop("boundary").startswith("user of its own per execution" if privileged else "one user, one project")
    assert set(checks.values()) == {"ok"}


def test_doctor_says_which_boundary_is_in_force(machine: Stack) -> None:
    """It asks the stack that runs: with less privileges, this shell's own would be another."""
    command = [OCF, "doctor", "--json", "--data-dir", machine.data_dir]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
    (finding,) = [check for check in said["checks"] if check["name"] == "boundary"]
    assert finding["said"] == ready(machine)["boundary"]
    assert finding["ok"] is own_users(machine)


async def test_a_second_project_is_served_or_refused_by_name(machine: Stack) -> None:
    """While one project's execution runs, another's completes where each has a user of its own; where all agents are
    one user it ends as failed at once, with the reason and what to do."""
    privileged = own_users(machine)
    async with machine.project() as one, machine.project() as two:
        first = await one.submit([{"text": "here"}, {"run": "while ! [ -e gate ]; do sleep 0.1; done"}])
        await one.running(first, "here")
        second = await two.submit([{"run": "echo z > made"}])
        record = await two.ended(second, 60)
        if privileged:
            assert record.state == "completed", record
        else:
            assert (record.state, record.reason) == ("failed", "agent_error")
            for word in (one.name, two.name, "ALLOW_SHARED_USER=1", "root"):
                assert word in (record.message or "")
        await one.client.cancel(first)
        await one.ended(first, 60)
        third = await two.submit([{"run": "echo z > made"}])
        record = await two.ended(third, 60)
        assert record.state == "completed", record


async def test_shared_and_directory_workspaces_work(machine: Stack) -> None:
    """A shared workspace is written where it is, and is the stack's user's afterwards; a copied one stays as it was."""
    shared = machine.data_dir / "workspaces/team"
    source = Path(machine.data_dir).parent / "sources/some"
    source.mkdir(parents=True, exist_ok=True)
    (source / "file").write_text("before\n")
    async with machine.project() as project:
        for name in ("first", "second"):
            run = f"echo x > {name}; mkdir -p deep; echo x >> deep/both; cat deep/both"
            execution = await project.submit([{"run": run}], workspace={"source": "shared", "path": "team"})
            record = await project.ended(execution, 60)
            assert record.state == "completed", record
        assert (shared / "deep/both").read_text() == "x\nx\n"

        async def attempt_ended() -> bool:
            owners = {path.stat().st_uid for path in (shared, *shared.rglob("*"))}
            return owners == {machine.data_dir.stat().st_uid}

        await until(attempt_ended, what="the files are the stack's again")
        directory = {"source": "directory", "path": str(source)}
        execution = await project.submit([{"run": "echo after > file"}], workspace=directory)
        record = await project.archived(execution, 60)
        assert (record.state, record.diff and record.diff.files) == ("completed", 1), record
        assert (source / "file").read_text() == "before\n"
