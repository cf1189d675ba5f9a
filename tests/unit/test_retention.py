"""Retention: what is kept how long, by project and label, and what is removed when its time is over."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from pydantic import ValidationError

from ocf.events import subjects
from ocf.events.command_payloads import Cleanup
from ocf.events.execution_record import Attempt, Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Completed
from ocf.events.lifecycle import State, Step
from ocf.functions.core.cleanup_schedules import RETENTION, SWEEP
from ocf.functions.settings.retention_rules import rule_for, rules
from ocf.functions.settings.settings import Settings
from tests.support.clock import ManualClock
from tests.support.handlers import cleanup, submit
from tests.support.parts import PROJECT, Bench, bench

TABLE = "default=7d/90d,project-a=2d/30d,project-a/team=x:1d/3d,default/keep=no:1h/2h,b/acme.example/team=x:1d/2d"


@pytest.mark.parametrize(
    ("project", "labels", "wanted"),
    [
        ("other", {}, "7d/90d"),
        ("b", {"acme.example/team": "x"}, "1d/2d"),
        ("other", {"keep": "no"}, "1h/2h"),
        ("project-a", {}, "2d/30d"),
        ("project-a", {"team": "y"}, "2d/30d"),
        ("project-a", {"team": "x"}, "1d/3d"),
        ("project-a", {"team": "x", "keep": "no"}, "1d/3d"),
    ],
)
def test_the_most_special_rule_counts(project: str, labels: dict[str, str], wanted: str) -> None:
    """A label before none, a project's own before the default's."""
    found = rule_for(rules(TABLE), project, labels)
    assert found is not None
    assert str(found).endswith(wanted)
    assert ",".join(map(str, rules(TABLE))) == TABLE


def test_without_a_rule_everything_is_kept() -> None:
    """No table, or none that fits: nobody's output goes before the stream's own age."""
    assert rule_for((), PROJECT, {}) is None
    assert rule_for(rules("a=1d/2d"), "b", {}) is None


@pytest.mark.parametrize("text", ["default", "default=7d", "default=7/90", "default=9d/1d", "a/b=1d/2d", "A=1d/2d"])
def test_a_malformed_table_stops_the_start(text: str) -> None:
    """The wrong row is named."""
    with pytest.raises(ValidationError, match="RETENTION"):
        Settings.model_validate({"RETENTION": text})


async def ended(b: Bench, *, archived: bool = True, **request: object) -> str:
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution, **request))
    now = b.deps.clock.now()

    def started(record: Record) -> Record:
        attempts = [Attempt(number=1, worker="w", started_at=now)]
        return record.model_copy(update={"state": State.RUNNING, "attempts": attempts, "started_at": now})

    await b.deps.records.change(PROJECT, execution, started)
    await b.bus.publish(subjects.output(PROJECT, execution), b'{"seq":1}', {})
    fact = Completed(execution_id=execution, project_id=PROJECT, attempt=1, duration_ms=5, last_sequence=1)
    await b.deps.records.end(PROJECT, execution, lambda _: (Step.COMPLETE, fact), None)
    await b.store.put(f"{PROJECT}/{execution}/manifest.json", b"{}")
    if archived:
        await b.deps.records.change(PROJECT, execution, lambda r: r.model_copy(update={"archived": True}))
    await b.deps.history.save(await b.deps.records.require(PROJECT, execution))
    return execution


async def retained(b: Bench, id_: str = RETENTION.entity, scope: str = "retention") -> None:
    data = Cleanup.model_validate({"execution_id": id_, "project_id": subjects.SYSTEM_PROJECT, "scope": scope})
    await cleanup(b.deps, b.command("dev.ocf.task.cleanup.v1", data))


async def kept(b: Bench, execution: str) -> tuple[bool, bool]:
    """Whether its output and its archive are there; the record must say the same."""
    output = await b.bus.last(subjects.OUTPUT, subjects.output(PROJECT, execution)) is not None
    archive = bool([info async for info in b.store.list(f"{PROJECT}/{execution}/")])
    record = await b.deps.records.require(PROJECT, execution)
    assert (record.output_expired, record.archive_expired) == (not output, not archive)
    return output, archive


async def test_output_goes_first_and_the_archive_later() -> None:
    """Each when its own time is over; the record stays, and says what is gone. Labels make a difference."""
    clock = ManualClock()
    b = bench(clock, RETENTION="default=7d/90d,default/team=x:1d/3d")
    plain, labelled = await ended(b), await ended(b, labels={"team": "x"})
    seen = []
    for days in (0.5, 1, 2, 5, 90):
        await clock.advance(timedelta(days=days).total_seconds())
        await retained(b)
        seen.append((await kept(b, plain), await kept(b, labelled)))
    yes, no = True, False
    assert seen == [
        ((yes, yes), (yes, yes)),
        ((yes, yes), (no, yes)),
        ((yes, yes), (no, no)),
        ((no, yes), (no, no)),
        ((no, no), (no, no)),
    ]


async def test_unarchived_execution_is_never_removed() -> None:
    """The stream has the only copy of it."""
    clock = ManualClock()
    b = bench(clock, RETENTION="default=1s/1s")
    execution = await ended(b, archived=False)
    await clock.advance(1000)
    await retained(b)
    assert await kept(b, execution) == (True, True)


async def test_the_schedule_is_there_while_there_is_something_to_keep() -> None:
    """A sweep sets it up where a table is configured; it ends with the last execution of the history."""
    b = bench(RETENTION="default=1d/2d")
    await retained(b, SWEEP.entity, "sweep")
    message = await b.bus.last(subjects.COMMANDS, RETENTION.subject)
    assert message is not None
    assert message.headers["Nats-Schedule-Target"].startswith("ocf.cmd.cleanup.")
    execution = await ended(b)
    await retained(b)
    assert await b.bus.last(subjects.COMMANDS, RETENTION.subject) is not None
    await b.deps.history.remove(ExecutionRef(PROJECT, execution))
    await retained(b)
    assert await b.bus.last(subjects.COMMANDS, RETENTION.subject) is None
    plain = bench()
    await retained(plain, SWEEP.entity, "sweep")
    assert await plain.bus.last(subjects.COMMANDS, RETENTION.subject) is None
