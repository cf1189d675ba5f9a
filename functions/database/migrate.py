"""Migration of the database to this release's tables; `ocf.functions.runtime.setup` runs it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from ocf.events.errors import Unavailable
from ocf.functions.database.connection import engine_of

_HERE = Path(__file__).parent / "migrations"
#: Key of the advisory lock by which two setups wait for each other.
_LOCK = 0x6F63665F


def migrate(url: str) -> bool:
    """Bring the tables up to date; return whether there were none.

    Raises:
        Unavailable: The database does not answer, or refuses.
    """
    engine = engine_of(url)
    try:
        return upgrade(engine)
    except SQLAlchemyError as error:
        raise Unavailable(f"DATABASE_URL: {(str(error).splitlines() or [''])[0]}") from None
    finally:
        engine.dispose()


def upgrade(engine: Engine) -> bool:
    """As `migrate`, on an engine."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        fresh = not inspect(connection).has_table("alembic_version")
        config = Config()
        config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return fresh
