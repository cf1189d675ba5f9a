"""Client for backends. It publishes commands, and reads records, events and output.

async with connect("nats://127.0.0.1:4222", creds="backend.creds") as client:
    execution = await client.submit(prompt="Fix the failing test", workspace={"source": "git", "url": URL})
    async for chunk in client.watch(execution):
        print(chunk.data, end="")
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from ocf.events import dataref, reorder, subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import connect as connect_bus
from ocf.events.archive_manifest import archived_record
from ocf.events.base_model import Model
from ocf.events.client.following import chunk_of, watch
from ocf.events.client.nats_sessions import SessionCalls
from ocf.events.command_payloads import Cancel, Cleanup, Reply, Submit
from ocf.events.command_publisher import publish_command
from ocf.events.envelope import Event, decode, new_event
from ocf.events.errors import InvalidEvent, NotYetKnown, OcfError
from ocf.events.event_types import TERMINAL_TYPES
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.gzip_ndjson import DamagedArchive, read_lines
from ocf.events.output import Chunk
from ocf.events.ports import Bucket, Bus, Message, ObjectStore

log = structlog.get_logger()

_Records = list[Record]
_Events = list[Event]
_ENDINGS = {*(spec.verb for spec in TERMINAL_TYPES.values()), "cleaned"}


class OnlyInArchive(NotYetKnown):
    """The execution has left NATS, and the client has no store to read its archive."""


@asynccontextmanager
async def connect(
    url: str, *, creds: str | Path | None = None, project: str = "default", store: ObjectStore | None = None
) -> AsyncIterator[Client]:
    """Connect to NATS and yield a client of one project; close the connection at the end.

    Raises:
        Unavailable: NATS does not answer.
    """
    bus = await connect_bus(url, creds=Path(creds) if creds else None, name="ocf-client")
    try:
        sessions = NatsBucket(bus, subjects.SESSIONS_BUCKET)
        yield Client(bus, NatsBucket(bus, subjects.EXECUTIONS_BUCKET), sessions, project=project, store=store)
    finally:
        await bus.close()


class Client:
    """Commands and queries for the executions of one project.

    `store` is needed only for commands of more than 512 KiB and for output that only the archive still has.
    """

    def __init__(
        self,
        bus: Bus,
        executions: Bucket,
        sessions: Bucket,
        *,
        project: str = "default",
        store: ObjectStore | None = None,
        source: str = "/ocf/client",
    ) -> None:
        self.project = subjects.check_project(project)
        self._bus = bus
        self._executions = executions
        self._store = store
        self._source = source
        self.sessions = SessionCalls(project, sessions, self._command, source)

    async def submit(self, *, execution_id: str | None = None, traceparent: str | None = None, **request: Any) -> str:
        """Publish `dev.ocf.task.submit.v1`; the fields are those of `ocf.events.command_payloads.TaskRequest`.

        Returns:
            The execution id, once the command is stored. The same id with the same body is one execution.

        Raises:
            pydantic.ValidationError: A field is invalid.
            Unavailable: NATS did not store the command.
        """
        execution = execution_id or str(uuid.uuid4())
        data = Submit.model_validate({**request, "execution_id": execution, "project_id": self.project})
        extensions = {"traceparent": traceparent} if traceparent else {}
        await self._command("dev.ocf.task.submit.v1", data, execution, extensions)
        return execution

    async def cancel(self, execution: str, *, why: str | None = None) -> None:
        """Publish `dev.ocf.task.cancel.v1`."""
        data = Cancel(execution_id=execution, project_id=self.project, why=why, requested_by=self._source)
        await self._command("dev.ocf.task.cancel.v1", data, execution)

    async def delete(self, execution: str) -> None:
        """Publish `dev.ocf.task.cleanup.v1`: cancel the execution if it runs, then remove every trace."""
        data = Cleanup(execution_id=execution, project_id=self.project, requested_by=self._source)
        await self._command("dev.ocf.task.cleanup.v1", data, execution)

    async def reply(self, execution: str, request_id: str, answer: str) -> None:
        """Publish `dev.ocf.task.reply.v1`."""
        data = Reply(execution_id=execution, project_id=self.project, request_id=request_id, answer=answer)
        await self._command("dev.ocf.task.reply.v1", data, execution)

    async def _command(self, type_: str, data: Model, id_: str, extensions: Mapping[str, str] | None = None) -> None:
        """Publish one command about the execution or session `id_`."""
        event = new_event(type_, data, source=self._source, time=datetime.now(UTC))
        event = event.with_extensions(**(extensions or {}))
        if self._store is not None:
            event = await dataref.offload(event, f"{self.project}/{id_}", self._store)
        await publish_command(self._bus, event, self.project)

    async def status(self, execution: str) -> Record:
        """Return the record of an execution, which has everything except its output. Raises NotYetKnown."""
        ref = ExecutionRef(self.project, execution)
        entry = await self._executions.get(ref.record_key)
        if entry is not None:
            return Record.read(entry.value)
        if self._store is None and await self._executions.get(ref.ended_key) is not None:
            raise OnlyInArchive(f"execution {execution} is only in the archive; give the client a store")
        # An ended execution leaves the bucket.
        record = await archived_record(self._store, ref) if self._store is not None else None
        if record is None:
            raise NotYetKnown(f"execution {execution} of project {self.project} is not known")
        return record

    async def list(self) -> _Records:
        """Return all readable execution records of the project, newest first."""
        found = []
        async for entry in self._executions.entries(f"{self.project}.*"):
            try:
                found.append(Record.read(entry.value))
            except ValueError:
                log.warning("unreadable record", action="client.unreadable", key=entry.key)
        return sorted(found, key=lambda record: record.submitted_at, reverse=True)

    async def watch(self, execution: str, *, start: int = 1) -> AsyncIterator[Chunk]:
        """Yield output chunks from sequence `start`, live, in order, each once; stop at the end of the execution.

        Waits for an execution that does not exist yet. Reads an ended execution to its end, from the archive where the
        stream no longer has the output. Stops when the execution is deleted. A chunk of type `gap` stands for chunks
        that neither has; its detail names `from` and `to`.

        Raises:
            NotYetKnown: The output is only in the archive, and the client has no store.
            Unavailable: The connection was lost and did not come back in time; resume at the next sequence.
        """
        ending = _RecordEnd(self, execution)
        await ending.refresh()
        expired = ending.last is not None and start <= ending.last and not await self._stream_has(execution, start)
        if expired and self._store is None:
            raise OnlyInArchive(f"output of {execution} from {start} is only in the archive; give the client a store")
        async for line in watch(self._bus, self.project, execution, start=start, ending=ending, expired=expired):
            yield chunk_of(line)

    async def _stream_has(self, execution: str, start: int) -> bool:
        """Return whether the output in the stream begins at or before `start`."""
        found = await self._bus.first(subjects.OUTPUT, subjects.output(self.project, execution))
        line = None if found is None else reorder.line_in(found)
        return line is not None and line.seq <= start

    async def _cleaned(self, execution: str) -> bool:
        return await self._bus.last(subjects.EVENTS, subjects.fact(self.project, execution, "cleaned")) is not None

    async def _archived(self, execution: str, start: int) -> AsyncIterator[reorder.Line]:
        """Yield the archived lines from `start` on, including a gap that reaches beyond `start`.

        Raises:
            NotYetKnown: There is no archive, or the client has no store.
            OcfError: The archive is damaged, or exceeds `ocf.events.untrusted_json.ARCHIVE`.
        """
        if self._store is None:
            raise NotYetKnown(f"output of {execution}: the client has no store")
        try:
            async for data in read_lines(self._store.stream(f"{self.project}/{execution}/output.ndjson.gz")):
                line = reorder.line_of(data)
                if line.last >= start:
                    yield line
        except (DamagedArchive, ValueError, KeyError, TypeError) as error:
            reason = error if isinstance(error, DamagedArchive) else "a line is not a chunk"
            raise OcfError(f"the archived output of {execution} is damaged: {reason}") from None

    async def events(self, execution: str) -> _Events:
        """Return all commands and facts of an execution that the streams still have, oldest first."""
        found = []
        for stream, subject in (
            (subjects.COMMANDS, f"ocf.cmd.*.{self.project}.{execution}"),
            (subjects.EVENTS, f"ocf.evt.{self.project}.{execution}.*"),
        ):
            found += [message async for message in self._bus.history(stream, subject)]
        found.sort(key=lambda message: (message.time is None, message.time))
        events = []
        for message in found:
            with suppress(InvalidEvent):  # its dead letter has the reason
                events.append(decode(message.headers, message.data))
        return events


class _RecordEnd:
    """The end of an execution by its record. See `ocf.events.client.following.EndCondition`."""

    def __init__(self, client: Client, execution: str) -> None:
        self._client = client
        self._execution = execution
        self._removed = False
        self.last: int | None = None

    async def refresh(self) -> None:
        """Read the record; without one, check whether the execution was deleted.

        Raises:
            OnlyInArchive: It ended before the watcher knew its end.
        """
        try:
            record = await self._client.status(self._execution)
        except NotYetKnown as error:
            self._removed = await self._client._cleaned(self._execution)
            if isinstance(error, OnlyInArchive) and not self._removed and self.last is None:
                raise
        else:
            self.last = record.last_sequence if record.terminal else None

    def reached(self, next_sequence: int) -> bool:
        return self._removed or (self.last is not None and next_sequence > self.last)

    async def on_fact(self, message: Message) -> None:
        # Use the record, not the fact: `rejected` may also answer a second submit with the id of a running execution.
        if message.subject.rsplit(".", 1)[-1] in _ENDINGS:
            await self.refresh()

    async def archived(self, start: int) -> AsyncIterator[reorder.Line]:
        with suppress(NotYetKnown):  # no archive, or no store: the watcher reports a gap
            async for line in self._client._archived(self._execution, start):
                yield line
