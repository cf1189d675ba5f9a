"""Much history and little that runs: the sweep, and the queries of the gateway, beside the same with little history.

The rows are preloaded: a thousand by the code of the history function, the others copied from them in SQL.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from benchmarks.measurement import Options, Row, Target
from ocf.events import subjects
from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.command_payloads import Cleanup
from ocf.events.envelope import new_event
from ocf.events.execution_record import Record
from ocf.events.lifecycle import State
from ocf.functions.cleanup.sweep import Sweep
from ocf.functions.core.cleanup_schedules import SWEEP
from ocf.functions.core.execution_store import Records
from ocf.functions.core.item_backoff import Isolation
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.database.connection import Database, engine_of
from ocf.functions.database.history_upserts import save
from ocf.functions.database.migrate import upgrade
from ocf.functions.database.reading import Filter
from ocf.functions.database.store import History
from ocf.functions.database.tables import executions
from ocf.functions.runtime.setup import apply
from tests.support.database import postgres
from tests.support.nats import running_nats

SEED, OPEN = 1_000, 50
KEPT = {"postgresql": 1_000_000, "sqlite": 100_000}
RECORDS = 100_000
_SERIES = {
    "postgresql": ("SELECT generate_series(1, :more) AS n", "submitted_at - n * interval '1000 s'", "to_hex(n)"),
    "sqlite": (
        "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :more) SELECT n FROM s",
        "datetime(submitted_at, '-' || (n * 1000) || ' seconds') || '.000000'",
        "printf('%x', n)",
    ),
}
QUERIES = {
    "first page, all": Filter(),
    "first page, one project": Filter(frozenset({"p3"})),
    "first page, project and status": Filter(frozenset({"p3"}), frozenset({State.FAILED})),
    "search, a word of one row": Filter(text="needle"),
    "search, a word of every row": Filter(text="task"),
}


def made(number: int, state: State, title: str) -> Record:
    """A record of an execution that was submitted so many seconds ago."""
    at = datetime.now(UTC) - timedelta(seconds=number)
    ended = at if state is not State.PENDING else None
    return Record(
        execution_id=str(uuid.uuid4()),
        project_id=f"p{number % 10}",
        state=state,
        title=title,
        submitted_at=at,
        updated_at=at,
        started_at=ended,
        ended_at=ended,
        archived=ended is not None,
        timeout_seconds=60,
        result="It works now. " * 10,
    )


def fill(database: Database, rows: int) -> None:
    """Make so many rows."""
    upgrade(database.engine)
    names = [column.name for column in executions.columns if column.name != "id"]
    series, at, prefix = _SERIES[database.dialect]
    other = {"submitted_at": at, "ended_at": at, "execution_id": f"{prefix} || '-' || execution_id"}
    other["words"] = "replace(words, 'needle', 'nail')"
    chosen = ", ".join(other.get(name, name) for name in names)
    with database.engine.begin() as connection:
        for number in range(SEED):
            title = "Task needle" if number == 500 else f"Task number {number}"
            save(connection, made(number, State.FAILED if number % 10 == 3 else State.COMPLETED, title))
    with database.engine.begin() as connection:
        connection.execute(text("SET statement_timeout = 0") if database.dialect == "postgresql" else text("SELECT 1"))
        columns = ", ".join(names)
        copy = f"INSERT INTO task_executions ({columns}) SELECT {chosen} FROM task_executions, ({series}) s"  # noqa: S608
        connection.execute(text(copy), {"more": max(1, rows // SEED - 1)})
    with database.engine.begin() as connection:
        connection.execute(text("ANALYZE"))


async def times(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each call, after one that does not count."""
    found = []
    for _ in range(count + 1):
        started = time.perf_counter()
        await call()
        found.append(1000 * (time.perf_counter() - started))
    return found[1:]


async def queries(dialect: str, small: str, large: str, options: Options, kept: int) -> list[Row]:
    """Each query with much and with little in the database, and against a row by its key."""
    rows: list[Row] = []
    stores = [(Database(engine_of(url)), count) for url, count in ((small, SEED), (large, kept))]
    for database, count in stores:
        await asyncio.to_thread(fill, database, count)
    few, many = (History(database) for database, _ in stores)
    (first,) = await many.page(Filter(), 1)
    key = await times(lambda: many.projects_of(str(first["execution_id"])), options.of(20))
    for name, wanted in QUERIES.items():
        ours = await times(lambda wanted=wanted: many.page(wanted, 51), options.of(20))  # type: ignore[misc]
        base = await times(lambda wanted=wanted: few.page(wanted, 51), options.of(20))  # type: ignore[misc]
        if name.startswith("search"):
            rows.append(Row(f"{dialect}, {name}", "ms", ours, key, "a row by its key", Target("ratio", 5)))
        else:
            rows.append(Row(f"{dialect}, {name}", "ms", ours, base, f"{SEED} rows", Target("ratio", 1.5)))
    for store in (few, many):
        store.close()
    return [Row(r.figure, r.unit, r.ours, r.baseline, r.against, r.target, f"{kept:,} rows") for r in rows]


async def sweeps(bus: NatsBus, kept: int, count: int) -> list[float]:
    """Milliseconds of a sweep over the open executions beside so many that have ended."""
    clock = SystemClock()
    executions, keys = (NatsBucket(bus, name) for name in (subjects.EXECUTIONS_BUCKET, subjects.OPEN_BUCKET))
    records = Records(executions, bus, clock, source="/bench", store=MemoryStore(), open_keys=keys)
    for start in range(0, kept, 500):
        batch = range(start, min(kept, start + 500))
        await asyncio.gather(*(records.create(made(n, State.COMPLETED, f"Task {n}")) for n in batch))
    for number in range(OPEN):
        record = made(number, State.PENDING, f"Open {number}")
        await records.create(record)
        await records.open.add(record.ref)
    sweep = Sweep(bus, executions, records, Isolation(clock, bus, MemoryStore()), clock, retention=False)
    data = Cleanup(project_id=subjects.SYSTEM_PROJECT, execution_id=SWEEP.entity, scope="sweep")
    event = new_event("dev.ocf.task.cleanup.v1", data, source="/bench", time=clock.now())
    return await times(lambda: sweep.run(event), count)


async def measure(options: Options) -> list[Row]:
    """The sweep, then both databases."""
    less = 100 if options.quick else 1
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as top:
        found = []
        for kept in (RECORDS // less, OPEN):
            with running_nats(Path(top) / str(kept), streams=False) as server:
                bus = await connect(server.url, creds=server.creds, name="bench")
                await apply(bus)
                found.append(await sweeps(bus, kept, options.of(20)))
                await bus.close()
        note = f"{RECORDS // less:,} kept, {OPEN} open"
        rows.append(Row("a sweep", "ms", found[0], found[1], f"{OPEN} kept", Target("ratio", 1.2), note))
        sqlite = (f"sqlite:///{top}/few.db", f"sqlite:///{top}/many.db")
        rows += await queries("sqlite", *sqlite, options, KEPT["sqlite"] // less)
        with postgres() as server:
            urls = (server.create("few"), server.create("many"))
            rows += await queries("postgresql", *urls, options, KEPT["postgresql"] // less)
    return rows
