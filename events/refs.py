"""References to an execution and a session: every name that belongs to one of them, in one place.

An id is unique within its project only, so that a name built from the id alone would belong to two tenants. Every
subject, key, message id, object name and folder of an execution or session is built here, from project and id.
"""

from __future__ import annotations

from dataclasses import dataclass

from ocf.events import subjects


@dataclass(frozen=True, order=True)
class ExecutionRef:
    """One execution of one project."""

    project: str
    execution: str

    def __str__(self) -> str:
        return f"{self.project}/{self.execution}"

    @property
    def record_key(self) -> str:
        """Key of its record in `ocf_executions`."""
        return f"{self.project}.{self.execution}"

    @property
    def lease_key(self) -> str:
        """Key of its lease; it expires when its worker stops renewing it (TTL on the server's clock)."""
        return f"{self.record_key}.lease"

    @property
    def prefix(self) -> str:
        """Prefix of its objects in S3, without a slash at the end."""
        return f"{self.project}/{self.execution}"

    def object_key(self, name: str) -> str:
        """Key of its object `name` in S3."""
        return f"{self.prefix}/{name}"

    @property
    def folder(self) -> str:
        """Name of its folder on a worker."""
        return f"{self.project}.{self.execution}"

    def command(self, verb: str) -> str:
        """Subject of a command about it."""
        return subjects.command(verb, self.project, self.execution)

    def fact(self, what: str) -> str:
        """Subject of a fact about it."""
        return subjects.fact(self.project, self.execution, what)

    @property
    def output(self) -> str:
        """Subject of its output."""
        return subjects.output(self.project, self.execution)

    @property
    def fence(self) -> str:
        """Subject of its output's fence (ADR 0009)."""
        return subjects.fence(self.project, self.execution)

    @property
    def live(self) -> str:
        """Subject on which its viewers listen."""
        return subjects.live(self.project, self.execution)

    def message_id(self, kind: str, *parts: str | int) -> str:
        """`Nats-Msg-Id` of a message about it. `kind` keeps messages of different purposes apart."""
        return ":".join((kind, self.project, self.execution, *map(str, parts)))

    @property
    def log_fields(self) -> dict[str, str]:
        """Its fields in a log line."""
        return {"project_id": self.project, "execution_id": self.execution}


@dataclass(frozen=True, order=True)
class SessionRef:
    """One session of one project. It shares no name with an execution of the same id."""

    project: str
    session: str

    def __str__(self) -> str:
        return f"{self.project}/{self.session}"

    @property
    def record_key(self) -> str:
        """Key of its record in `ocf_sessions`."""
        return f"{self.project}.{self.session}"

    @property
    def prefix(self) -> str:
        """Prefix of its saved state in S3, without a slash at the end."""
        return f"{self.project}/sessions/{self.session}"

    def object_key(self, name: str) -> str:
        """Key of its object `name` in S3."""
        return f"{self.prefix}/{name}"

    def command(self) -> str:
        """Subject of a command about it."""
        return subjects.command("session", self.project, self.session)

    def fact(self, what: str) -> str:
        """Subject of a fact about it."""
        return subjects.fact(self.project, self.session, what)

    def message_id(self, kind: str, *parts: str | int) -> str:
        """`Nats-Msg-Id` of a message about it. `kind` keeps messages of different purposes apart."""
        return ":".join(("session", kind, self.project, self.session, *map(str, parts)))

    @property
    def log_fields(self) -> dict[str, str]:
        """Its fields in a log line."""
        return {"project_id": self.project, "session_id": self.session}
