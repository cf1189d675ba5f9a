"""archive: when an execution has ended, put all that was said of it in S3, verified; the manifest is the claim."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from ocf.events import subjects
from ocf.events.delivery import NATS_DELIVERIES, NATS_SEQUENCE
from ocf.events.envelope import Event, decode, parse, timestamp
from ocf.events.errors import DeadLetter, Drop, InvalidEvent, NotYetKnown, OcfError, Unavailable
from ocf.events.execution_record import Record
from ocf.events.facts import Archived, Artifact, Outcome
from ocf.events.ports import Message
from ocf.events.refs import ExecutionRef
from ocf.functions.archive.output_archive import Written, write_output
from ocf.functions.archive.scratch_folders import scratch
from ocf.functions.core.command_events import ids_of
from ocf.functions.core.stored_objects import delete_execution
from ocf.functions.runtime.bootstrap import Dependencies

log = structlog.get_logger()

MANIFEST_VERSION = 1
#: A worker ends only when all of its output is kept, so what is missing so long after the end is lost.
MAX_WAIT = timedelta(minutes=10)
#: Deliveries after which an end whose archive fails for a reason nobody foresaw becomes a dead letter.
MAX_TRIES = 30
MANIFEST = "manifest.json"
_TYPES = {
    "output.ndjson.gz": "application/gzip",
    "events.ndjson": "application/x-ndjson",
    "workspace.patch": "text/x-patch",
    "workspace.tar.zst": "application/zstd",
}


async def archive(deps: Dependencies, event: Event) -> None:
    """Take a terminal fact. A crash before the manifest leaves objects that nobody claims, and this comes again.

    What is still missing `MAX_WAIT` after the end will not come: it is archived with that stated.

    Raises:
        Unavailable: output is not complete in the stream yet, or S3 does not hold what was put.
        Drop: archived already, or deleted meanwhile.
        DeadLetter: it fails again and again for a reason that is its own.
    """
    try:
        await _archive(deps, event)
    except (OcfError, OSError):
        raise
    except Exception as error:
        # Our own mistake, or a record that nobody foresaw: it is retried, and must not be for ever.
        if int(event.extensions.get(NATS_DELIVERIES, "1")) < MAX_TRIES:
            raise
        log.exception("end not archived", action="archive.given_up")
        raise DeadLetter(f"archive failed {MAX_TRIES} times: {type(error).__name__}") from None


async def _archive(deps: Dependencies, event: Event) -> None:
    outcome = parse(event)
    if not isinstance(outcome, Outcome):
        raise InvalidEvent(f"type: {event.type} does not end an execution")
    ref = ExecutionRef(*ids_of(event))
    record = await deps.records.get(ref.project, ref.execution)
    if record is None:
        raise Drop(f"execution {ref.execution} was deleted")
    if record.archived:
        # An earlier delivery may have broken off after the record said so, and before the fact did.
        await _publish_archived(deps, event, ref, await deps.store.get(ref.object_key(MANIFEST)))
        raise Drop(f"execution {ref.execution} is archived")
    late = deps.clock.now() - event.time > MAX_WAIT
    found = await _objects(deps, event, ref, outcome, late=late)
    manifest = _manifest(record, event, found)
    await deps.store.put(ref.object_key(MANIFEST), manifest, content_type="application/json")
    try:
        await deps.records.change(
            ref.project, ref.execution, lambda newest: newest.model_copy(update={"archived": True})
        )
    except NotYetKnown:
        await delete_execution(deps.store, ref)
        raise Drop(f"execution {ref.execution} was deleted") from None
    await _publish_archived(deps, event, ref, manifest)


async def _publish_archived(deps: Dependencies, event: Event, ref: ExecutionRef, manifest: bytes) -> None:
    """Say what the manifest claims, once for ever."""
    claimed = json.loads(manifest)
    fact = Archived(
        execution_id=claimed["execution_id"],
        project_id=claimed["project_id"],
        prefix=ref.prefix,
        objects=[Artifact.model_validate(each) for each in claimed["objects"]],
        chunks=claimed["chunks"]["count"],
    )
    await deps.records.publish_fact("dev.ocf.task.archived.v1", fact, event, key=ref.message_id("archived"), once=True)
    if await deps.records.get(ref.project, ref.execution) is None:  # deleted in this moment
        await deps.bus.purge(subjects.EVENTS, ref.fact("archived"))


@dataclass(frozen=True)
class _Found:
    """What the manifest claims; `missing` names objects that an end names and S3 does not have any more."""

    objects: list[Artifact]
    written: Written
    missing: list[str]


async def _objects(deps: Dependencies, event: Event, ref: ExecutionRef, outcome: Outcome, *, late: bool) -> _Found:
    with scratch() as folder:
        output = folder / "output.ndjson.gz"
        written = await write_output(deps, ref, outcome.last_sequence, output, gaps=late)
        lines = folder / "events.ndjson"
        await _write_events(deps, ref, event, lines, late=late)
        objects = [await _put(deps, ref.prefix, path) for path in (output, lines)]
    missing = []
    for artifact in outcome.objects:
        try:
            objects.append(await _verified(deps, ref.prefix, artifact))
        except Unavailable:
            if not late:
                raise
            await deps.store.ready()  # else it is not the object that is away
            missing.append(artifact.name)
    if not outcome.objects:
        objects += await _unclaimed(deps, ref.prefix, {artifact.name for artifact in objects})
    if written.missing or missing:
        log.warning("archived with gaps", action="archive.gaps", chunks=written.missing, objects=missing)
    return _Found(objects, written, missing)


async def _unclaimed(deps: Dependencies, prefix: str, known: set[str]) -> list[Artifact]:
    """What a worker stored that could not say its end any more: its workspace is worth as much as another's."""
    names = [info.key.removeprefix(f"{prefix}/") async for info in deps.store.list(f"{prefix}/")]
    found = []
    for name in names:
        if name in known or name == MANIFEST or "/" in name:  # below `data/` lie large commands
            continue
        info = await deps.store.head(f"{prefix}/{name}")
        if info is not None:
            found.append(Artifact(name=name, size=info.size, sha256=info.sha256 or ""))
    return found


