"""archive: store and verify the output and events of an ended execution in S3; the manifest completes the archive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from ocf.events import subjects
from ocf.events.archive_manifest import EVENTS, MANIFEST, manifest_form
from ocf.events.command_publisher import NATS_DELIVERIES, NATS_SEQUENCE
from ocf.events.envelope import Event, decode, parse, timestamp
from ocf.events.errors import DeadLetter, Drop, InvalidEvent, NotYetKnown, OcfError, Unavailable, Unreadable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import Archived, Artifact, Outcome, Rejected, SessionRejected
from ocf.events.input_manifest import INPUT, INPUT_CONVERSATION, ExecutionInput
from ocf.events.lifecycle import State
from ocf.events.ports import Bus, Clock, Message, ObjectStore
from ocf.functions.archive.output_archive import Written, write_output
from ocf.functions.archive.recording_join import delete_parts, join_recording
from ocf.functions.archive.scratch_folders import scratch
from ocf.functions.core.command_parsing import ids_of
from ocf.functions.core.execution_store import Records
from ocf.functions.core.object_deletion import delete_execution, read_input, stored_tree
from ocf.functions.recording.line_types import NAME

log = structlog.get_logger()

MANIFEST_VERSION = 1
#: A worker ends an execution only after all of its output is stored, so output missing this long after the end is lost.
MAX_WAIT = timedelta(minutes=10)
#: Deliveries after which a terminal fact whose archive fails unexpectedly becomes a dead letter.
MAX_TRIES = 30
_TYPES = {
    "output.ndjson.gz": "application/gzip",
    EVENTS: "application/x-ndjson",
    "workspace.patch": "text/x-patch",
    "workspace.tar.zst": "application/zstd",
    NAME: "application/zstd",
}


async def archive(event: Event, *, bus: Bus, store: ObjectStore, records: Records, clock: Clock) -> None:
    """Handle a terminal fact. A crash before the manifest leaves an incomplete archive, and causes a redelivery.

    Data that is missing `MAX_WAIT` after the end is lost; the archive then reports the gap.

    Raises:
        Unavailable: The output is incomplete in the stream, or an object in S3 is not as stored.
        Drop: The execution is archived already, or was deleted.
        DeadLetter: The archive failed repeatedly with an unexpected error.
    """
    try:
        await _archive(event, bus, store, records, clock)
    except (OcfError, OSError):
        raise
    except Exception as error:
        # A bug, or unexpected data: retry, but not for ever.
        if int(event.extensions.get(NATS_DELIVERIES, "1")) < MAX_TRIES:
            raise
        log.exception("execution not archived", action="archive.given_up")
        raise DeadLetter(f"archive failed {MAX_TRIES} times: {type(error).__name__}") from None


async def _archive(event: Event, bus: Bus, store: ObjectStore, records: Records, clock: Clock) -> None:
    outcome = parse(event)
    if isinstance(outcome, SessionRejected):
        raise Drop("a session has no archive")
    if isinstance(outcome, Rejected):
        outcome = Outcome(execution_id=outcome.execution_id, project_id=outcome.project_id, attempt=0, duration_ms=0)
    if not isinstance(outcome, Outcome):
        raise InvalidEvent(f"type: {event.type} is not a terminal fact")
    ref = ExecutionRef(*ids_of(event))
    record = await records.get(ref.project, ref.execution)
    if record is None:
        raise Drop(f"execution {ref.execution} was deleted")
    if event.type.endswith(".rejected.v1") and record.state is not State.REJECTED:
        raise Drop(f"a second submit of {ref.execution} was rejected, which does not end the first")
    if record.archived:
        # An earlier delivery may have failed between the change of the record and the fact.
        await delete_parts(store, ref)
        await _publish_archived(bus, records, event, ref, await store.get(ref.object_key(MANIFEST)))
        raise Drop(f"execution {ref.execution} is archived")
    late = clock.now() - event.time > MAX_WAIT
    found = await _objects(bus, store, clock, event, ref, outcome, late=late)
    manifest = _manifest(record, event, found, await _input(store, ref))
    await store.put(ref.object_key(MANIFEST), manifest, content_type="application/json")
    try:
        await records.change(ref.project, ref.execution, lambda newest: newest.model_copy(update={"archived": True}))
    except NotYetKnown:
        await delete_execution(store, ref)
        raise Drop(f"execution {ref.execution} was deleted") from None
    await delete_parts(store, ref)
    await _publish_archived(bus, records, event, ref, manifest)


async def _publish_archived(bus: Bus, records: Records, event: Event, ref: ExecutionRef, manifest: bytes) -> None:
    """Publish the fact `archived` from the manifest, once."""
    content = json.loads(manifest)
    fact = Archived(
        execution_id=content["execution_id"],
        project_id=content["project_id"],
        prefix=ref.prefix,
        objects=[Artifact.model_validate(each) for each in content["objects"]],
        chunks=content["chunks"]["count"],
    )
    await records.publish_fact("dev.ocf.task.archived.v1", fact, event, key=ref.message_id("archived"), once=True)
    if await records.get(ref.project, ref.execution) is None:  # deleted concurrently
        await bus.purge(subjects.EVENTS, ref.fact("archived"))


@dataclass(frozen=True)
class _Found:
    """Content of the manifest; `missing` has the objects of the terminal fact that S3 no longer has."""

    objects: list[Artifact]
    written: Written
    missing: list[str]


async def _objects(
    bus: Bus, store: ObjectStore, clock: Clock, event: Event, ref: ExecutionRef, outcome: Outcome, *, late: bool
) -> _Found:
    with scratch() as folder:
        output = folder / "output.ndjson.gz"
        written = await write_output(bus, clock, ref, outcome.last_sequence, output, gaps=late)
        lines = folder / EVENTS
        await _write_events(bus, ref, event, lines, late=late)
        recording = await join_recording(store, ref, outcome.usage.requests, folder / NAME)
        objects = [await _put(store, ref.prefix, path) for path in (output, lines, *recording)]
    missing = []
    for artifact in outcome.objects:
        try:
            objects.append(await _verified(store, ref.prefix, artifact))
        except Unavailable:
            if not late:
                raise
            await store.ready()  # raises if S3 is unavailable; otherwise the object is missing
            missing.append(artifact.name)
    known = {artifact.name for artifact in objects}
    objects += await _unreported(store, ref.prefix, known, (INPUT, INPUT_CONVERSATION) if outcome.objects else None)
    if written.missing or missing:
        log.warning("archived with gaps", action="archive.gaps", chunks=written.missing, objects=missing)
    return _Found(objects, written, missing)


async def _input(store: ObjectStore, ref: ExecutionRef) -> ExecutionInput | None:
    """Return what the execution began from, and whether its files are still there."""
    try:
        found = await read_input(store, ref)
    except Unreadable:
        return None
    if found is None or found.tree is None or await stored_tree(store, ref.project, found) is not None:
        return found
    return found.model_copy(update={"missing": "the files could not be stored"})


async def _unreported(
    store: ObjectStore, prefix: str, known: set[str], wanted: tuple[str, ...] | None
) -> list[Artifact]:
    """Return the objects that the terminal fact does not name: the input, and those of a worker that was lost."""
    names = wanted or [info.key.removeprefix(f"{prefix}/") async for info in store.list(f"{prefix}/")]
    found = []
    for name in names:
        if name in known or name == MANIFEST or "/" in name:  # `data/` has the large commands
            continue
        info = await store.head(f"{prefix}/{name}")
        if info is not None:
            found.append(Artifact(name=name, size=info.size, sha256=info.sha256 or ""))
    return found


async def _put(store: ObjectStore, prefix: str, path: Path) -> Artifact:
    info = await store.put_file(f"{prefix}/{path.name}", path, content_type=_TYPES[path.name])
    artifact = Artifact(name=path.name, size=path.stat().st_size, sha256=info.sha256 or "")
    return await _verified(store, prefix, artifact)


async def _verified(store: ObjectStore, prefix: str, artifact: Artifact) -> Artifact:
    """Return `artifact` if S3 has it with the same size and digest. Raises Unavailable otherwise."""
    stored = await store.head(f"{prefix}/{artifact.name}")
    if stored is None or stored.size != artifact.size or stored.sha256 != artifact.sha256:
        raise Unavailable(f"{prefix}/{artifact.name} in S3 is missing or differs from what was stored")
    return artifact


async def _write_events(bus: Bus, ref: ExecutionRef, ending: Event, path: Path, *, late: bool) -> None:
    """Write all commands and facts of the execution in stream order, as lines of CloudEvents JSON.

    Raises:
        Unavailable: The delivered terminal fact is not among them, because a lagging replica of the stream was read.
    """
    delivered = int(ending.extensions.get(NATS_SEQUENCE, "0"))
    newest = await bus.last(subjects.EVENTS, ref.fact(">")) if late else None
    seen = not delivered or (late and (newest is None or newest.sequence < delivered))
    with path.open("wb") as file:
        async for message in _merged(bus, ref):
            seen = seen or message.sequence == delivered
            # Skip redriven dead letters, which repeat a fact for one consumer.
            if message.subject == subjects.base_subject(message.subject):
                await asyncio.to_thread(file.write, _line(message))
    if not seen:
        raise Unavailable(f"the terminal fact of {ref} cannot be read yet")


async def _merged(bus: Bus, ref: ExecutionRef) -> AsyncIterator[Message]:
    """Yield the messages of both streams in the order of their times, with one batch of each in memory."""
    sources = [
        bus.history(subjects.COMMANDS, ref.command("*")),
        bus.history(subjects.EVENTS, ref.fact(">")),
    ]
    heads = [await anext(source, None) for source in sources]
    while any(head is not None for head in heads):
        at = min((i for i, head in enumerate(heads) if head is not None), key=lambda i: _when(heads[i]))
        message = heads[at]
        assert message is not None
        yield message
        heads[at] = await anext(sources[at], None)


def _when(message: Message | None) -> datetime:
    found = message.time if message is not None else None
    return found if found is not None else datetime.max.replace(tzinfo=UTC)


def _line(message: Message) -> bytes:
    try:
        return decode(message.headers, message.data).line() + b"\n"
    except (InvalidEvent, ValueError):
        # An invalid event became a dead letter; the archive has its raw form, so that it is complete.
        raw = {"subject": message.subject, "raw": message.data.decode("utf-8", "replace")}
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _manifest(record: Record, event: Event, found: _Found, given: ExecutionInput | None) -> bytes:
    written = found.written
    content = {
        "version": MANIFEST_VERSION,
        "project_id": record.project_id,
        "execution_id": record.execution_id,
        "state": record.state.value,
        "reason": record.reason,
        "terminal_event": event.id,
        "submitted_at": timestamp(record.submitted_at),
        "started_at": timestamp(record.started_at) if record.started_at else None,
        "ended_at": timestamp(record.ended_at) if record.ended_at else None,
        "chunks": {"count": written.count, "first": written.first, "last": written.last, "missing": written.missing},
        "objects": [artifact.model_dump() for artifact in found.objects],
        "missing": found.missing,
        "input": None if given is None else given.model_dump(mode="json", exclude_none=True),
        "record": manifest_form(record),
    }
    return json.dumps(content, indent=2).encode()
