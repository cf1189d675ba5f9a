"""Rows of the history, as the database has them and as a rebuild from archive, records and streams makes them."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

from sqlalchemy import Engine, select

from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.adapters.s3 import S3Store
from ocf.functions.core.execution_store import Records
from ocf.functions.core.session_store import Sessions
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.database.connection import engine_of
from ocf.functions.database.rebuild import rebuild
from ocf.functions.database.store import History
from ocf.functions.database.tables import metadata
from tests.support.database import memory_database

#: By `project/execution` or `project/session`: table, and the columns of each row.
Rows = dict[str, dict[str, list[dict[str, Any]]]]


async def of_database(url: str) -> Rows:
    """Every row of the database at `url`."""
    engine = engine_of(url)
    try:
        return await asyncio.to_thread(_read, engine)
    finally:
        engine.dispose()


async def rebuilt(bus: NatsBus, store: S3Store) -> Rows:
    """Every row that `ocf history rebuild` would write into an empty database."""
    clock = SystemClock()
    executions, open_keys, sessions = (
        NatsBucket(bus, name) for name in (subjects.EXECUTIONS_BUCKET, subjects.OPEN_BUCKET, subjects.SESSIONS_BUCKET)
    )
    records = Records(executions, bus, clock, source="/ocf/faults", store=store, open_keys=open_keys)
    database = memory_database()
    with closing(History(database)) as history:
        await rebuild(bus, store, records, Sessions(sessions, clock), history)
        return _read(database.engine)


def _read(engine: Engine) -> Rows:
    found: Rows = {}
    with engine.connect() as connection:
        for name, table in metadata.tables.items():
            # The number of a row is the database's own.
            columns = [column for column in table.c if column.name != "id"]
            order = [column for column in columns if column.primary_key] or [table.c.execution_id]
            for row in connection.execute(select(*columns).order_by(*order)).mappings():
                entity = row["session_id"] if name == "sessions" else row["execution_id"]
                tables = found.setdefault(f"{row['project_id']}/{entity}", {})
                tables.setdefault(name, []).append(dict(row))
    return found
