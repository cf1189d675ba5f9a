"""archive: when an execution has ended, put all that was said of it in S3, verified; the manifest is the claim."""

from __future__ import annotations

import json
from pathlib import Path

from events import subjects
from events.envelope import Event, decode, parse, timestamp
from events.errors import Drop, InvalidEvent, NotYetKnown, Unavailable
from events.facts import Archived, Artifact, Outcome
from events.ports import Message
from events.record import Record
from events.refs import ExecutionRef
from functions.archive.output import write_output
from functions.archive.scratch import scratch
from functions.common.commands import NATS_SEQUENCE, ids_of
from functions.common.objects import delete_execution
from functions.composition import Parts

MANIFEST_VERSION = 1
MANIFEST = "manifest.json"
_TYPES = {
    "output.ndjson.gz": "application/gzip",
    "events.ndjson": "application/x-ndjson",
    "workspace.patch": "text/x-patch",
    "workspace.tar.zst": "application/zstd",
}


async def archive(parts: Parts, event: Event) -> None:
    """Take a terminal fact. A crash before the manifest leaves objects that nobody claims, and this comes again.

    Raises:
        Unavailable: output is not complete in the stream yet, or S3 does not hold what was put.
        Drop: archived already, or deleted meanwhile.
    """
    outcome = parse(event)
    if not isinstance(outcome, Outcome):
        raise InvalidEvent(f"type: {event.type} does not end an execution")
    project, execution = ids_of(event)
    record = await parts.records.get(project, execution)
    if record is None:
        raise Drop(f"execution {execution} was deleted")
    prefix = f"{project}/{execution}"
    if record.archived:
        # An earlier delivery may have broken off after the record said so, and before the fact did.
        await _say(parts, event, prefix, await parts.store.get(f"{prefix}/{MANIFEST}"))
        raise Drop(f"execution {execution} is archived")
    objects, chunks, first, last = await _objects(parts, event, record, outcome)
    manifest = _manifest(record, event, objects, {"count": chunks, "first": first, "last": last})
    await parts.store.put(f"{prefix}/{MANIFEST}", manifest, content_type="application/json")
    try:
        await parts.records.change(project, execution, lambda newest: newest.model_copy(update={"archived": True}))
    except NotYetKnown:
        await delete_execution(parts.store, ExecutionRef(project, execution))
        raise Drop(f"execution {execution} was deleted") from None
    await _say(parts, event, prefix, manifest)


async def _say(parts: Parts, event: Event, prefix: str, manifest: bytes) -> None:
    """Say what the manifest claims, once for ever."""
    claimed = json.loads(manifest)
    fact = Archived(
        execution_id=claimed["execution_id"],
        project_id=claimed["project_id"],
        prefix=prefix,
        objects=[Artifact.model_validate(each) for each in claimed["objects"]],
        chunks=claimed["chunks"]["count"],
    )
    key = f"archived:{fact.execution_id}"
    await parts.records.say("dev.ocf.task.archived.v1", fact, event, key=key, once=True)
    if await parts.records.get(fact.project_id, fact.execution_id) is None:  # deleted in this moment
        await parts.bus.purge(subjects.EVENTS, subjects.fact(fact.project_id, fact.execution_id, "archived"))


async def _objects(
    parts: Parts, event: Event, record: Record, outcome: Outcome
) -> tuple[list[Artifact], int, str | None, str | None]:
    project, execution = record.project_id, record.execution_id
    prefix = f"{project}/{execution}"
    with scratch() as folder:
        output = folder / "output.ndjson.gz"
        written = await write_output(parts, project, execution, outcome.last_sequence, output)
        lines = folder / "events.ndjson"
        lines.write_bytes(await _events(parts, project, execution, event))
        objects = [await _put(parts, prefix, path) for path in (output, lines)]
    objects += [await _verified(parts, prefix, artifact) for artifact in outcome.artifacts]
    if not outcome.artifacts:
        objects += await _unclaimed(parts, prefix, {artifact.name for artifact in objects})
    return objects, written.count, written.first, written.last


async def _unclaimed(parts: Parts, prefix: str, known: set[str]) -> list[Artifact]:
    """What a worker stored that could not say its end any more: its workspace is worth as much as another's."""
    names = [info.key.removeprefix(f"{prefix}/") async for info in parts.store.list(f"{prefix}/")]
    found = []
    for name in names:
        if name in known or name == MANIFEST or "/" in name:  # below `data/` lie large commands
            continue
        info = await parts.store.head(f"{prefix}/{name}")
        if info is not None:
            found.append(Artifact(name=name, size=info.size, sha256=info.sha256 or ""))
    return found


async def _put(parts: Parts, prefix: str, path: Path) -> Artifact:
    info = await parts.store.put_file(f"{prefix}/{path.name}", path, content_type=_TYPES[path.name])
    artifact = Artifact(name=path.name, size=path.stat().st_size, sha256=info.sha256 or "")
    return await _verified(parts, prefix, artifact)


async def _verified(parts: Parts, prefix: str, artifact: Artifact) -> Artifact:
    """The artifact, when S3 holds it with that size and digest."""
    stored = await parts.store.head(f"{prefix}/{artifact.name}")
    if stored is None or stored.size != artifact.size or stored.sha256 != artifact.sha256:
        raise Unavailable(f"{prefix}/{artifact.name} is not in S3 as it was put")
    return artifact


async def _events(parts: Parts, project: str, execution: str, ending: Event) -> bytes:
    """Every command and fact of the execution, in the order the bus got them, as CloudEvents JSON lines.

    Raises:
        Unavailable: the ending, which was delivered, is not among them: a copy of the stream that lags was read.
    """
    messages: list[Message] = []
    for stream, subject in (
        (subjects.COMMANDS, f"ocf.cmd.*.{project}.{execution}"),
        (subjects.EVENTS, f"ocf.evt.{project}.{execution}.>"),
    ):
        messages += [message async for message in parts.bus.history(stream, subject)]
    delivered = ending.extensions.get(NATS_SEQUENCE)
    if delivered is not None and not any(message.sequence == int(delivered) for message in messages):
        raise Unavailable(f"the end of {execution} cannot be read yet")
    # What was given once more to one consumer (a redriven dead letter) did not happen twice.
    messages = [message for message in messages if message.subject == subjects.first(message.subject)]
    messages.sort(key=lambda message: (message.time is None, message.time))
    return b"".join(_line(message) for message in messages)


def _line(message: Message) -> bytes:
    try:
        return decode(message.headers, message.data).line() + b"\n"
    except (InvalidEvent, ValueError):
        # What is not an event was dead-lettered; here it is kept as it came, so that nothing is missing.
        raw = {"subject": message.subject, "raw": message.data.decode("utf-8", "replace")}
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _manifest(record: Record, event: Event, objects: list[Artifact], chunks: dict[str, object]) -> bytes:
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
        "chunks": chunks,
        "objects": [artifact.model_dump() for artifact in objects],
        "record": json.loads(record.model_dump_json(exclude_defaults=True, exclude={"outbox"})),
    }
    return json.dumps(content, indent=2).encode()
