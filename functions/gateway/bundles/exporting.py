"""Export of an archived execution: its objects as a tar, without sealed secrets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, BinaryIO

from ocf.events import dataref
from ocf.events.archive_manifest import EVENTS, MANIFEST
from ocf.events.base_model import REMOVED
from ocf.events.envelope import of_line
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.execution_ref import ExecutionRef
from ocf.events.gzip_ndjson import DamagedArchive, split_lines
from ocf.events.ports import ObjectInfo, ObjectStore
from ocf.events.untrusted_json import EVENT, JsonLimit, parse_json
from ocf.functions.core.object_deletion import read_input, stored_tree
from ocf.functions.gateway.bundles.tar_format import (
    INDEX,
    LIMITS,
    TREE,
    VERSION,
    BadBundle,
    Entry,
    Index,
    header,
    padding,
)

_SEALED = frozenset(("alg", "kid", "nonce", "ciphertext"))
_PIECE = 64 * 1024
_LINE = JsonLimit(bytes=LIMITS[EVENTS], depth=EVENT.depth, values=EVENT.values)


async def export(store: ObjectStore, ref: ExecutionRef) -> AsyncGenerator[bytes]:
    """Yield the bundle of an archived execution. Its events are in a file meanwhile, not in memory.

    Raises:
        NotYetKnown: it has no archive.
        BadBundle: an object is larger than a bundle may have.
    """
    found = await _stored(store, ref)
    for name, info in found.items():
        if info.size > LIMITS[name]:
            raise BadBundle(f"{name}: {info.size} bytes; at most {LIMITS[name]} fit in a bundle")
    with tempfile.TemporaryFile(prefix="ocf-bundle-") as events:
        rewritten = await _write_events(store, ref, events)
        async for piece in _bundle(store, ref, found, rewritten, events):
            yield piece


async def _bundle(
    store: ObjectStore, ref: ExecutionRef, found: dict[str, ObjectInfo], rewritten: Entry, events: BinaryIO
) -> AsyncGenerator[bytes]:
    entries = [
        rewritten
        if name == EVENTS
        else Entry(name=name, size=info.size, sha256=info.sha256 or await _digest(store, info.key))
        for name, info in found.items()
    ]
    index = Index(version=VERSION, project_id=ref.project, execution_id=ref.execution, objects=entries)
    about = index.model_dump_json(indent=1).encode()
    yield header(INDEX, len(about)) + about + padding(len(about))
    for entry in entries:
        yield header(entry.name, entry.size)
        if entry is rewritten:
            events.seek(0)
            while piece := await asyncio.to_thread(events.read, _PIECE):
                yield piece
        else:
            async for piece in store.stream(found[entry.name].key):
                yield piece
        yield padding(entry.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


async def _stored(store: ObjectStore, ref: ExecutionRef) -> dict[str, ObjectInfo]:
    """Return each object that is there, by its name in the bundle."""
    tree = await stored_tree(store, ref.project, await read_input(store, ref))
    found = {}
    for name in LIMITS:
        info = tree if name == TREE else await store.head(ref.object_key(name))
        if info is not None:
            found[name] = info
    for name in (MANIFEST, EVENTS):
        if name not in found:
            raise NotYetKnown(f"execution {ref.execution} has no {name}; its archive may have expired")
    return found


async def _digest(store: ObjectStore, key: str) -> str:
    digest = hashlib.sha256()
    async for piece in store.stream(key):
        digest.update(piece)
    return digest.hexdigest()


async def _write_events(store: ObjectStore, ref: ExecutionRef, file: BinaryIO) -> Entry:
    """Write the events with their data, and without sealed secrets; return their entry."""
    size, digest = 0, hashlib.sha256()
    try:
        async for line in split_lines(store.stream(ref.object_key(EVENTS)), _LINE):
            try:
                event = await dataref.resolve(of_line(line), ref.prefix, store)
                data = parse_json(event.data, EVENT)
            except (InvalidEvent, NotYetKnown):
                continue  # a command that became a dead letter, or whose data is gone
            # Not `Event.line`: that has data with line breaks as base64, in which no secret is seen.
            plain = without_secrets({**replace(event, data=b"").structured(), "data": data})
            text = json.dumps(plain, ensure_ascii=False, separators=(",", ":")) + "\n"
            written = text.encode("utf-8", "surrogatepass")
            size += len(written)
            if size > LIMITS[EVENTS]:
                raise BadBundle(f"{EVENTS}: more than {LIMITS[EVENTS]} bytes")
            digest.update(written)
            await asyncio.to_thread(file.write, written)
    except DamagedArchive:
        raise BadBundle(f"{EVENTS}: a line has more than {_LINE.bytes} bytes") from None
    return Entry(name=EVENTS, size=size, sha256=digest.hexdigest())


def without_secrets(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value with a mark in place of each sealed secret: it belongs to this installation."""
    if isinstance(value, dict):
        if value.keys() >= _SEALED or {"kid", "nonce", "ciphertext"} <= value.keys():
            return dict(REMOVED)
        return {name: without_secrets(one) for name, one in value.items()}
    return [without_secrets(one) for one in value] if isinstance(value, list) else value
