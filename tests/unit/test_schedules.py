"""Schedules: cron in a time zone, one execution per planned time, and what overlaps, is missed or is paused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from nats.aio.client import ServerVersion

from ocf.events import subjects
from ocf.events.command_publisher import NATS_SCHEDULER, NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.envelope import decode
from ocf.events.errors import Drop, NotItsTurn, Unavailable
from ocf.events.lifecycle import State
from ocf.functions.rules.cron import Cron, InvalidCron
from ocf.functions.rules.rule_state import RuleStates
from ocf.functions.rules.schedule_store import Schedule, Schedules
from ocf.functions.runtime.setup import check_version
from tests.support.clock import ManualClock
from tests.support.gateway import World
from tests.support.handlers import submit, trigger
from tests.support.parts import PROJECT, Bench, bench

BERLIN = "Europe/Berlin"


def due(expression: str, timezone: str, after: str, count: int) -> list[str]:
    found = Cron(expression, timezone).after(datetime.fromisoformat(after))
    return [time.astimezone(UTC).strftime("%m-%d %H:%M") for time in islice(found, count)]


def test_five_fields_become_the_six_of_nats() -> None:
    """Seconds first; Sunday is 0."""
    assert Cron("0 6 * * 1-5", "UTC").nats == "0 0 6 * * 1,2,3,4,5"
    assert Cron("*/20 * * * *", "UTC").nats == "0 0,20,40 * * * *"
    assert Cron("0 0 1 JAN *", "UTC").nats == "0 0 0 1 1 *"
    assert Cron("0 0 * * SUN,7,6", "UTC").nats == "0 0 0 * * 0,6"


@pytest.mark.parametrize(
    ("expression", "timezone"),
    [
        *(("* * * *", "UTC"), ("60 * * * *", "UTC"), ("0 0 31 2 *", "UTC"), ("0 0 L * *", "UTC"), ("@daily", "UTC")),
        *(
            ("0 0 13 * 5", "UTC"),
            ("0 0 * * 5#2", "UTC"),
            ("0 0 0 * * *", "UTC"),
            ("0 6 * * *", "Mars/Crater"),
            ("0 6 * * *", "Europe"),
        ),
        *(("0 6 * * *", "../etc/passwd"), ("0 6 * * *", "")),
    ],
)
def test_what_nats_would_read_differently_is_refused(expression: str, timezone: str) -> None:
    """Also what it would not read at all."""
    with pytest.raises(InvalidCron):
        Cron(expression, timezone)


def test_the_missing_hour_has_no_tick_and_the_doubled_one_has_one() -> None:
    """In Berlin on 28 March and 31 October 2027, at 01:00 UTC; names are local times."""
    assert due("30 2 * * *", BERLIN, "2027-03-27T00:00+00:00", 3) == ["03-27 01:30", "03-29 00:30", "03-30 00:30"]
    assert due("0 * * * *", BERLIN, "2027-03-28T00:30+00:00", 2) == ["03-28 01:00", "03-28 02:00"]
    assert due("30 2 * * *", BERLIN, "2027-10-30T12:00+00:00", 2) == ["10-31 00:30", "11-01 01:30"]
    cron = Cron("30 2 * * *", BERLIN)
    first, second = datetime(2027, 10, 31, 0, 30, tzinfo=UTC), datetime(2027, 10, 31, 1, 30, tzinfo=UTC)
    assert cron.planned(first) == cron.planned(second) == "2027-10-31T02:30"


def test_ticks_that_never_fired_are_counted() -> None:
    """Without those that the missing hour removes."""
    assert Cron("0 * * * *", "UTC").missed("2027-01-01T00:00", "2027-01-01T04:00") == 3
    assert Cron("30 2 * * *", BERLIN).missed("2027-03-27T02:30", "2027-03-29T02:30") == 0
    assert Cron("* * * * *", "UTC").missed("2020-01-01T00:00", "2027-01-01T00:00") == 1_000


def test_setup_refuses_a_server_without_cron_schedules() -> None:
    """By its version."""
    check_version(ServerVersion("2.14.0"))
    check_version(ServerVersion("3.0.0"))
    with pytest.raises(Unavailable, match=r"nats-server 2\.12 is older than 2\.14"):
        check_version(ServerVersion("2.12.1"))


async def scheduled(b: Bench, **fields: Any) -> None:
    given = {"name": "nightly", "cron": "0 6 * * *", "task": {"prompt": "{{ event.data.planned }}"}, **fields}
    schedules = Schedules(b.bus, b.deps.triggers)
    await schedules.put(Schedule.model_validate(given), PROJECT, b.deps.clock.now())


async def tick(b: Bench, name: str = "nightly") -> None:
    """Deliver what the server publishes when the schedule fires now."""
    stored = await b.bus.last(subjects.INBOX, f"ocf.cron.{PROJECT}.{name}")
    assert stored is not None
    headers = {key: value for key, value in stored.headers.items() if not key.startswith("Nats-")}
    subject = stored.headers["Nats-Schedule-Target"]
    sequence = await b.bus.publish(subject, stored.data, headers)
    await deliver(b, sequence, name)


async def deliver(b: Bench, sequence: int, name: str = "nightly") -> None:
    subject = f"ocf.in.{PROJECT}.schedule"
    message = await b.bus.first(subjects.INBOX, subject, after=sequence - 1)
    assert message is not None
    marks = {NATS_SUBJECT: subject, NATS_SEQUENCE: str(sequence), NATS_SCHEDULER: f"ocf.cron.{PROJECT}.{name}"}
    await trigger(b.deps, decode(message.headers, message.data).with_extensions(**marks))


async def prompts(b: Bench) -> list[str]:
    found = b.bus.history(subjects.COMMANDS, f"ocf.cmd.submit.{PROJECT}.*")
    return [
        json.loads(message.data)["prompt"].rpartition("<")[0].rpartition(">")[2] for message in [m async for m in found]
    ]


async def finish(b: Bench) -> None:
    """Let every submitted execution end."""
    for message in [m async for m in b.bus.history(subjects.COMMANDS, f"ocf.cmd.submit.{PROJECT}.*")]:
        execution = json.loads(message.data)["execution_id"]
        if await b.deps.records.get(PROJECT, execution) is None:
            await submit(b.deps, decode(message.headers, message.data).with_extensions(natssubject=message.subject))
        await b.deps.records.change(PROJECT, execution, lambda one: one.model_copy(update={"state": State.COMPLETED}))


async def a_bench() -> tuple[Bench, ManualClock]:
    clock = ManualClock(datetime(2027, 1, 1, 6, 0, 0, 200, tzinfo=UTC))
    return bench(clock), clock


async def test_a_tick_is_one_execution_however_often_it_is_delivered_or_fires() -> None:
    """Its id is the schedule and the planned time, also when the delivery is hours late."""
    b, clock = await a_bench()
    await scheduled(b)
    await tick(b)
    await tick(b)
    last = await b.bus.last(subjects.INBOX, f"ocf.in.{PROJECT}.schedule")
    assert last is not None
    await finish(b)
    clock.skip(30 * 3_600)
    await deliver(b, last.sequence)
    assert await prompts(b) == ["2027-01-01T06:00"]


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
async def test_an_overlap_is_skipped_queued_or_cancels_the_earlier_one(overlap: str) -> None:
    """And once the earlier one has ended, the next tick starts."""
    b, clock = await a_bench()
    await scheduled(b, overlap=overlap)
    await tick(b)
    clock.skip(86_400)
    if overlap == "queue":
        with pytest.raises(NotItsTurn):
            await tick(b)
    else:
        await tick(b)
    cancels = [m async for m in b.bus.history(subjects.COMMANDS, "ocf.cmd.cancel.>")]
    assert len(cancels) == (overlap == "cancel")
    assert len(await prompts(b)) == (2 if overlap == "cancel" else 1)
    (state,) = [await RuleStates(b.deps.triggers, PROJECT).read("schedule_nightly")]
    assert [("overlap" in one.reason) for one in state.refused] == ([True] if overlap == "skip" else [])
    await finish(b)
    clock.skip(86_400)
    await tick(b)
    assert (await prompts(b))[-1] == "2027-01-03T06:00"


async def test_missed_ticks_are_stated() -> None:
    """NATS does not make up for the ticks while it is down."""
    b, clock = await a_bench()
    await scheduled(b)
    await tick(b)
    await finish(b)
    clock.skip(4 * 86_400)
    await tick(b)
    state = await RuleStates(b.deps.triggers, PROJECT).read("schedule_nightly")
    assert [one.reason for one in state.refused] == ["missed: 3 ticks after 2027-01-01T06:00 did not fire"]
    assert await prompts(b) == ["2027-01-01T06:00", "2027-01-05T06:00"]


async def test_a_schedule_that_is_paused_or_deleted_starts_nothing() -> None:
    """Also a tick that was under way."""
    b, clock = await a_bench()
    await scheduled(b)
    schedules = Schedules(b.bus, b.deps.triggers)
    await tick(b)
    await schedules.pause(PROJECT, "nightly", paused=True, now=clock.now())
    assert await b.bus.last(subjects.INBOX, f"ocf.cron.{PROJECT}.nightly") is None
    last = await b.bus.last(subjects.INBOX, f"ocf.in.{PROJECT}.schedule")
    assert last is not None
    with pytest.raises(Drop):
        await deliver(b, last.sequence)
    await schedules.pause(PROJECT, "nightly", paused=False, now=clock.now())
    await finish(b)
    clock.skip(86_400)
    await tick(b)
    assert len(await prompts(b)) == 2
    assert await schedules.delete(PROJECT, "nightly")
    with pytest.raises(Drop):
        await deliver(b, last.sequence)


async def test_a_schedule_over_rest() -> None:
    """Created, listed with its next runs, paused, resumed, deleted; wrong fields are named."""
    world = World()
    body = {"name": "nightly", "cron": "0 6 * * 1-5", "timezone": BERLIN, "task": {"prompt": "go"}}
    assert (await world.client.post("/schedules", json=body)).status_code == 201
    assert (await world.client.post("/schedules", json=body | {"overlap": "queue"})).status_code == 200
    (shown,) = (await world.client.get("/schedules")).json()["schedules"]
    assert (shown["next"], shown["last"], shown["paused"]) == ("2026-01-01T05:00:00+00:00", None, False)
    assert shown["upcoming"][1:3] == ["2026-01-02T05:00:00+00:00", "2026-01-05T05:00:00+00:00"]
    assert (await world.client.post("/schedules/nightly/pause")).json() == {"name": "nightly", "paused": True}
    assert (await world.client.get("/schedules/nightly")).json()["next"] is None
    assert (await world.client.post("/schedules/nightly/resume")).status_code == 202
    for change, field in (
        ({"cron": "* *"}, "cron"),
        ({"timezone": "Mars"}, "timezone"),
        ({"overlap": "run"}, "overlap"),
        ({"task": {"prompt": ""}}, "task.prompt"),
    ):
        answer = await world.client.post("/schedules", json=body | change)
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await world.client.delete("/schedules/nightly")).status_code == 202
    for path in ("/schedules/nightly", "/schedules/nightly/pause"):
        call = world.client.get if path.endswith("nightly") else world.client.post
        assert (await call(path)).status_code == 404
