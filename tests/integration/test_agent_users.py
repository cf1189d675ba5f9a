"""A user of its own for each execution, on real process trees, as root."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ocf.functions.execute.sandbox import filesystem_view
from ocf.functions.execute.sandbox.policy import SandboxPolicy, sandbox_support
from ocf.functions.execute.sandbox.process import AgentProcess, ProcessSpec, start_process
from ocf.functions.execute.sandbox.users import AgentUser, AgentUsers, NoUser, cannot_change_users
from ocf.functions.workspace import discard_tree
from tests.support.privileges import without_privileges

FIRST, LAST = 300_000, 300_999
PATH = "/usr/local/bin:/usr/bin:/bin"
WHY = cannot_change_users(FIRST, LAST, ())
pytestmark = [
    pytest.mark.skipif(WHY is not None, reason=str(WHY)),
    pytest.mark.skipif(bool(sandbox_support().missing), reason=f"no {', '.join(sandbox_support().missing)}"),
]


@pytest.fixture
def users(tmp_path: Path) -> AgentUsers:
    return AgentUsers(FIRST, LAST, tmp_path / "state/users", tmp_path / "locks")


class Trees:
    """Starts trees of users of their own, below one folder; ends them with the test."""

    def __init__(self, users: AgentUsers, top: Path) -> None:
        self.users, self.top = users, top
        self.running: list[tuple[AgentProcess, AgentUser]] = []

    def folder(self, user: AgentUser, name: str) -> Path:
        own = self.top / name
        own.mkdir(mode=0o711)
        work = own / "workspace"
        work.mkdir(mode=0o700)
        user.own_new(work)
        return work

    async def start(
        self, script: str, name: str = "one", *, sandboxed: bool = True, memory: int = 2**30
    ) -> AgentProcess:
        user = self.users.take(self.top / name)
        work = self.folder(user, name)
        policy = SandboxPolicy((work,)) if sandboxed else None
        env = {"PATH": PATH, "HOME": str(work)}
        process = await start_process(
            ProcessSpec(("/bin/bash", "-c", script), work, env, policy, 50, memory, user=user, paths=(work,))
        )
        self.running.append((process, user))
        return process

    async def said(self, script: str, name: str = "one", *, sandboxed: bool = True) -> list[str]:
        process = await self.start(script, name, sandboxed=sandboxed)
        await asyncio.wait_for(process.exited(), 30)
        await process.stop(0.0)
        return [*process.stdout_lines, *process.stderr_tail]


@pytest_asyncio.fixture
async def trees(users: AgentUsers, tmp_path: Path) -> AsyncIterator[Trees]:
    top = tmp_path / "slots"
    top.mkdir(mode=0o711)
    top.chmod(0o711)
    made = Trees(users, top)
    yield made
    for process, _ in made.running:
        await process.stop(0.0)
    await discard_tree(top)
    for _, user in made.running:
        await user.release()


def ids_in(lines: list[str], field: str) -> list[int]:
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return [int(word) for word in line.split()[1:]]


@pytest.mark.parametrize("sandboxed", [True, False])
async def test_the_agent_is_its_user_and_nothing_else(trees: Trees, sandboxed: bool) -> None:
    """All its ids are those of its user, it has no groups and no capabilities, and gains none by exec."""
    lines = await trees.said("grep -E '^(Uid|Gid|Cap|NoNewPrivs)' /proc/self/status; id -G", sandboxed=sandboxed)
    ((_, user),) = trees.running
    assert set(ids_in(lines, "Uid") + ids_in(lines, "Gid")) == {user.uid}
    assert lines[-1] == str(user.uid)
    for name in ("CapPrm", "CapEff", "CapAmb"):
        (line,) = (line for line in lines if line.startswith(name))
        assert int(line.split()[1], 16) == 0
    assert ids_in(lines, "NoNewPrivs") == [1]


@pytest.mark.parametrize("sandboxed", [True, False])
async def test_neighbours_files_and_names_are_out_of_reach(trees: Trees, sandboxed: bool) -> None:
    """It can neither list the folder of all executions (so it cannot watch it either), nor change a neighbour's mode,
    nor its own folder's above its workspace, with and without the sandbox."""
    await trees.start("echo secret > file; echo up; exec sleep 60", "neighbour")
    await trees.running[0][0].wait_line(re.compile("up"), 20)
    script = (
        f"ls {trees.top} && echo BREACH; chmod 0 {trees.top}/neighbour/workspace && echo BREACH;"
        f"cat {trees.top}/neighbour/workspace/file && echo BREACH;"
        'chmod 0 "$PWD/.." && echo BREACH; chmod 0 "$PWD/../.." && echo BREACH; touch own && echo done'
    )
    lines = await trees.said(script, sandboxed=sandboxed)
    assert "BREACH" not in lines
    assert "done" in lines
    assert sum("ermission denied" in line or "not permitted" in line or "No such file" in line for line in lines) == 5


