"""One execution as a Job: it waits for its turn, stops when told, and its spans are sent."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest
import structlog

from ocf.events import subjects
from ocf.events.command_payloads import Execute
from ocf.events.envelope import Event
from ocf.events.errors import Busy, Conflict, Drop, NotItsTurn, Retry, Unavailable
from ocf.functions.execute import job
from ocf.functions.observability import logs, tracing
from ocf.functions.settings.settings import Settings
from tests.support.clock import ManualClock
from tests.support.handlers import submit
from tests.support.parts import PROJECT, bench


class Worker:
    """One that cannot take it for a while, or is told to stop."""

    def __init__(self, not_yet: Retry | None) -> None:
        self.not_yet = not_yet
        self.asked: list[str] = []
        self.draining = False

    async def execute(self, event: Event) -> None:
        self.asked.append(event.extensions["natssubject"])
        if self.draining:
            raise Unavailable("this worker is shutting down")
        if self.not_yet is not None:
            raise self.not_yet


EXECUTION = "11111111-1111-1111-1111-111111111111"
NOT_YET = (
    Busy("all slots are taken"),
    NotItsTurn("its session runs another"),
    Conflict("another worker has it"),
    Unavailable("NATS is away"),
)


@pytest.mark.parametrize("told_to_stop", [False, True])
@pytest.mark.parametrize("not_yet", NOT_YET, ids=lambda error: type(error).__name__)
async def test_a_job_waits_for_what_passes(told_to_stop: bool, not_yet: Retry) -> None:
    """Nobody would deliver the command again: whatever the dispatcher would bear with, its session's earlier executions
    or the lease of a pod that died, the Job asks until it runs, or until its pod must go."""
    clock = ManualClock()
    b = bench(clock)
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    worker = Worker(not_yet)
    (told,) = await b.commands("execute", execution)
    working = asyncio.create_task(job._work(b.deps, worker, told))  # type: ignore[arg-type]
    for _ in range(100):
        while not clock.sleepers:
            await asyncio.sleep(0)
        await clock.advance(2)
    assert not working.done()
    if told_to_stop:
        worker.draining = True
    else:
        worker.not_yet = None
    await clock.advance(2)
    if told_to_stop:
        with pytest.raises(Unavailable):
            await working
    else:
        await working
    assert set(worker.asked) == {subjects.command("execute", PROJECT, execution)}


async def test_a_job_of_what_was_deleted_ends_well() -> None:
    """No command is left, nor will be: the Job is not tried again."""
    clock = ManualClock()
    b = bench(clock)
    body = {"execution_id": EXECUTION, "project_id": PROJECT, "prompt": "hello"}
    told = b.command("dev.ocf.task.execute.v1", Execute.model_validate({**body, "submitted_at": clock.now()}))
    working = asyncio.create_task(job._work(b.deps, Worker(None), told))  # type: ignore[arg-type]
    while not working.done():
        await clock.advance(2)
    with pytest.raises(Drop, match="deleted"):
        await working


@pytest.mark.parametrize("fails", [False, True])
def test_the_spans_of_a_job_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Exported under its own name, and the last ones before the process ends, however it ends. Every line of the log
    says which execution it is about."""
    event = {"specversion": "1.0", "type": "dev.ocf.task.execute.v1", "source": "/t", "id": "1"}
    event |= {"time": "2026-01-01T00:00:00Z"}
    event["data"] = {"execution_id": EXECUTION, "project_id": PROJECT}
    (tmp_path / "event").write_text(json.dumps(event))
    calls: list[str] = []

    async def run(_: Settings, __: Event) -> int:
        calls.append("run")
        assert structlog.contextvars.get_contextvars() == {"execution_id": EXECUTION, "project_id": PROJECT}
        if fails:
            raise Unavailable("NATS is away")
        return 0

    monkeypatch.setenv("K_EVENT_PATH", str(tmp_path))
    monkeypatch.setattr(job, "run", run)
    monkeypatch.setattr(job, "load_or_exit", lambda: Settings.model_validate({"STATE_DIR": tmp_path}))
    monkeypatch.setattr(logs, "configure", lambda _: None)
    monkeypatch.setattr(tracing, "configure", lambda _, name: calls.append(name))
    monkeypatch.setattr(tracing, "flush", lambda: calls.append("flush"))
    assert job.main() == (1 if fails else 0)
    assert calls == ["execute-job", "run", "flush"]
