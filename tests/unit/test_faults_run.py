"""What must hold of a run as a whole, and what its load says of itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from faults import soak
from faults.check_run import ROUND, natural, wrong_of_run
from faults.history_reader import Fact, History, Story
from faults.load import Load
from faults.run import Bench
from faults.system import System
from ocf.events import subjects
from ocf.events.ports import Entry
from ocf.events.session_record import Session


def ended(project: str, execution: str, state: str, at: float = 0.0, reason: str | None = None) -> Story:
    """One that ended then."""
    return Story(
        project,
        execution,
        facts=[Fact(state, "end", {"message": "why"}, at)],
        record={"state": state, "reason": reason},
    )


def history(*stories: Story) -> History:
    return History({f"{story.project}/{story.execution}": story for story in stories})


def pairs(*names: str) -> list[dict[str, Any]]:
    """Begun at 10, 20 …"""
    said = {"away": 3, "behind": 7, "odd": 0}
    more = {"seconds": 9.0, "refused": [], "gateway": said}
    return [
        {"pair": name, "project": name.replace(":", "-"), "began": 10.0 * number, **more}
        for number, name in enumerate(names, 1)
    ]


def test_a_run_in_which_nothing_happened_is_wrong() -> None:
    """Nothing at all; nothing under one fault; a whole round of which nothing completed."""
    assert [found.what for found in wrong_of_run(History(), [])] == ["of the whole run nothing completed"]
    done = ended("calm", "e", "completed")
    (found,) = wrong_of_run(history(done), pairs("submit:kill9"))
    assert (found.rule, found.project, found.what) == ("load", "submit-kill9", "nothing was under way")
    cancelled = [ended("submit-kill9", str(number), "cancelled") for number in range(ROUND)]
    assert wrong_of_run(history(done, *cancelled[1:]), pairs("submit:kill9")) == []
    (found,) = wrong_of_run(history(done, *cancelled), pairs("submit:kill9"))
    assert found.what == f"of {ROUND} executions none completed"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seconds": 5.0}, ""),
        ({"began": 12.0}, "no execution ended while it was hurt"),
        ({"refused": [(12.0, "DELETE /tasks/x: 503"), (19.5, "later")]}, "the gateway refused DELETE /tasks/x: 503"),
        ({"gateway": {"away": 0, "behind": 9, "odd": 0}}, "the gateway did not say so"),
        ({"gateway": {"away": 1, "behind": 0, "odd": 2}}, "2 lists neither came nor said why"),
    ],
)
def test_executions_go_on_without_the_history(change: dict[str, Any], what: str) -> None:
    """Some end while its database is away, no call about one is refused, and the gateway says that it is away."""
    told = history(ended("database-stop", "e", "completed", at=11.0))
    assert wrong_of_run(told, pairs("database:stop", "submit:stop")[:1]) == []
    pair = {**pairs("database:stop")[0], **change}
    found = wrong_of_run(told, [pair])
    assert [each.what[: len(what)] for each in found] == ([what] if what else [])


def test_a_failure_must_be_natural_under_its_fault() -> None:
    """A lost worker where workers are hurt, a refused key where the model is; nowhere else."""
    done = ended("calm", "e", "completed")
    for name, reason in (("execute:kill9", "worker_lost"), ("model:creds", "model_auth"), ("s3:skew", "worker_lost")):
        failed = ended(name.replace(":", "-"), "f", "failed", 11.0, reason)
        assert wrong_of_run(history(done, failed), pairs(name)) == []
    for name, reason in (("s3:stop", "worker_lost"), ("submit:kill9", "agent_error"), ("model:kill9", "model_auth")):
        failed = ended(name.replace(":", "-"), "f", "failed", 11.0, reason)
        (found,) = wrong_of_run(history(done, failed), pairs(name))
        assert (found.rule, found.what) == ("reason", f"failed as {reason}: why")
    assert natural("nats-2:cut") == natural("nats:cut")


def test_the_next_fault_may_be_why_an_execution_failed() -> None:
    """One that was still running when a worker was killed; one that had ended before is not excused by it."""
    done = [ended("submit-kill9", "e", "completed"), ended("execute-kill9", "e", "completed")]
    for at, wrong in ((21.0, 0), (19.0, 1)):
        failed = ended("submit-kill9", "f", "failed", at, "worker_lost")
        assert len(wrong_of_run(history(*done, failed), pairs("submit:kill9", "execute:kill9"))) == wrong
    late = [
        ended("execute-kill9", "f", "failed", 21.0, "model_auth"),
        ended("calm", "f", "failed", 21.0, "worker_lost"),
    ]
    assert len(wrong_of_run(history(*done, *late), pairs("submit:kill9", "execute:kill9"))) == 2


def test_a_turn_may_fail_on_the_other_agents_conversation() -> None:
    """Only a turn of a session, and on nothing else of it."""
    done = ended("submit-kill9", "e", "completed")
    said = "OpenCode did not import the session's conversation (1)"
    for message, session, wrong in ((said, "s", 0), (said, None, 1), ("the session's conversation is damaged", "s", 1)):
        failed = ended("submit-kill9", "f", "failed", 11.0, "agent_error")
        failed.facts[0] = Fact("failed", "end", {"message": message}, 11.0)
        failed.commands.append(Fact("submit", "s", {"session_id": session}))
        assert len(wrong_of_run(history(done, failed), pairs("submit:kill9"))) == wrong


def load() -> Load:
    """A load whose system nothing reaches."""
    system = SimpleNamespace(url=lambda name: f"http://{name}", gateway_token="t")
    return Load(cast(System, system), cast(Any, None), cast(Any, None), 1000.0)


async def test_a_load_that_stops_by_itself_is_said() -> None:
    """Its own task and a client's: what nobody expected is a failure of the run."""
    broken = load()

    def nobody() -> Any:
        raise KeyError("no caller")

    async def client() -> None:
        raise ValueError("no such answer")

    broken._caller = nobody  # type: ignore[method-assign]
    broken._start(client())
    broken.begin()
    await asyncio.sleep(0)
    await broken.end()
    assert sorted(broken.failed) == ["load: KeyError('no caller')", "load: ValueError('no such answer')"]


