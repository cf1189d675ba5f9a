"""The history's PostgreSQL as a part: its data on a disk of its own, and a role whose password can become another."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from faults.component_disk import Disk
from faults.net import HUB
from tests.support.database import other_user, programs

PORT = 5432
_ROLE = "ocf"
#: The harness is the only administrator; functions need the password.
_TRUST = f"host all postgres {HUB}/32 trust\nhost {_ROLE} {_ROLE} {HUB}/24 scram-sha-256\n"
_OPTIONS = {
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    # Nothing of it outlives the run: /dev/shm is the machine's.
    "dynamic_shared_memory_type": "mmap",
}


class Database:
    """A server that `disk` holds and `address` serves."""

    def __init__(self, folder: Path, disk: Disk, address: str) -> None:
        self._address = address
        self._password = secrets.token_urlsafe(16)
        self._data = disk.path / "data"
        (folder / "postgres").mkdir()
        self._programs = programs(folder / "postgres")

    @property
    def url(self) -> str:
        """Return the URL for the functions."""
        return self._url(_ROLE, self._password)

    @property
    def wrong_url(self) -> str:
        """Return the URL for the functions with a wrong password."""
        return self._url(_ROLE, "wrong")

    @property
    def admin_url(self) -> str:
        """Return the URL for the harness, as the administrator."""
        return f"postgresql://postgres@{self._address}:{PORT}/postgres"

    def argv(self, preload: str | None) -> tuple[str, ...]:
        """The command line of the server; `preload` as in LD_PRELOAD."""
        options = [f"--{name}={value}" for name, value in {**_OPTIONS, "listen_addresses": self._address}.items()]
        command = self._as_other("postgres", "-D", str(self._data), "-p", str(PORT), *options)
        if preload is None:
            return command
        # libfaketime keeps a semaphore of the user that loads it first: that must not be root.
        alone = ("env", "-u", "LD_PRELOAD", "-u", "FAKETIME_SHARED")
        place = command.index("--") + 1
        return (*alone, *command[:place], "env", f"LD_PRELOAD={preload}", *command[place:])

    def prepare(self) -> None:
        """Initialise the data directory."""
        self._data.mkdir()
        user, group = other_user()
        subprocess.run(["chown", f"{user}:{group}", str(self._data)], check=True)
        options = ("-U", "postgres", "-A", "reject", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        # Small files of the log: the disk is small, too.
        command = self._as_other("initdb", "-D", str(self._data), *options, "--wal-segsize=1")
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)
        (self._data / "pg_hba.conf").write_text(_TRUST)

    def create(self) -> None:
        """Make role and database, once the server runs."""
        self._run(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(_ROLE), self._password))
        self._run(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(_ROLE)))

    def know(self, *, right: bool) -> None:
        """Give the functions' role another password than theirs, or theirs again."""
        password = self._password if right else secrets.token_urlsafe(16)
        self._run(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(_ROLE), password))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.admin_url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)

    def _url(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@{self._address}:{PORT}/{_ROLE}"

    def _as_other(self, program: str, *arguments: str) -> tuple[str, ...]:
        user, group = other_user()
        who = (f"--reuid={user}", f"--regid={group}", "--clear-groups")
        return ("setpriv", *who, "--", str(self._programs / program), *arguments)