async def _put(deps: Dependencies, prefix: str, path: Path) -> Artifact:
    info = await deps.store.put_file(f"{prefix}/{path.name}", path, content_type=_TYPES[path.name])
    artifact = Artifact(name=path.name, size=path.stat().st_size, sha256=info.sha256 or "")
    return await _verified(deps, prefix, artifact)


async def _verified(deps: Dependencies, prefix: str, artifact: Artifact) -> Artifact:
    """The artifact, when S3 holds it with that size and digest."""
    stored = await deps.store.head(f"{prefix}/{artifact.name}")
    if stored is None or stored.size != artifact.size or stored.sha256 != artifact.sha256:
        raise Unavailable(f"{prefix}/{artifact.name} is not in S3 as it was put")
    return artifact


async def _write_events(deps: Dependencies, ref: ExecutionRef, ending: Event, path: Path, *, late: bool) -> None:
    """Write every command and fact of the execution, in the order the bus got them, as CloudEvents JSON lines.

    Raises:
        Unavailable: the ending, which was delivered, is not among them: a copy of the stream that lags was read.
    """
    delivered = int(ending.extensions.get(NATS_SEQUENCE, "0"))
    seen = not delivered or late
    with path.open("wb") as file:
        async for message in _merged(deps, ref):
            seen = seen or message.sequence == delivered
            # What was given once more to one consumer (a redriven dead letter) did not happen twice.
            if message.subject == subjects.base_subject(message.subject):
                await asyncio.to_thread(file.write, _line(message))
    if not seen:
        raise Unavailable(f"the end of {ref} cannot be read yet")


async def _merged(deps: Dependencies, ref: ExecutionRef) -> AsyncIterator[Message]:
    """Messages of both streams by their times, one batch of each in memory."""
    sources = [
        deps.bus.history(subjects.COMMANDS, ref.command("*")),
        deps.bus.history(subjects.EVENTS, ref.fact(">")),
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
        # What is not an event was dead-lettered; here it is kept as it came, so that nothing is missing.
        raw = {"subject": message.subject, "raw": message.data.decode("utf-8", "replace")}
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _manifest(record: Record, event: Event, found: _Found) -> bytes:
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
        "record": json.loads(record.model_dump_json(exclude_defaults=True, exclude={"outbox"})),
    }
    return json.dumps(content, indent=2).encode()