async def test_a_load_that_is_told_to_stop_has_not_failed() -> None:
    """Its end is a cancellation, which is no failure."""
    calm = load()
    calm._one = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]
    calm._poison = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]
    calm._hostile = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]
    calm._caller = lambda: cast(Any, None)  # type: ignore[method-assign]
    calm.begin()
    await asyncio.sleep(0.005)
    await calm.end()
    assert calm.failed == []


async def test_a_wish_is_noted_before_it_is_sent() -> None:
    """It may be carried out though its acknowledgement never comes."""
    wishing, noted = load(), []

    async def taken(*_: Any, **__: Any) -> None:
        pass

    async def delete(execution: str) -> None:
        noted.append(f"p/{execution}" in wishing.ledger.asked_to_delete - wishing.ledger.deleted)

    async def destroy(session: str) -> None:
        ledger = wishing.ledger
        noted.append(f"p/{session}" in ledger.asked_to_destroy - ledger.destroyed)
        noted.append({f"p/{turn}" for turn in ledger.sessions[f"p/{session}"]} <= ledger.asked_to_delete)

    async def get(session: str) -> Any:
        return SimpleNamespace(executions=wishing.ledger.sessions[f"p/{session}"])

    sessions = SimpleNamespace(create=taken, destroy=destroy, get=get)
    client = SimpleNamespace(project="p", sessions=sessions)
    caller = cast(Any, SimpleNamespace(client=client, submit=taken, delete=delete))
    await wishing._one(caller, str(uuid.uuid4()), "deleted", {"prompt": []}, None, 0.0)
    await wishing._session(caller, destroy=True)
    assert noted == [True, True, True]
    assert (len(wishing.ledger.deleted), len(wishing.ledger.destroyed)) == (3, 1)


async def test_a_soak_destroys_sessions_and_deletes_what_belongs_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose turns are deleted one by one would stay, and forget them; a turn goes with its session."""
    name, turn, alone = (f"{digit * 8}-1111-1111-1111-{digit * 12}" for digit in "123")
    sent: list[str] = []
    now = datetime(2026, 1, 1, tzinfo=UTC)
    session = Session(
        session_id=name,
        project_id="p",
        executions=[turn],
        created_at=now,
        updated_at=now,
        expires_at=now,
        ttl_seconds=60,
    )
    kept = {
        subjects.SESSIONS_BUCKET: [Entry(f"p.{name}", session.model_dump_json().encode(), 1)],
        subjects.EXECUTIONS_BUCKET: [Entry(f"p.{turn}", b"", 1), Entry(f"p.{alone}", b"", 1)],
    }

    class Bucket:
        def __init__(self, _: object, name: str) -> None:
            self._name = name

        async def entries(self, filter: str = ">") -> AsyncIterator[Entry]:
            for entry in kept[self._name]:
                yield entry

    async def settled(*_: object) -> list[str]:
        return []

    async def delete(execution: str) -> None:
        sent.append(f"delete {execution}")

    async def destroy(session: str) -> None:
        sent.append(f"destroy {session}")

    monkeypatch.setattr(soak, "NatsBucket", Bucket)
    monkeypatch.setattr(soak, "settle", settled)
    client = SimpleNamespace(delete=delete, sessions=SimpleNamespace(destroy=destroy))
    made = SimpleNamespace(load=load(), bus=None, store=None, system=SimpleNamespace(client=lambda *_: client))
    await soak._delete_all(cast(Bench, made))
    ledger = made.load.ledger
    assert sent == [f"destroy {name}", f"delete {alone}"]
    assert ledger.destroyed == ledger.asked_to_destroy == {f"p/{name}"}
    assert ledger.deleted == ledger.asked_to_delete == {f"p/{turn}", f"p/{alone}"}
