"""One suite for both databases: SQLite and PostgreSQL, same assertions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from ocf.events.envelope import Event
from ocf.events.errors import DeadLetter, Unavailable
from ocf.events.execution_record import Attempt, Record
from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.lifecycle import Reason, State
from ocf.events.output import Usage
from ocf.events.session_record import Session
from ocf.functions.database import reading, tables
from ocf.functions.database.connection import Database, engine_of
from ocf.functions.database.migrate import filled, migrate
from ocf.functions.database.reading import Filter, Position
from ocf.functions.database.store import History
from tests.support.database import Postgres

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database for the tests of this file, migrated. Whoever finds new tables fills them, unless that is done."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('history')}/history.db"
    else:
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.create(f"t{uuid.uuid4().hex}")
    assert migrate(url)
    assert migrate(url), "the first setup broke off"
    filled(url)
    assert not migrate(url)
    return url


@pytest.fixture
async def database(migrated: str) -> AsyncIterator[Database]:
    """The database without a row."""
    found = Database(engine_of(migrated))
    await found.run(lambda connection: [connection.execute(table.delete()) for table in tables.metadata.sorted_tables])
    yield found
    found.close()


@pytest.fixture
def history(database: Database) -> History:
    return History(database)


def record(number: int = 1, project: str = "p", **fields: Any) -> Record:
    at = NOW + timedelta(seconds=number)
    given = {"state": State.COMPLETED, "submitted_at": at, "updated_at": at, "timeout_seconds": 60, **fields}
    return Record(execution_id=an_id(number), project_id=project, **given)


def an_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def fact(what: str, number: int = 1, data: str = "{}", **fields: Any) -> Event:
    event = Event(f"dev.ocf.task.{what}.v1", "/test", str(uuid.uuid4()), NOW, data.encode(), an_id(number))
    return replace(event, **fields)


async def rows(database: Database, name: str) -> list[dict[str, Any]]:
    """Every row of a table, without the number that the database gives it."""
    table = tables.metadata.tables[name]
    columns = [column for column in table.c if column.name != "id"]
    keys = [column for column in columns if column.primary_key or column.name in ("project_id", "execution_id")]
    query = select(*columns).order_by(*keys)
    return await database.run(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


#: Tables that are not about one execution.
_OTHERS = ("sessions", "removed_costs")


async def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    return {name: await rows(database, name) for name in tables.metadata.tables if name not in _OTHERS}


async def listed(history: History, after: Position | None = None, limit: int = 50, **wanted: Any) -> list[int]:
    page = await history.page(Filter(**wanted), limit, after)
    return [uuid.UUID(row["execution_id"]).int for row in page]


async def test_the_tables_are_those_of_the_migrations(database: Database) -> None:
    """What the migrations create is what the queries expect."""

    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                # The text index is each dialect's own.
                "include_object": lambda thing, name, *_: (
                    not (name or "").startswith("execution_words") and name != "task_executions_words"
                )
            },
        )
        return compare_metadata(context, tables.metadata)

    assert await database.run(differences) == []


async def test_a_row_has_everything_of_the_record(history: History) -> None:
    """The fields of a list come back as they were."""
    full = record(
        reason=Reason.AGENT_ERROR,
        state=State.FAILED,
        title="Fix it",
        message="no",
        labels={"team": "a"},
        model="x/y",
        started_at=NOW + timedelta(seconds=2),
        ended_at=NOW + timedelta(seconds=5),
        usage=Usage(requests=1, input_tokens=2, output_tokens=3, reasoning_tokens=4, cost_usd=0.25),
        attempts=[Attempt(number=1, worker="w", started_at=NOW, ended_at=NOW, ended="failed")],
    )
    await history.save(full)
    (row,) = await history.page(Filter(), 10)
    assert row["usage"] == full.usage.model_dump()
    assert (row["status"], row["reason"], row["duration_ms"], row["attempt"]) == ("failed", "agent_error", 3000, 1)
    assert (row["submitted_at"], row["ended_at"], row["labels"]) == (full.submitted_at, full.ended_at, {"team": "a"})


async def test_repeated_late_and_reordered_facts_change_nothing(database: Database, history: History) -> None:
    """The rows after any order of the deliveries are those of the right order."""
    running = record(state=State.RUNNING, attempts=[Attempt(number=1, worker="w", started_at=NOW)])
    attempt = Attempt(number=1, worker="w", started_at=NOW, ended_at=NOW + timedelta(seconds=9), ended="completed")
    ended = record(ended_at=NOW + timedelta(seconds=9), updated_at=NOW + timedelta(seconds=9), attempts=[attempt])
    facts = [fact("accepted"), fact("started"), fact("completed"), fact("archived")]
    steps = [
        (running, [facts[0]]),
        (running, [facts[1]]),
        (ended, [facts[2]]),
        (ended.model_copy(update={"archived": True, "updated_at": NOW + timedelta(hours=1)}), [facts[3]]),
    ]
    for step in steps:
        await history.save(*step)
    expected = await everything(database)
    assert [len(rows) for rows in expected.values()] == [1, 0, 1, 3]
    assert expected["task_executions"][0]["archived"]
    for step in reversed(steps * 2):
        await history.save(*step)
    assert await everything(database) == expected
    await history.remove(ExecutionRef("p", an_id(1)))
    for step in reversed(steps):
        await history.save(*step)
    assert await everything(database) == expected


async def test_a_fast_clock_keeps_no_row_open(database: Database, history: History) -> None:
    """Each change has the clock of who made it. One from the future does not hide the end, and nothing follows that."""
    early = record(state=State.PENDING, updated_at=NOW + timedelta(minutes=10))
    ended = record(ended_at=NOW + timedelta(seconds=9), updated_at=NOW + timedelta(seconds=9))
    for _ in range(2):
        await history.save(early)
        await history.save(ended)
        await history.save(early)
        assert [row["status"] for row in await rows(database, "task_executions")] == ["completed"]


@pytest.mark.parametrize("frequent", [0, 1_000])
async def test_frequent_words_are_found_as_rare_ones(
    history: History, monkeypatch: pytest.MonkeyPatch, frequent: int
) -> None:
    """By the text index or in the order of time: the same executions for beginnings of words, in any case."""
    monkeypatch.setattr(reading, "FREQUENT", frequent)
    for number, title in enumerate(("Mend the parser", "Mending (ÄRGER)", "amend", "the_mend 100%"), 1):
        await history.save(record(number, title=title))
    assert await listed(history, text="mend") == [4, 2, 1]
    assert await listed(history, text="mend the") == [4, 1]
    assert await listed(history, text="ärg") == [2]
    assert await listed(history, text="100%") == [4]
    assert await listed(history, text="mend", limit=1, after=(NOW + timedelta(seconds=4), an_id(4), "p")) == [2]
    assert await listed(history, text="mend", projects=frozenset("q")) == []
    assert await listed(history, text="%") == []


async def test_sessions_come_in_pages_and_go(history: History) -> None:
    """Pages list sessions of some or all projects, newest first; each once, and no removed one."""
    refs = [SessionRef("pq"[number % 2], an_id(number)) for number in range(5)]
    for number, ref in enumerate(refs * 2):
        at = NOW + timedelta(seconds=number % 5)
        times = {"created_at": at, "updated_at": at, "expires_at": at, "ttl_seconds": 60}
        ids = {"project_id": ref.project, "session_id": ref.session}
        await history.save_session(Session.model_validate({**ids, **times, "labels": {"a": "b"}}))
    first = await history.session_page(None, 3)
    assert [ref for ref, _ in first] == refs[:1:-1]
    ref, at = first[-1]
    assert [one for one, _ in await history.session_page(None, 3, (at, ref.session, ref.project))] == refs[1::-1]
    assert [one for one, _ in await history.session_page(frozenset("q"), 9)] == [refs[3], refs[1]]
    await history.remove_session(SessionRef("p", refs[1].session))
    await history.remove_session(refs[3])
    assert [one for one, _ in await history.session_page(frozenset("q"), 9)] == [refs[1]]


async def test_nothing_of_a_removed_execution_stays(database: Database, history: History) -> None:
    """No table has a row of it, the text index finds nothing, and its namesake of another project is untouched."""
    attempts = [Attempt(number=1, worker="w", started_at=NOW)]
    for project in ("p", "q"):
        await history.save(
            record(project=project, title="secret", labels={"a": "b"}, attempts=attempts), [fact("failed")]
        )
    await history.remove(ExecutionRef("p", an_id(1)))
    for name, found in (await everything(database)).items():
        assert {row["project_id"] for row in found} == {"q"}, name
    assert await history.projects_of(an_id(1)) == ["q"]
    await history.remove(ExecutionRef("q", an_id(1)))
    assert await listed(history, text="secret") == []
    assert not any((await everything(database)).values())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"projects": frozenset({"p"})}, [5, 3, 1]),
        ({"projects": frozenset()}, []),
        ({"projects": frozenset({"p", "q"})}, [5, 4, 3, 2, 1]),
        ({"states": frozenset({State.RUNNING})}, [4, 2]),
        ({"labels": (("n", "3"),)}, [3]),
        ({"labels": (("n", None), ("even", "yes"))}, [4, 2]),
        ({"labels": (("even", "no"),)}, []),
        ({"since": NOW + timedelta(seconds=4)}, [5, 4]),
        ({"until": NOW + timedelta(seconds=2)}, [1]),
        ({"task_id": "t3"}, [3]),
        ({"session_id": an_id(99)}, [2]),
        ({"id_prefix": an_id(3)}, [3]),
        ({"id_prefix": an_id(3)[:-1]}, [5, 4, 3, 2, 1]),
        ({"id_prefix": "f"}, []),
        ({"id_prefix": "%"}, []),
        ({"text": "PARSER"}, [5, 4, 3, 2, 1]),
        ({"text": "pars 4"}, [4]),
        ({"text": "arser"}, []),
        ({"text": "straße3"}, [3]),
        ({"text": "ΔΟΚΙΜΉ"}, [5, 4, 3, 2, 1]),
        ({"text": "解析器"}, [5, 4, 3, 2, 1]),
        ({"text": "file_2.py:17"}, [2]),
        ({"text": "the result"}, [5, 4, 3, 2, 1]),
        ({"text": "''"}, []),
        ({"text": '" OR 1=1 --'}, []),
        ({"text": "& | ! ( ) :* \\"}, []),
    ],
)
async def test_filters_bound_the_list(history: History, wanted: dict[str, Any], expected: list[int]) -> None:
    """Every condition that is set must hold, and both databases find the same words."""
    for number in range(1, 6):
        await history.save(
            record(
                number,
                "p" if number % 2 else "q",
                state=State.COMPLETED if number % 2 else State.RUNNING,
                labels={"n": str(number)} | ({} if number % 2 else {"even": "yes"}),
                title=f"Fix the parser {number} (straße{number}) in src/file_{number}.py:17 δοκιμή 解析器",
                result='The Result is: it\'s "done"',
                task_id=f"t{number}",
                session_id=an_id(99) if number == 2 else None,
            )
        )
    assert await listed(history, **wanted) == expected


async def test_pages_neither_repeat_nor_skip_while_new_ones_arrive(history: History) -> None:
    """A cursor is a place in time, not a count; equal times are told apart by the ids."""
    for number in range(7):
        await history.save(record(number, submitted_at=NOW))
    seen: list[int] = []
    after: Position | None = None
    while page := await history.page(Filter(), 3, after):
        seen += [uuid.UUID(row["execution_id"]).int for row in page]
        after = (page[-1]["submitted_at"], page[-1]["execution_id"], page[-1]["project_id"])
        await history.save(record(100 + len(seen)))
    assert seen == [6, 5, 4, 3, 2, 1, 0]


async def test_usage_is_summed_by_every_group(history: History) -> None:
    """Runs, results, tokens and cost by project, model, day and label; a filter bounds them."""
    for number in range(4):
        await history.save(
            record(
                number * 86_400,
                "p" if number < 3 else "q",
                model="a/b" if number else None,
                state=State.COMPLETED if number else State.FAILED,
                reason=None if number else Reason.STALLED,
                labels={"team": "x"} if number % 2 else {},
                usage=Usage(requests=1, input_tokens=10, output_tokens=number, cost_usd=0.5),
            )
        )
    by_project = await history.usage(Filter(), ["project"])
    assert [(r["project"], r["runs"], r["completed"], r["failed"], r["cost_usd"]) for r in by_project] == [
        ("p", 3, 2, 1, 1.5),
        ("q", 1, 1, 0, 0.5),
    ]
    both = await history.usage(Filter(frozenset({"p"})), ["model", "day"])
    assert [(row["model"], row["day"], row["input_tokens"]) for row in both] == [
        ("", "2026-01-01", 10),
        ("a/b", "2026-01-02", 10),
        ("a/b", "2026-01-03", 10),
    ]
    assert [(row["label"], row["runs"]) for row in await history.usage(Filter(), ["label"])] == [("team=x", 2)]
    assert [row["runs"] for row in await history.usage(Filter(), [])] == [4]
    assert await history.reasons(Filter()) == {"stalled": 1}


async def test_spend_and_open_executions_of_a_project_and_of_a_label(history: History) -> None:
    """What budgets and limits of rules ask: since midnight UTC, of one project, with one label."""
    for number, hours in enumerate((-13, -1, 0)):
        state = State.COMPLETED if number else State.RUNNING
        given = {"state": state, "submitted_at": NOW + timedelta(hours=hours), "usage": Usage(cost_usd=1.0)}
        await history.save(record(number, labels={"trigger": str(number)}, **given))
        await history.save(record(number, "q", **given))
    assert await history.spend_today("p", NOW) == 2.0
    assert await history.spend_today("p", NOW, "2") == 1.0
    assert await history.spend_today("nobody", NOW) == 0.0
    assert await history.spend_today("p", NOW + timedelta(days=1)) == 0.0
    assert (await history.count_open("p"), await history.count_open("p", ("trigger", "1"))) == (1, 0)
    assert await history.pending_before((NOW, an_id(9), "p")) == 0
    for _ in range(2):
        await history.remove(ExecutionRef("p", an_id(2)))
    assert (await history.spend_today("p", NOW), await history.spend_today("p", NOW, "2")) == (2.0, 1.0)


async def test_an_imported_execution_costs_its_new_project_nothing(history: History) -> None:
    """Its row has no cost, whoever writes it: the import, or `ocf history rebuild` from the archive."""
    given = {"state": State.COMPLETED, "submitted_at": NOW, "usage": Usage(cost_usd=50.0), "imported_from": "q/other"}
    await history.save(record(1, **given))
    assert await history.spend_today("p", NOW) == 0.0


async def test_texts_that_a_database_refuses_are_stored_all_the_same(database: Database, history: History) -> None:
    """NUL in a result, a lone surrogate in an event: replaced, as one row must not stop the others."""
    await history.save(record(result="a\x00b", title="x\x00"), [fact("failed", data='{"message": "\\u0000 \\ud800"}')])
    assert (await rows(database, "task_executions"))[0]["result"] == "a\ufffdb"
    (event,) = await rows(database, "execution_events")
    assert "\x00" not in event["data"]["message"]


async def test_a_large_member_of_an_event_is_left_to_the_archive(database: Database, history: History) -> None:
    """A row stays small, whatever an agent wrote."""
    await history.save(
        record(result="y" * 100_000), [fact("completed", data='{"attempt": 1, "result": "%s"}' % ("x" * 5000))]
    )
    assert (await rows(database, "execution_events"))[0]["data"] == {"attempt": 1}
    assert len((await rows(database, "task_executions"))[0]["result"]) < 40_000


async def test_impossible_values_are_told_from_a_database_that_is_away(history: History) -> None:
    """The first can never succeed, the second waits."""
    early = record(submitted_at=datetime.fromisoformat("0001-01-01T00:00:00+14:00"))
    with pytest.raises((OverflowError, DeadLetter)):
        await history.save(early)
    away = History.at("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        await away.ready()
    away.close()


async def test_the_queries_of_the_documentation_run(database: Database, history: History) -> None:
    """Each in both dialects, with rows."""
    made = [Attempt(number=n, worker="w", started_at=NOW) for n in (1, 2)]
    await history.save(record(attempts=made, started_at=NOW, model="a/b"))
    page = (Path(__file__).parents[2] / "docs/how-to/query-the-history.md").read_text()
    queries = list(filter(str.strip, page.split("```sql")[1].split("```")[0].split(";")))
    assert len(queries) == 3
    for query in queries:
        assert await database.run(lambda connection, query=query: connection.execute(text(query)).all()), query
