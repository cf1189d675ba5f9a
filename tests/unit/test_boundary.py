"""Which boundary a worker draws, whom it admits, and how its folders are kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ocf.events.errors import Unavailable
from ocf.functions.execute.sandbox import isolation_boundary
from ocf.functions.execute.sandbox.isolation_boundary import ONE_PROJECT, OWN_USER, SHARED_USER, Boundary
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.execute.sandbox.worker_folder_repair import Folders
from ocf.functions.settings.settings import Settings
from tests.support.privileges import without_privileges


class Projects:
    """Which of them have anything that runs or waits."""

    def __init__(self, *busy: str) -> None:
        self.those = set(busy)

    async def busy(self, project: str) -> bool:
        return project in self.those


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation_boundary, "cannot_change_users", lambda *_: "without the capability CHOWN")


def worker(folder: Path, projects: Projects, **environ: Any) -> Boundary:
    return Boundary(Settings(STATE_DIR=folder / "state", **environ), projects.busy)  # type: ignore[call-arg]


@pytest.mark.usefixtures("unprivileged")
async def test_one_user_serves_one_project(tmp_path: Path) -> None:
    """The first project binds the machine, for all its workers; a second is refused with its name, the first's, the
    reason and what to do."""
    projects = Projects("one")
    first, second = worker(tmp_path, projects), worker(tmp_path, projects)
    await first.admit("one")
    await second.admit("one")
    with pytest.raises(AgentFailed) as refused:
        await second.admit("two")
    for word in ("one user", "project one", "project two", "CHOWN", "ALLOW_SHARED_USER=1", "root"):
        assert word in refused.value.message
    assert first.kind == ONE_PROJECT


@pytest.mark.usefixtures("unprivileged")
async def test_the_machine_is_free_when_nothing_of_its_project_is_left(tmp_path: Path) -> None:
    """Nobody is refused for a project of which nothing runs or waits, also after a restart."""
    projects = Projects("one")
    await worker(tmp_path, projects).admit("one")
    projects.those.clear()
    await worker(tmp_path, projects).admit("two")
    projects.those.add("two")
    with pytest.raises(AgentFailed, match="serves project two"):
        await worker(tmp_path, projects).admit("one")


@pytest.mark.usefixtures("unprivileged")
async def test_two_projects_at_once_do_not_both_bind(tmp_path: Path) -> None:
    """Of two that come at the same moment one is refused."""
    projects = Projects("one", "two")
    workers = [worker(tmp_path, projects) for _ in range(2)]
    tried = await asyncio.gather(workers[0].admit("one"), workers[1].admit("two"), return_exceptions=True)
    assert sorted(type(result).__name__ for result in tried) == ["AgentFailed", "NoneType"]


@pytest.mark.usefixtures("unprivileged")
async def test_allow_shared_user_lets_projects_share_one_user(tmp_path: Path) -> None:
    """ALLOW_SHARED_USER=1 admits every project, and says so."""
    shared = worker(tmp_path, Projects("one", "two"), ALLOW_SHARED_USER="1")
    await shared.admit("one")
    await shared.admit("two")
    assert shared.description == f"{SHARED_USER}: without the capability CHOWN"


async def test_users_of_their_own_serve_every_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where users can be changed nobody is refused, and nobody may list the folders of executions."""
    monkeypatch.setattr(isolation_boundary, "cannot_change_users", lambda *_: None)
    own = worker(tmp_path, Projects("one", "two"))
    await own.admit("one")
    await own.admit("two")
    assert own.description == OWN_USER
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("state", "state/slots")} == {0o711}


@pytest.mark.parametrize("value", ["x", "0-5", "5", "70000-60000", "1000-4294967295", "200000"])
def test_a_range_of_users_is_well_formed(value: str) -> None:
    """A range that names a user of the system, or nobody, is refused by the name of its variable."""
    with pytest.raises(ValidationError, match="AGENT_UIDS"):
        Settings(AGENT_UIDS=value)  # type: ignore[call-arg]


def folders(tmp_path: Path) -> tuple[Folders, Path]:
    state = tmp_path / "state"
    return Folders((state, state / "slots"), 0o700), state


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_top_of_a_volume_is_used_as_it_is(tmp_path: Path) -> None:
    """A state folder that is another user's, as the top of a pod's volume is: a process without privileges works in it,
    and its mode stays."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    os.chown(state, 1234, -1)

    def look() -> None:
        Folders((state, state / "slots"), 0o700).check()

    without_privileges(look)
    assert state.stat().st_mode & 0o777 == 0o777
    assert (state / "slots").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: (state / "slots/one/workspace").chmod(0),
        lambda state: (state / "slots/one").chmod(0),
        lambda state: (state / "slots").chmod(0),
        lambda state: (state / "slots").chmod(0o777),
        lambda state: ((state / "slots").chmod(0), state.chmod(0), state.parent.chmod(0)),
    ],
)
def test_modes_are_given_back(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """Whatever folder of ours an agent has locked, from above the state folder to a neighbour's workspace: the next
    look gives it back, for a user that has no privileges."""
    kept, state = folders(tmp_path / "top")
    (state / "slots/one/workspace").mkdir(parents=True)
    spoil(state)

    def repaired() -> list[str]:
        kept.check()
        (state / "slots/one/workspace/file").write_text("x")
        return os.listdir(state / "slots")

    assert without_privileges(repaired) == ["one"]
    assert {path.stat().st_mode & 0o777 for path in (state, state / "slots")} == {0o700}


def test_another_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    """What is not the folder of the start is not repaired but named; so is one that is gone, or a link."""
    kept, state = folders(tmp_path)
    (state / "slots").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="slots"):
        kept.check()
    (state / "slots").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="slots"):
        kept.check()
    (state / "slots").unlink()
    (state / "slots").mkdir(mode=0o700)
    with pytest.raises(Unavailable, match="was replaced"):
        kept.check()


def test_links_among_the_folders_lead_nowhere(tmp_path: Path) -> None:
    """A link where an execution's folder could be changes no mode of what it leads to."""
    kept, state = folders(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (state / "slots/one").mkdir()
    (state / "slots/one/workspace").symlink_to(outside)
    (state / "slots/two").symlink_to(outside)
    kept.check()
    assert outside.stat().st_mode & 0o777 == 0o500
