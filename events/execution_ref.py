"""References to an execution or session, and all names derived from them.

An id is unique only within its project, so a name derived from the id alone could belong to two tenants. Every subject,
key, message id, object name and folder of an execution or session is derived here from project and id.
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
        """Key of the record in `ocf_executions`."""
        return f"{self.project}.{self.execution}"

    @property
    def lease_key(self) -> str:
        """Key of the lease, which expires when the worker stops renewing it (TTL on the server's clock)."""
        return f"{self.record_key}.lease"

    @property
    def ended_key(self) -> str:
        """Key by which the id is remembered after its record has left the bucket; it expires (TTL)."""
        return f"{self.record_key}.ended"

    @property
    def prefix(self) -> str:
        """Prefix of the objects in S3, without a trailing slash."""
        return f"{self.project}/{self.execution}"

    def object_key(self, name: str) -> str:
        """Return the S3 key of the object `name`."""
        return f"{self.prefix}/{name}"

    @property
    def folder(self) -> str:
        """Name of the folder on a worker."""
        return f"{self.project}.{self.execution}"

    def command(self, verb: str) -> str:
        """Return the subject of a command."""
        return subjects.command(verb, self.project, self.execution)

    def fact(self, what: str) -> str:
        """Return the subject of a fact; `what` is its last token."""
        return subjects.fact(self.project, self.execution, what)

    @property
    def output(self) -> str:
        """Subject of the output."""
        return subjects.output(self.project, self.execution)

    @property
    def fence(self) -> str:
        """Subject of the output's fence (ADR 0009)."""
        return subjects.fence(self.project, self.execution)

    @property
    def live(self) -> str:
        """Subject of the live output for viewers."""
        return subjects.live(self.project, self.execution)

    def message_id(self, kind: str, *parts: str | int) -> str:
        """Return a `Nats-Msg-Id`. `kind` distinguishes messages of different purposes."""
        return ":".join((kind, self.project, self.execution, *map(str, parts)))

    @property
    def log_fields(self) -> dict[str, str]:
        """Fields of a log line."""
        return {"project_id": self.project, "execution_id": self.execution}


@dataclass(frozen=True, order=True)
class SessionRef:
    """One session of one project. Its names differ from those of an execution with the same id."""

    project: str
    session: str

    def __str__(self) -> str:
        return f"{self.project}/{self.session}"

    @property
    def record_key(self) -> str:
        """Key of the record in `ocf_sessions`."""
        return f"{self.project}.{self.session}"

    @property
    def prefix(self) -> str:
        """Prefix of the saved state in S3, without a trailing slash."""
        return f"{self.project}/sessions/{self.session}"

    def object_key(self, name: str) -> str:
        """Return the S3 key of the object `name`."""
        return f"{self.prefix}/{name}"

    def command(self) -> str:
        """Return the subject of a command."""
        return subjects.command("session", self.project, self.session)

    def fact(self, what: str) -> str:
        """Return the subject of a fact; `what` is its last token."""
        return subjects.fact(self.project, self.session, what)

    def message_id(self, kind: str, *parts: str | int) -> str:
        """Return a `Nats-Msg-Id`. `kind` distinguishes messages of different purposes."""
        return ":".join(("session", kind, self.project, self.session, *map(str, parts)))

    @property
    def log_fields(self) -> dict[str, str]:
        """Fields of a log line."""
        return {"project_id": self.project, "session_id": self.session}
