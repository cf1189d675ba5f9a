"""What is left of a run, read from streams, buckets and S3 alone; the checker sees nothing else of the system."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from faults.history_rows import Rows
from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.adapters.s3 import S3Store
from ocf.events.envelope import decode
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.session_record import Session

_AT_ONCE = 8


@dataclass(frozen=True)
class Fact:
    """A command or a fact: the last word of its subject for facts, the verb for commands."""

    what: str
    id: str
    data: Mapping[str, Any]
    #: When the server kept it, Unix seconds: one clock for all, however the functions' clocks stand.
    at: float = 0.0


@dataclass
class Story:
    """Everything that is left of one execution. `output` is in the order of the stream."""

    project: str
    execution: str
    commands: list[Fact] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    output: list[Mapping[str, Any]] = field(default_factory=list)
    #: When the server first kept the chunk of each sequence, Unix seconds.
    kept_at: dict[int, float] = field(default_factory=dict)
    fences: int = 0
    record: Mapping[str, Any] | None = None
    lease: bool = False
    #: Objects below its prefix in S3.
    objects: dict[str, bytes] = field(default_factory=dict)

    def first(self, what: str) -> Fact | None:
        """The first fact of that name."""
        return next((fact for fact in self.facts if fact.what == what), None)

    def newest_attempt(self) -> list[Mapping[str, Any]]:
        """The chunks of the newest attempt that said something: each once, in the order of their numbers."""
        said = {chunk["seq"]: chunk for chunk in reversed(self.output)}
        newest = max((chunk.get("attempt", 1) for chunk in said.values()), default=1)
        return [said[number] for number in sorted(said) if said[number].get("attempt", 1) == newest]


@dataclass
class SessionStory:
    """Everything that is left of one session: last words of the types of its commands and facts, record, objects."""

    project: str
    session: str
    commands: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    record: Mapping[str, Any] | None = None
    objects: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Letter:
    """A dead letter: where it came in, and why it is one."""

    consumer: str
    subject: str
    reason: str


@dataclass
class History:
    """All of it."""

    stories: dict[str, Story] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    sessions: dict[str, SessionStory] = field(default_factory=dict)
    #: Rows of the database, and those of a rebuild.
    rows: Rows = field(default_factory=dict)
    rebuilt: Rows = field(default_factory=dict)

    def story(self, project: str, execution: str) -> Story:
        """The story of one execution, begun where there is none."""
        return self.stories.setdefault(f"{project}/{execution}", Story(project, execution))

    def session(self, project: str, session: str) -> SessionStory:
        """The same of a session."""
        return self.sessions.setdefault(f"{project}/{session}", SessionStory(project, session))


async def read(bus: NatsBus, store: S3Store) -> History:
    """Read every project's history.

    Raises:
        Unavailable: NATS or S3 does not answer.
    """
    history = History()
    for stream, pattern in ((subjects.COMMANDS, "ocf.cmd.>"), (subjects.EVENTS, "ocf.evt.>")):
        async for message in bus.history(stream, pattern):
            parsed = subjects.parse(message.subject)
            if parsed.project == subjects.SYSTEM_PROJECT:
                continue
            try:
                event = decode(message.headers, message.data)
                name, about = event.id, event.type
                data = json.loads(event.data) if event.data else {}  # too large for a message: it lies in S3
            except (InvalidEvent, ValueError):
                data, name, about = {}, "", ""  # poison: the dispatcher's dead letter says what was wrong with it
            if about.startswith("dev.ocf.session."):
                session = history.session(parsed.project, parsed.entity)
                (session.commands if parsed.kind == "cmd" else session.facts).append(about.split(".")[3])
                continue
            story = history.story(parsed.project, parsed.entity)
            kept = story.commands if parsed.kind == "cmd" else story.facts
            kept.append(Fact(parsed.verb, name, data, message.time.timestamp() if message.time else 0.0))
    async for message in bus.history(subjects.OUTPUT, "ocf.out.>"):
        parsed = subjects.parse(message.subject)
        story = history.story(parsed.project, parsed.entity)
        if parsed.verb == "fence":
            story.fences += 1
        else:
            story.output.append(json.loads(message.data))
            story.kept_at.setdefault(story.output[-1]["seq"], message.time.timestamp() if message.time else 0.0)
    async for entry in NatsBucket(bus, subjects.EXECUTIONS_BUCKET).entries():
        project, execution, *lease = entry.key.split(".")
        story = history.story(project, execution)
        if lease:
            story.lease = True
        else:
            story.record = json.loads(entry.value)
    async for entry in NatsBucket(bus, subjects.SESSIONS_BUCKET).entries():
        # What is as it is by default is not written out.
        history.session(*entry.key.split(".")).record = Session.read(entry.value).model_dump(mode="json")
    async for message in bus.history(subjects.DLQ, "ocf.dlq.>"):
        said = {name: message.headers.get(f"Ocf-Dlq-{name}", "") for name in ("Consumer", "Subject", "Reason")}
        history.letters.append(Letter(said["Consumer"], said["Subject"], unquote(said["Reason"])))
    await _objects(store, history)
    return history


async def _objects(store: S3Store, history: History) -> None:
    keys = [info.key async for info in store.list("")]
    gate = asyncio.Semaphore(_AT_ONCE)

    async def fetch(key: str) -> None:
        async with gate:
            try:
                content = await store.get(key)
            except NotYetKnown:
                return  # deleted since it was listed
        project, _, rest = key.partition("/")
        entity, _, name = rest.partition("/")
        if entity == "inputs":
            return  # of several executions
        if entity == "sessions":
            entity, _, name = name.partition("/")
            history.session(project, entity).objects[name] = content
        else:
            history.story(project, entity).objects[name] = content

    await asyncio.gather(*map(fetch, keys))
