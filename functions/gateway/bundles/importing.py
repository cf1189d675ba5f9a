"""Import of a bundle, which may come from a stranger: everything is checked before anything is stored."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import tarfile
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from ocf.events.archive_manifest import EVENTS, MANIFEST
from ocf.events.errors import InvalidEvent
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.input_manifest import INPUT, INPUT_CONVERSATION, TREE_BYTES, ExecutionInput
from ocf.events.output import Chunk, Usage
from ocf.events.ports import ObjectStore
from ocf.events.untrusted_json import ARCHIVE_LINE, EVENT, MIB, STORED_CONVERSATION, JsonLimit, parse_json
from ocf.functions.core.object_deletion import delete_execution, input_key, input_user
from ocf.functions.database.store import History
from ocf.functions.gateway.bundles.tar_format import (
    INDEX,
    INDEX_BYTES,
    LIMITS,
    OUTPUT,
    TREE,
    BadBundle,
    Index,
    read_index,
)
from ocf.functions.recording import recorded_calls_reader
from ocf.functions.recording.line_types import NAME as RECORDING
from ocf.functions.workspace import InvalidWorkspace, Limits, tree_digest
from ocf.functions.workspace.archive_reading import ExactReader, next_header, unpack_tree
from ocf.functions.workspace.safe_tree import remove_tree
from ocf.functions.workspace.threads import in_thread

_PIECE = MIB
#: Bytes of an output, inflated, and lines of events.
_OUTPUT_BYTES, _EVENTS = 256 * MIB, 10_000
_MANIFEST = JsonLimit(bytes=LIMITS[MANIFEST], depth=40, values=100_000)
_EVENT = JsonLimit(bytes=2 * EVENT.bytes, depth=EVENT.depth + 2, values=EVENT.values + 100)
_TREE = Limits(max_bytes=TREE_BYTES, max_entries=200_000)
#: Fields of a record that belong to the installation that it came from.
_LEFT = (
    "outbox", "publishing", "pushed", "reply_to", "status_open", "waiting_for", "traceparent", "command_id", "digest",
    "request_digest", "session_id", "rerun_of", "task_id", "archive_expired", "artifacts_message",
)  # fmt: skip


@dataclass(frozen=True)
class Checked:
    """A bundle whose contents fit together: the importing execution's record, and its files by the object's name."""

    index: Index
    manifest: dict[str, Any]
    record: Record
    files: dict[str, Path]
    given: ExecutionInput | None


async def check(bundle: Path, folder: Path, project: str) -> Checked:
    """Unpack a bundle into `folder` and check all of it for an import into `project`.

    Raises:
        BadBundle: names the entry and what is wrong with it.
    """
    return await in_thread(lambda stop: _check(bundle, folder, ExecutionRef(project, str(uuid.uuid4())), stop))


def _check(bundle: Path, folder: Path, ref: ExecutionRef, stop: threading.Event) -> Checked:
    with bundle.open("rb") as file:
        index = _unpack(file, folder)
    files = {entry.name: folder / entry.name for entry in index.objects}
    try:
        manifest, record = _manifest(files[MANIFEST].read_bytes(), index, ref)
        _rewrite_events(files[EVENTS], index, ref)
        given = _input(files, stop)
        if OUTPUT in files:
            _check_output(files[OUTPUT])
        if RECORDING in files:
            with files[RECORDING].open("rb") as recording:
                recorded_calls_reader.read(recording)
    except recorded_calls_reader.InvalidRecording as error:
        raise BadBundle(f"{RECORDING}: {error}") from None
    return Checked(index, manifest, record, files, given)


def _unpack(file: BinaryIO, folder: Path) -> Index:
    """Write the entries to `folder`, each under its name from the table, and return the index."""
    source = ExactReader(file)
    try:
        first = next_header(source)
        if first is None or first.name != INDEX or first.type != tarfile.REGTYPE or first.size > INDEX_BYTES:
            raise BadBundle(f"this is no bundle: its first entry must be {INDEX}")
        index = read_index(source.read(first.size))
        source.read(-first.size % tarfile.BLOCKSIZE)
        for entry in index.objects:
            info = next_header(source)
            if info is None or (info.name, info.size, info.type) != (entry.name, entry.size, tarfile.REGTYPE):
                raise BadBundle(f"{entry.name}: the entry must be a file of {entry.size} bytes, as {INDEX} says")
            digest, left = hashlib.sha256(), entry.size
            with (folder / entry.name).open("xb") as out:
                while left > 0:
                    data = source.read(min(left, _PIECE))
                    digest.update(data)
                    out.write(data)
                    left -= len(data)
            source.read(-entry.size % tarfile.BLOCKSIZE)
            if digest.hexdigest() != entry.sha256:
                raise BadBundle(f"{entry.name}: its SHA-256 is not that of {INDEX}: it was changed or damaged")
        if next_header(source) is not None:
            raise BadBundle(f"there are more entries than {INDEX} names")
    except InvalidWorkspace as error:
        raise BadBundle(f"this is no bundle: {error}") from None
    return index


def _manifest(data: bytes, index: Index, ref: ExecutionRef) -> tuple[dict[str, Any], Record]:
    try:
        manifest = parse_json(data, _MANIFEST, MANIFEST)
        kept = {name: value for name, value in manifest["record"].items() if name not in _LEFT}
        if (kept["project_id"], kept["execution_id"]) != (index.project_id, index.execution_id):
            raise BadBundle(f"{MANIFEST}: it is of another execution than {INDEX}")
        ids = {"project_id": ref.project, "execution_id": ref.execution, "archived": True, "output_expired": True}
        origin = f"{index.project_id}/{index.execution_id}"
        record = Record.read(json.dumps({**kept, **ids, "imported_from": origin}))
    except BadBundle:
        raise
    except (InvalidEvent, ValidationError, KeyError, TypeError, AttributeError):
        raise BadBundle(f"{MANIFEST}: it has no record that can be read") from None
    if not record.terminal or record.ended_at is None:
        raise BadBundle(f"{MANIFEST}: the execution must have ended; it is {record.state.value}")
    tries = [time for one in record.attempts for time in (one.started_at, one.ended_at)]
    times = [record.submitted_at, record.updated_at, record.started_at, record.ended_at, *tries]
    if not all(time is None or (time.tzinfo is not None and 2020 <= time.year < 2100) for time in times):
        raise BadBundle(f"{MANIFEST}: its times must have a zone and lie between 2020 and 2100")
    return manifest, record


def _rewrite_events(path: Path, index: Index, ref: ExecutionRef) -> None:
    """Give the events the ids of the importing execution; their own ids and times stay."""
    lines = []
    for number, line in enumerate(_lines(path)):
        if number == _EVENTS:
            raise BadBundle(f"{EVENTS}: more than {_EVENTS} events")
        try:
            event = parse_json(line, _EVENT, EVENTS)
            data = event["data"]
            known = (data["project_id"], data["execution_id"]) == (index.project_id, index.execution_id)
        except (InvalidEvent, KeyError, TypeError):
            raise BadBundle(f"{EVENTS}: line {number + 1} is not an event of an execution") from None
        if not known:
            raise BadBundle(f"{EVENTS}: line {number + 1} is of another execution")
        data |= {"project_id": ref.project, "execution_id": ref.execution}
        for name in {"subject", "partitionkey", "correlationid"} & event.keys():
            event[name] = ref.execution
        event.pop("dataref", None)
        lines.append(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(_EVENT.bytes + 1):
            yield line.rstrip(b"\n")


def _check_output(path: Path) -> None:
    """Inflate the output within its limits; each line must be a chunk."""
    size = 0
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(ARCHIVE_LINE.bytes + 1):
                size += len(line)
                if size > _OUTPUT_BYTES or len(line) > ARCHIVE_LINE.bytes:
                    raise BadBundle(f"{OUTPUT}: more than {_OUTPUT_BYTES} bytes, or a line of {ARCHIVE_LINE.bytes}")
                Chunk.model_validate(parse_json(line, ARCHIVE_LINE, OUTPUT))
    except (OSError, EOFError, zlib.error, ValidationError):
        raise BadBundle(f"{OUTPUT}: it is damaged, or a line is not a chunk") from None


def _input(files: dict[str, Path], stop: threading.Event) -> ExecutionInput | None:
    """Return the description of the input, which must be that of the files."""
    if INPUT not in files:
        return None
    try:
        given = ExecutionInput.read(files[INPUT].read_bytes())
    except (ValidationError, RecursionError):
        raise BadBundle(f"{INPUT}: it cannot be read") from None
    if INPUT_CONVERSATION in files:
        conversation = files[INPUT_CONVERSATION].read_bytes()
        parse_json(conversation, STORED_CONVERSATION, INPUT_CONVERSATION)
        if hashlib.sha256(conversation).hexdigest() != given.conversation:
            raise BadBundle(f"{INPUT_CONVERSATION}: its SHA-256 is not that of {INPUT}")
    if TREE not in files:
        return given
    target = files[TREE].parent / "tree"
    target.mkdir()
    try:
        unpack_tree(files[TREE], target, _TREE, stop)  # refuses links and paths that lead out
        digest = tree_digest(files[TREE], _TREE, stop, clone=given.clone)
    except (InvalidWorkspace, OSError) as error:
        raise BadBundle(f"{TREE}: {error}") from None
    if digest != given.tree:
        raise BadBundle(f"{TREE}: its digest is not that of {INPUT}")
    return given


async def store_checked(store: ObjectStore, history: History, checked: Checked) -> ExecutionRef:
    """Store a checked bundle as an archived execution, and list it in the history.

    Its costs are no costs of the importing project.
    """
    record, given = checked.record, checked.given
    ref = ExecutionRef(record.project_id, record.execution_id)
    try:
        for name, path in checked.files.items():
            if name not in (MANIFEST, TREE):
                await store.put_file(ref.object_key(name), path)
        if given is not None and given.tree is not None and TREE in checked.files:
            await store.put(input_user(ref, given.tree), b"{}", content_type="application/json")
            key = input_key(ref.project, given.tree)
            # Others share a stored tree, and the digest of a clone does not cover git's objects: never replace one.
            if await store.head(key) is None:
                await store.put_file(key, checked.files[TREE])
        kept = json.loads(record.model_dump_json(exclude_defaults=True))
        manifest = {**checked.manifest, **{name: kept[name] for name in ("project_id", "execution_id")}, "record": kept}
        content = json.dumps(manifest, indent=2).encode()
        await store.put(ref.object_key(MANIFEST), content, content_type="application/json")
        await history.save(record.model_copy(update={"usage": Usage()}))
        await history.mark(ref, "evicted", "output_expired")
    except BaseException:
        await asyncio.shield(delete_execution(store, ref))
        raise
    return ref


async def discard(folder: Path) -> None:
    """Remove what `check` has unpacked."""
    await remove_tree(folder)