@pytest.mark.parametrize("sandboxed", [True, False])
async def test_processes_of_others_are_not_there(trees: Trees, sandboxed: bool) -> None:
    """It sees its own processes in `/proc` and no others, neither their command lines nor that they exist."""
    process = await trees.start("exec sleep 61", "neighbour")
    assert process.visibility_error == ""
    lines = await trees.said("cd /proc; echo [0-9]*; ls -d 1 || echo hidden", sandboxed=sandboxed)
    ((seen,), hidden) = ([x for x in lines if re.fullmatch(r"[\d ]+", x)], [x for x in lines if x == "hidden"])
    assert hidden == ["hidden"]
    assert str(os.getpid()) not in seen.split()
    assert str(process.pid) not in seen.split()
    assert len(seen.split()) <= 2


@pytest.mark.parametrize("sandboxed", [True, False])
async def test_the_supervisor_sees_and_ends_the_tree(trees: Trees, sandboxed: bool) -> None:
    """The supervisor, another user, counts the tree's processes and memory, and none of them outlives the stop: not a
    daemon either, nor one that nobody may read."""
    code = "cp /bin/sleep mine; chmod 111 mine; (setsid ./mine 60 &); setsid sleep 60 & echo up; exec sleep 60"
    process = await trees.start(code, sandboxed=sandboxed)
    await process.wait_line(re.compile("up"), 20)
    async with asyncio.timeout(10):
        while process.process_count() < 3:
            await asyncio.sleep(0.02)
    assert process.memory_bytes() > 0
    report = await process.stop(0.0)
    assert (report.killed, report.left) == (3, 0)
    with pytest.raises(ProcessLookupError):
        os.getpriority(os.PRIO_USER, trees.running[0][1].uid)


async def test_a_killed_supervisor_takes_its_user_along(trees: Trees) -> None:
    """After SIGKILL to the supervisor nothing of its user is left, though its daemon has removed the tree's mark."""
    process = await trees.start("(env -i setsid sleep 60 &); (env -i setsid sleep 61 &); echo up; exec sleep 60")
    await process.wait_line(re.compile("up"), 20)
    os.kill(process.pid, 9)
    await asyncio.wait_for(process.exited(), 20)
    with pytest.raises(ProcessLookupError):
        os.getpriority(os.PRIO_USER, trees.running[0][1].uid)


async def test_removed_files_of_another_user_are_counted(trees: Trees) -> None:
    """Bytes of a file that the agent has removed and holds open are seen by the function."""
    process = await trees.start("exec 3> ghost; rm ghost; head -c 3000000 /dev/zero >&3; echo up; exec sleep 60")
    await process.wait_line(re.compile("up"), 20)
    assert process.unlinked_open_bytes() >= 3_000_000


async def test_a_user_is_taken_once(users: AgentUsers, tmp_path: Path) -> None:
    """No two executions have one user, also of two workers on one machine; a range that is used up is an error."""
    few = [AgentUsers(FIRST, FIRST + 2, tmp_path / f"state{n}/users", tmp_path / "locks") for n in (1, 2)]
    taken = [few[0].take(tmp_path / "a"), few[1].take(tmp_path / "b"), few[0].take(tmp_path / "c")]
    assert len({user.uid for user in taken}) == 3
    with pytest.raises(NoUser, match="AGENT_UIDS"):
        few[1].take(tmp_path / "d")
    for user in taken:
        await user.release()
    again = few[1].take(tmp_path / "d")
    await again.release()


