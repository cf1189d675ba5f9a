"""S3 is away at the end of a run: the work waits for it, within `ARTIFACT_WAIT`, and nobody's cancel waits."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ocf.events.command_payloads import EmptyWorkspace, Execute, SessionCreate
from ocf.events.errors import Unavailable
from ocf.events.fact_payloads import Outcome
from ocf.events.lifecycle import State
from ocf.events.output import ChunkType, Draft
from ocf.events.ports import ObjectInfo
from ocf.functions import workspace
from ocf.functions.core.asyncio_tasks import cancel_and_wait, wait_for_cleanup
from ocf.functions.core.session_store import Sessions
from ocf.functions.execute.attempt.artifacts import ArtifactWriter
from ocf.functions.execute.attempt.outcome import StoredArtifacts
from ocf.functions.workspace import changes
from ocf.functions.workspace.safe_walk import Stopped
from tests.support.clock import ManualClock
from tests.support.handlers import session, submit
from tests.support.parts import PROJECT, Bench, bench
from tests.unit.test_artifacts import TALK, Hold
from tests.unit.test_attempt import Emit, Scene, StandIn, scene


@dataclass
class Outage:
    """S3 answers nothing while `away`."""

    b: Bench
    away: bool = True
    tried: int = 0

    def __post_init__(self) -> None:
        put_file = self.b.store.put_file

        async def put(key: str, path: Path, **more: Any) -> ObjectInfo:
            self.tried += 1
            if self.away:
                raise Unavailable("S3 is away")
            return await put_file(key, path, **more)

        self.b.store.put_file = put  # type: ignore[method-assign]


@dataclass
class Ended:
    """A run that has ended, and whose workspace is about to be stored."""

    b: Bench
    clock: ManualClock
    folder: Path
    session_id: str | None = None
    execution: str = field(default_factory=lambda: str(uuid.uuid4()))
    said: list[Draft] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep(self, seconds: float | None, result: str = "") -> StoredArtifacts:
        prepared = await workspace.prepare(
            EmptyWorkspace(), self.folder / "w", workspace.Sources(), private=self.folder / "p"
        )
        (self.folder / "w" / "work").write_text("done")
        ids = {"execution_id": self.execution, "project_id": PROJECT, "session_id": self.session_id}
        task = Execute.model_validate({**ids, "prompt": "p", "submitted_at": self.clock.now()})
        artifact_writer = ArtifactWriter(
            cast(Any, SimpleNamespace(deps=self.b.deps)), task, self.folder / "a", Hold(1000)
        )

        async def given_up() -> str:
            await self.cancelled.wait()
            return "cancelled while it waited"

        async def emit(draft: Draft) -> None:
            self.said.append(draft)

        return await artifact_writer.store(prepared, TALK, emit, seconds, given_up, result=result)

    async def waits(self) -> None:
        """Until it has said that it waits."""
        async with asyncio.timeout(20):
            while not any("waiting for S3" in draft.data for draft in self.said):
                await asyncio.sleep(0.01)

    async def passes(self, keeping: asyncio.Task[StoredArtifacts], seconds: float) -> None:
        """Let time pass in which it tries again."""
        for _ in range(int(seconds)):
            if keeping.done():
                return
            await self.clock.advance(1)
            await asyncio.sleep(0.002)


@pytest.fixture
async def ended(tmp_path: Path) -> Ended:
    clock = ManualClock()
    b = bench(clock)
    made = Ended(b, clock, tmp_path)
    await submit(b.deps, b.submit(made.execution))
    return made


async def test_the_end_waits_for_s3_and_says_so(ended: Ended) -> None:
    """A chunk and the record say that it waits; when S3 is back everything is stored, and the wait is counted apart."""
    outage = Outage(ended.b)
    keeping = asyncio.create_task(ended.keep(900))
    await ended.waits()
    record = await ended.b.deps.records.require(PROJECT, ended.execution)
    assert (record.artifacts, record.artifacts_message) == ("pending", "waiting for S3 to store the workspace")
    (waiting,) = [draft for draft in ended.said if draft.type is ChunkType.STATUS]
    assert waiting.detail == {"phase": "artifacts"}
    await ended.passes(keeping, 100)
    assert not keeping.done()
    outage.away = False
    await ended.passes(keeping, 30)
    kept = await keeping
    assert kept.artifacts == "stored"
    assert {artifact.name for artifact in kept.objects} == {"workspace.patch", "workspace.tar.zst", "conversation.json"}
    assert 100_000 <= kept.waited_ms <= 131_000


async def test_without_a_limit_it_waits_for_an_hour_and_tries_rarely(ended: Ended) -> None:
    """`ocf up`: nothing is lost, however long S3 is away; it is asked every ten seconds at most."""
    outage = Outage(ended.b)
    keeping = asyncio.create_task(ended.keep(None))
    await ended.waits()
    await ended.passes(keeping, 3600)
    assert not keeping.done()
    assert outage.tried <= 400
    outage.away = False
    await ended.passes(keeping, 30)
    assert (await keeping).artifacts == "stored"


async def test_after_artifact_wait_the_work_is_lost_and_that_is_said(ended: Ended) -> None:
    """The end says `lost` and why; output has it as well."""
    Outage(ended.b)
    keeping = asyncio.create_task(ended.keep(900))
    await ended.waits()
    await ended.passes(keeping, 901)
    kept = await keeping
    assert (kept.artifacts, kept.objects) == ("lost", ())
    assert kept.message is not None
    assert "S3 did not take it within 900 s (ARTIFACT_WAIT): S3 is away" in kept.message
    assert ended.said[-1].type is ChunkType.GAP
    assert ended.said[-1].data == kept.message


async def test_a_cancel_ends_the_wait_at_once(ended: Ended) -> None:
    """Nobody waits for S3 who does not want to."""
    Outage(ended.b)
    keeping = asyncio.create_task(ended.keep(None))
    await ended.waits()
    ended.cancelled.set()
    kept = await asyncio.wait_for(keeping, 5)
    assert kept.artifacts == "lost"
    assert kept.message is not None
    assert "cancelled while it waited" in kept.message


@pytest.mark.parametrize("ends_by", ["cancel", "time"])
async def test_packing_ends_by_a_cancel_and_after_its_time(
    ended: Ended, monkeypatch: pytest.MonkeyPatch, ends_by: str
) -> None:
    """A workspace that takes hours to pack keeps nobody: the end says why."""
    packing = threading.Event()

    def endless(*arguments: Any) -> None:
        packing.set()
        arguments[4].wait()
        raise Stopped

    monkeypatch.setattr(changes, "pack_tree", endless)
    keeping = asyncio.create_task(ended.keep(None))
    assert await asyncio.to_thread(packing.wait, 20)
    async with asyncio.timeout(20):
        if ends_by == "cancel":
            ended.cancelled.set()
        while not keeping.done():
            await ended.clock.advance(0 if ends_by == "cancel" else 10)
            await asyncio.sleep(0.01)
    kept = await keeping
    assert (kept.artifacts, kept.objects) == ("lost", ())
    why = "cancelled while it waited" if ends_by == "cancel" else "it was not packed within 600 s"
    assert kept.message == f"the workspace could not be stored: {why}"


async def test_files_that_are_being_written_are_cleaned_up_whatever_the_number_of_cancels() -> None:
    """The folder is deleted afterwards: nothing may write into it then."""
    cleaned: list[int] = []

    async def writing(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)
            cleaned.append(number)

    both = asyncio.create_task(wait_for_cleanup(*(asyncio.create_task(writing(number)) for number in (1, 2))))
    await asyncio.sleep(0)
    await cancel_and_wait([both])
    assert cleaned == [1, 2]
    assert both.cancelled()


async def test_a_session_keeps_its_turn_until_its_work_is_stored(tmp_path: Path) -> None:
    """The next turn does not begin from the turn before: the session's head is this one until it has ended."""
    clock = ManualClock()
    b, id_ = bench(clock), str(uuid.uuid4())
    await session(b.deps, b.command("dev.ocf.session.create.v1", SessionCreate(project_id=PROJECT, session_id=id_)))
    made = Ended(b, clock, tmp_path, session_id=id_)
    following = str(uuid.uuid4())
    for execution in (made.execution, following):
        await submit(b.deps, b.submit(execution, session_id=id_))
    outage, sessions = Outage(b), Sessions(b.deps.sessions, clock)
    keeping = asyncio.create_task(made.keep(None))
    await made.waits()
    await made.passes(keeping, 60)
    assert (await sessions.prune_queue(PROJECT, id_, b.deps.records)).queue == [made.execution, following]
    outage.away = False
    await made.passes(keeping, 30)
    assert (await keeping).artifacts == "stored"
    found = await sessions.get(PROJECT, id_)
    assert found is not None
    assert found.saved is not None
    assert found.saved.execution_id == made.execution


