"""An upgrade: this release starts on what commit 0bedd36 left, and brings every execution along (data/README.md)."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ocf.events.lifecycle import TERMINAL, State
from ocf.functions.runtime.nats_auth import public_key
from ocf.stack.up import prepare
from tests.support.stack import Project, Stack, running_stack, until

STATE = Path(__file__).parent / "data/state-0bedd36.tar.xz"
PROJECT = "upgrade"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked state."""
    folder = tmp_path_factory.mktemp("state")
    with tarfile.open(STATE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def names(left: Path) -> dict[str, str]:
    """The ids of its executions by what they were."""
    found: dict[str, str] = json.loads((left / "names.json").read_text())
    return found


@pytest.fixture(scope="module")
def upgraded(left: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """This release on a data directory with that state. NATS names the folder of the streams by the account's key."""
    directory = tmp_path_factory.mktemp("upgraded")
    keys = prepare(directory / "data", {}, own_dir=True).keys
    account = directory / "data/nats/jetstream" / public_key(keys.trust.account)
    account.mkdir(parents=True)
    (left / "streams").rename(account / "streams")
    (left / "history.db").rename(directory / "data/history.db")
    with running_stack(directory) as stack:
        yield stack


async def restore(project: Project, objects: Path) -> None:
    """Put the objects back, which takes the place of S3's own data directory."""
    for path in objects.rglob("*"):
        if path.is_file():
            await project.store.put(str(path.relative_to(objects)), path.read_bytes())


@pytest.mark.timeout(300)
async def test_every_execution_is_brought_along(upgraded: Stack, left: Path, names: dict[str, str]) -> None:
    """All are listed and readable, open ones end, what is forked or repeated works, and deletion leaves nothing."""
    executions = {names[what] for what in names if what != "session"}
    async with (
        upgraded.project(PROJECT) as project,
        httpx2.AsyncClient(base_url=upgraded.answer["gateway"], timeout=30) as client,
    ):
        await restore(project, left / "objects")

        async def call(path: str, **query: str | list[str]) -> httpx2.Response:
            return await client.get(path, params={"project_id": PROJECT, **query})

        listed = (await call("/tasks")).json()["items"]
        assert {item["execution_id"] for item in listed} == executions
        for what, state in {"evicted": "completed", "completed": "completed", "rejected": "rejected"}.items():
            status = (await call(f"/tasks/{names[what]}/status")).json()
            assert (status["status"], status["project_id"]) == (state, PROJECT), what
        for what in ("evicted", "completed", "in_session"):
            output = await call(f"/tasks/{names[what]}/output")
            assert (output.status_code, len(output.content) > 20) == (200, True), what
        assert (await call(f"/sessions/{names['session']}")).json()["executions"] == [names["in_session"]]
        found = (await call("/tasks", q="again")).json()["items"]
        assert names["completed"] in {item["execution_id"] for item in found}

        # Their commands are delivered again, or have expired: then the sweep ends them, which finds them by their keys.
        for what in ("running", "pending"):
            if (await project.record(names[what])).state not in TERMINAL:  # type: ignore[union-attr]
                await project.client.cancel(names[what])
            assert (await project.ended(names[what], timeout=120)).state is not State.REJECTED

        async def swept() -> bool:
            answer = await call("/tasks", status=["running", "pending"])
            return answer.json()["items"] == []

        await until(swept, timeout=60, what="the history shows their ends")
        body = {"project_id": PROJECT, "prompt": "Say hello", "execution_id": names["evicted"]}
        assert (await client.post("/tasks/execute", json=body)).status_code in (202, 409)
        for execution in executions:
            gone = await client.delete(f"/tasks/{execution}", params={"project_id": PROJECT})
            assert gone.status_code == 202, gone.text

        async def removed() -> bool:
            return (await call("/tasks")).json()["items"] == []

        await until(removed, timeout=120, what="nothing is listed")
        assert [info.key async for info in project.store.list(f"{PROJECT}/") if "/sessions/" not in info.key] == []
