"""All NATS subjects and stream names (docs/reference/events.md is generated from them)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ocf.events.errors import InvalidEvent

PROJECT_PATTERN = r"^[a-z0-9-]{1,63}$"
_PROJECT = re.compile(r"[a-z0-9-]{1,63}")
_SOURCE = re.compile(r"[A-Za-z0-9_-]{1,63}")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

COMMANDS = "OCF_COMMANDS"
EVENTS = "OCF_EVENTS"
OUTPUT = "OCF_OUTPUT"
DLQ = "OCF_DLQ"
INBOX = "OCF_INBOX"
EXECUTIONS_BUCKET = "ocf_executions"
OPEN_BUCKET = "ocf_open"
SESSIONS_BUCKET = "ocf_sessions"
CREDENTIALS_BUCKET = "ocf_credentials"
TRIGGERS_BUCKET = "ocf_triggers"

#: Project of scheduled commands that do not belong to a single project.
SYSTEM_PROJECT = "ocf-system"


def check_project(project: str) -> str:
    """Return `project`. Raises InvalidEvent if it is not a valid subject token."""
    if not _PROJECT.fullmatch(project):
        raise InvalidEvent(f"project_id: {project[:80]!r} is not [a-z0-9-]{{1,63}}")
    return project


def check_id(value: str, field: str = "execution_id") -> str:
    """Return `value`. Raises InvalidEvent unless it is a lower-case UUID in canonical form."""
    if not _ID.fullmatch(value):
        raise InvalidEvent(f"{field}: {value[:80]!r} is not a lower-case UUID")
    return value


def command(verb: str, project: str, entity: str) -> str:
    """Return `ocf.cmd.<verb>.<project>.<execution or session>`."""
    return f"ocf.cmd.{verb}.{check_project(project)}.{check_id(entity, 'id')}"


def fact(project: str, entity: str, what: str) -> str:
    """Return `ocf.evt.<project>.<execution or session>.<what>`."""
    return f"ocf.evt.{check_project(project)}.{check_id(entity, 'id')}.{what}"


def output(project: str, execution: str) -> str:
    """Return `ocf.out.<project>.<execution>`, on which execute publishes output."""
    return f"ocf.out.{check_project(project)}.{check_id(execution)}"


def fence(project: str, execution: str) -> str:
    """Return `ocf.out.<project>.<execution>.fence`, whose latest message identifies the current writer (ADR 0009)."""
    return f"{output(project, execution)}.fence"


def live(project: str, execution: str) -> str:
    """Return `ocf.live.<project>.<execution>` for viewers (core NATS, republished by OCF_OUTPUT)."""
    return f"ocf.live.{check_project(project)}.{check_id(execution)}"


def inbox(project: str, source: str) -> str:
    """Return `ocf.in.<project>.<source>`, on which events of other systems arrive."""
    if not _SOURCE.fullmatch(source):
        raise InvalidEvent(f"source: {source[:80]!r} is not [A-Za-z0-9_-]{{1,63}}")
    return f"ocf.in.{check_project(project)}.{source}"


def timetable(project: str, name: str) -> str:
    """Return `ocf.cron.<project>.<name>`, where the NATS schedule of a schedule or of a polling rule is stored."""
    return f"ocf.cron.{check_project(project)}.{name}"


def poll(project: str, rule: str) -> str:
    """Return `ocf.poll.<project>.<rule>`, on which the schedule of a polling rule ticks."""
    return f"ocf.poll.{check_project(project)}.{rule}"


def announcement(project: str, execution: str) -> str:
    """Return `ocf.gateway.submitted.<project>.<execution>`: a gateway tells the others of a submit (core NATS)."""
    return f"ocf.gateway.submitted.{check_project(project)}.{check_id(execution)}"


def project_name(text: str) -> str | None:
    """Return `text` if it is a valid project name, else None."""
    return text if _PROJECT.fullmatch(text) else None


def project_of(subject: str) -> str | None:
    """Return the project in the subject of a command or fact, or None."""
    match subject.split("."):
        case ["ocf", "cmd", _, project, _, *_] | ["ocf", "evt", project, _, _, *_] | ["ocf", "in" | "poll", project, _]:
            return project_name(project)
    return None


def redelivery_subject(fact_subject: str, consumer: str) -> str:
    """Return `ocf.evt.<project>.<entity>.<what>.again.<consumer>`, which redelivers a fact to one consumer only."""
    return f"{fact_subject}.again.{consumer}"


def base_subject(subject: str) -> str:
    """Return the subject without the suffix of `redelivery_subject`."""
    parts = subject.split(".")  # checks the position, because a project may be called `again`
    return ".".join(parts[:5]) if parts[1:2] == ["evt"] and parts[5:6] == ["again"] else subject


@dataclass(frozen=True)
class Parsed:
    """The parts of a subject. `verb` is the command's verb, the fact's last token, `output` or `fence`."""

    kind: str  # cmd | evt | out | live | in | poll
    project: str
    entity: str
    verb: str


def parse(subject: str) -> Parsed:
    """Split a subject of this module into its parts.

    Raises:
        InvalidEvent: The subject does not belong to this system.
    """
    match subject.split("."):
        case ["ocf", "cmd", verb, project, entity]:
            return Parsed("cmd", project, entity, verb)
        case ["ocf", "evt", project, entity, what]:
            return Parsed("evt", project, entity, what)
        case ["ocf", ("out" | "live") as kind, project, entity]:
            return Parsed(kind, project, entity, "output")
        case ["ocf", "out", project, entity, "fence"]:
            return Parsed("out", project, entity, "fence")
        case ["ocf", ("in" | "poll") as kind, project, source]:
            return Parsed(kind, project, source, "event")
    raise InvalidEvent(f"subject {subject[:120]!r} does not belong to this system")