async def test_a_user_with_files_or_processes_is_not_given_away(users: AgentUsers, tmp_path: Path) -> None:
    """What an execution has left in a folder, or running, keeps its user out of use until it is gone."""
    one = AgentUsers(FIRST, FIRST, tmp_path / "state1/users", tmp_path / "locks")
    root = tmp_path / "left"
    user = one.take(root)
    root.mkdir()
    await user.release()
    with pytest.raises(NoUser):
        one.take(tmp_path / "next")
    root.rmdir()
    await one.recover()
    runs = await asyncio.create_subprocess_exec("/bin/sleep", "60", user=FIRST, group=FIRST, extra_groups=(), cwd="/")
    with pytest.raises(NoUser):
        one.take(tmp_path / "next")
    runs.kill()
    await runs.wait()
    await one.take(tmp_path / "next").release()


async def test_shared_folders_have_one_user_and_are_given_back(users: AgentUsers, tmp_path: Path) -> None:
    """Executions in one shared folder have one user; when the last one has ended, what it made belongs to this
    process's user, what it found to whom it was of, and links lead nowhere."""
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    (shared / "deep").mkdir(parents=True)
    outside.mkdir()
    (shared / "file").write_text("x")
    (shared / "others").write_text("x")
    os.chown(shared / "others", 1234, 1235)
    first = await users.take_shared(shared, tmp_path / "a")
    second = await users.take_shared(shared, tmp_path / "b")
    assert first.uid == second.uid
    assert {os.stat(shared).st_uid, os.stat(shared / "file").st_uid} == {first.uid}
    script = f"mkdir made; echo x > made/new; ln -s {outside} made/way; chmod 600 made/new"
    made = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", f"cd {shared} && {script}", user=first.uid, group=first.uid, extra_groups=()
    ) if filesystem_view.closed(str(shared)) is None else await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", script, cwd=shared
    )  # fmt: skip
    assert await made.wait() == 0
    await first.own_tree(shared)
    await first.release()
    assert os.stat(shared).st_uid == second.uid
    await second.release()
    owners = {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in shared.rglob("*")}
    assert owners.pop("others") == (1234, 1235)
    assert set(owners.values()) == {(os.geteuid(), os.getegid())}, owners
    assert os.stat(outside).st_uid == os.geteuid()
    assert not list((tmp_path / "state/users").iterdir())


@pytest.mark.parametrize("files", [1, 500])
async def test_a_user_gets_a_tree_and_nothing_outside_it(users: AgentUsers, tmp_path: Path, files: int) -> None:
    """A small tree and a large one: folders, files and links themselves, but neither their targets nor what belongs to
    others."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    deep = tree / "/".join("d" * 20)
    deep.mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("x")
    for number in range(files):
        (deep / f"{number}").write_text("x")
    (tree / "folder-link").symlink_to(outside)
    (tree / "file-link").symlink_to(outside / "file")
    (tree / "others").write_text("x")
    os.chown(tree / "others", 1234, 1235)
    user = users.take(tmp_path / "a")
    await user.own_tree(tree)
    owners = {path: (path.lstat().st_uid, path.lstat().st_gid) for path in (tree, *tree.rglob("*"))}
    assert owners.pop(tree / "others") == (1234, 1235)
    assert set(owners.values()) == {user.ids}
    assert {outside.stat().st_uid, (outside / "file").stat().st_uid} == {os.geteuid()}
    await user.release()


async def test_user_of_a_dead_worker_is_released(users: AgentUsers, tmp_path: Path) -> None:
    """A shared folder whose worker died belongs to this process's user again after the next start."""
    shared = tmp_path / "shared"
    shared.mkdir()
    user = await users.take_shared(shared, tmp_path / "a")
    os.close(user._lock)  # as the kernel does for the dead
    await users.recover()
    assert os.stat(shared).st_uid == os.geteuid()
    assert not list((tmp_path / "state/users").iterdir())


def test_why_users_cannot_be_changed_is_said() -> None:
    """Without the capabilities the reason names one; a range outside the user namespace is named, too."""
    said = without_privileges(lambda: cannot_change_users(FIRST, LAST, ()))
    assert said is not None
    assert "CHOWN" in said
    assert cannot_change_users(FIRST, 2**33, ()) is not None


def test_a_closed_folder_on_the_way_is_found(tmp_path: Path) -> None:
    """The first folder that other users may not pass through is named."""
    top = tmp_path / "closed"
    (top / "inside").mkdir(parents=True)
    found = filesystem_view.closed(str(top / "inside/file"))
    top.chmod(0o700)
    assert found != str(top)
    assert json.dumps(filesystem_view.closed(str(top / "inside"))) is not None
