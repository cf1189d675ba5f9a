"""Migration of the database to this release's tables; `ocf.functions.runtime.setup` runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from ocf.events.errors import Unavailable
from ocf.functions.database.connection import engine_of

T = TypeVar("T")

_HERE = Path(__file__).parent / "migrations"
#: Key of the advisory lock by which two setups wait for each other.
_LOCK = 0x6F63665F
#: The last revision with a table that setup fills from the records: executions in the first, sessions in this one.
_FILLED = "0007"
#: Exists from such a migration until the tables are filled. No part of the schema, so that an earlier release goes on.
_UNFILLED = "setup_unfinished"


def migrate(url: str) -> bool:
    """Bring the tables up to date; return whether new ones are to be filled from the records (see `filled`).

    Raises:
        Unavailable: The database does not answer, or refuses.
    """
    return _on(url, upgrade)


def filled(url: str) -> None:
    """Note that new tables are filled. Raises as `migrate` does."""

    def drop(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"DROP TABLE IF EXISTS {_UNFILLED}"))

    _on(url, drop)


def _on(url: str, work: Callable[[Engine], T]) -> T:
    engine = engine_of(url)
    try:
        return work(engine)
    except SQLAlchemyError as error:
        raise Unavailable(f"DATABASE_URL: {(str(error).splitlines() or [''])[0]}") from None
    finally:
        engine.dispose()


def upgrade(engine: Engine) -> bool:
    """As `migrate`, on an engine."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = MigrationContext.configure(connection).get_current_revision()
        if found is None or found < _FILLED:
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {_UNFILLED} (since TEXT)"))
        config = Config()
        config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return inspect(connection).has_table(_UNFILLED)