async def test_a_long_result_becomes_an_object(ended: Ended) -> None:
    """What a fact has no room for is stored beside the workspace."""
    kept = await ended.keep(900, "好" * 100_000)
    assert "result.txt" in {artifact.name for artifact in kept.objects}
    stored = await ended.b.store.get(f"{PROJECT}/{ended.execution}/result.txt")
    assert stored.decode() == "好" * 100_000


class Waits(StandIn):
    """An agent whose work is done, and whose workspace S3 does not take."""

    async def run(self, emit: Emit, used: object) -> None:
        """It is done at once."""

    async def store_artifacts(self, *arguments: Any) -> StoredArtifacts:  # type: ignore[override]
        self.replies.append(("waits", ""))
        return StoredArtifacts(artifacts="lost", message=await arguments[3](), waited_ms=5000)


async def _waiting(run: Scene) -> bool:
    latest = getattr(run.turn, "latest", None)
    return latest is not None and ("waits", "") in latest.replies


async def test_a_cancel_during_the_wait_ends_it_with_what_was_reached(tmp_path: Path) -> None:
    """The agent had completed: so has the execution, with its artifacts lost; the wait is no part of its duration."""
    async with scene(tmp_path) as run:
        run.turn.run = Waits.run  # type: ignore[method-assign,assignment]
        run.turn.store_artifacts = Waits.store_artifacts  # type: ignore[method-assign]
        running = run.begin()
        await run.until(lambda: _waiting(run), "waits")
        await run.cancel()
        await asyncio.wait_for(running, 5)
        record = await run.record()
        assert (record.state, record.artifacts) == (State.COMPLETED, "lost")
        assert record.artifacts_message == "cancelled while it waited"
        said = Outcome.model_validate_json((await run.bench.fact(run.execution, "completed")).data, extra="ignore")
        assert (said.waited_ms, said.duration_ms) == (5000, 0)
        assert json.loads((await run.bench.fact(run.execution, "completed")).data)["artifacts"] == "lost"


async def test_a_worker_that_stops_ends_the_wait(tmp_path: Path) -> None:
    """Its shutdown waits for no store: the end is said while there is somebody to say it."""
    async with scene(tmp_path) as run:
        run.turn.run = Waits.run  # type: ignore[method-assign,assignment]
        run.turn.store_artifacts = Waits.store_artifacts  # type: ignore[method-assign]
        running = run.begin()
        await run.until(lambda: _waiting(run), "waits")
        await asyncio.wait_for(run.worker.stop(), 5)
        await asyncio.wait_for(running, 5)
        record = await run.record()
        assert (record.state, record.artifacts) == (State.COMPLETED, "lost")
        assert record.artifacts_message == "this worker is shutting down"
