"""Connection to the database: calls run in threads of their own, with limits in time; failures are `Unavailable`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from ocf.events.errors import DeadLetter, Unavailable

T = TypeVar("T")

_THREADS = 8
#: Seconds for one call, and for one statement in the server.
_CALL, _STATEMENT = 10.0, 8
#: psycopg notices within this time that the network swallows its packets.
_POSTGRES = {
    "connect_timeout": 3,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
    "options": f"-c statement_timeout={_STATEMENT}s -c lock_timeout={_STATEMENT}s -c timezone=UTC",
}


def engine_of(url: str) -> Engine:
    """Return an engine that has not connected yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": _STATEMENT}, pool_size=_THREADS)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args=_POSTGRES,
        pool_size=_THREADS,
        max_overflow=0,
        pool_timeout=_CALL,
        pool_pre_ping=True,
    )


def _prepare_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401 - DBAPI connections have no common type
    cursor = connection.cursor()
    # With a write-ahead log readers do not wait for the writer. A power cut may lose the last rows, which the
    # consumer's next facts and `ocf history rebuild` bring back.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


class Database:
    """One database; connects at the first call."""

    def __init__(self, engine: Engine, threads: int = _THREADS) -> None:
        self.engine = engine
        self._threads = ThreadPoolExecutor(threads, "database")

    @property
    def dialect(self) -> str:
        """Return `sqlite` or `postgresql`."""
        return self.engine.dialect.name

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, and return its result.

        Raises:
            Unavailable: The database does not answer, or refuses.
            DeadLetter: It can never store these values.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CALL):
                return await loop.run_in_executor(self._threads, self._transaction, work)
        except TimeoutError:
            raise Unavailable(f"the database did not answer within {_CALL:g} s") from None

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except (DataError, IntegrityError) as error:
            raise DeadLetter(f"the database refuses the values: {_reason(error)}") from None
        except SQLAlchemyError as error:
            raise Unavailable(f"the database: {_reason(error)}") from None

    def close(self) -> None:
        """Close all connections; calls in flight go on until their limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


def _reason(error: SQLAlchemyError) -> str:
    """Return the first line of the driver's message, without statement and parameters, which may have task texts."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
