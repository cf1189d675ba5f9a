"""Make the state of a release: run in its checkout (README.md)."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tarfile
import tempfile
import uuid
from pathlib import Path

from ocf.events import subjects
from ocf.events.base_model import Model
from ocf.events.command_payloads import Cleanup, SessionCreate
from ocf.events.command_publisher import publish_command
from ocf.events.envelope import new_event
from ocf.functions.core import cleanup_schedules
from ocf.functions.core.system_clock import SystemClock
from tests.support.stack import Project, Stack, running_stack, until

PROJECT = "upgrade"


async def command(project: Project, type_: str, data: Model) -> None:
    event = new_event(type_, data, source="/make-state", time=SystemClock().now())
    await publish_command(project.bus, event, getattr(data, "project_id", PROJECT))


async def evict(project: Project, execution: str) -> None:
    system = {"project_id": subjects.SYSTEM_PROJECT, "execution_id": cleanup_schedules.EVICTION.entity}

    async def left() -> bool:
        await command(project, "dev.ocf.task.cleanup.v1", Cleanup(**system, scope="eviction"))
        return await project.bus.last(subjects.COMMANDS, f"ocf.cmd.submit.{PROJECT}.{execution}") is None

    await until(left, timeout=60)


async def fill(stack: Stack, objects: Path) -> dict[str, str]:
    async with stack.project(PROJECT) as project:
        names = {"evicted": await project.submit("Say hello", labels={"team": "a"})}
        await project.archived(names["evicted"])
        await evict(project, names["evicted"])
        names["completed"] = await project.submit("Say hello again", labels={"team": "a"})
        await project.archived(names["completed"])
        session = names["session"] = str(uuid.uuid4())
        create = SessionCreate(project_id=PROJECT, session_id=session)
        await command(project, "dev.ocf.session.create.v1", create)
        await until(lambda: project.bus.last(subjects.EVENTS, f"ocf.evt.{PROJECT}.{session}.created"), timeout=60)
        names["in_session"] = await project.submit("Say hello in a session", session_id=session)
        await project.archived(names["in_session"])
        names["rejected"] = await project.submit("Say nothing", session_id=str(uuid.uuid4()))
        await until(lambda: project.record(names["rejected"]), timeout=60)
        names["running"] = await project.submit([{"text": "working"}, {"sleep": 600}])
        await project.when(names["running"], lambda record: record.state == "running")
        names["pending"] = await project.submit("Say hello later")
        await project.when(names["pending"], lambda record: record.state == "pending")
        async for info in project.store.list(""):
            path = objects / info.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(await project.store.get(info.key))
    return names


def main() -> None:
    """Start a stack in the first argument, stop it, and pack what it left into the second."""
    work, packed = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with running_stack(work, RECORD_GRACE="0", MAX_CONCURRENT_TASKS="1") as stack:
            names = asyncio.run(fill(stack, state / "objects"))
        (state / "names.json").write_text(json.dumps(names, indent=2) + "\n")
        (account,) = (work / "data/nats/jetstream").iterdir()
        shutil.copytree(account / "streams", state / "streams")
        shutil.copy(work / "data/history.db", state / "history.db")
        with tarfile.open(packed, "w:xz") as archive:
            for path in sorted(state.iterdir()):
                archive.add(path, path.name)


if __name__ == "__main__":
    main()
