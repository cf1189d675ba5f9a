"""Export of an archived execution: its objects as a tar, without sealed secrets."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ocf.events import dataref
from ocf.events.archived_record import EVENTS, MANIFEST
from ocf.events.base_model import REMOVED
from ocf.events.envelope import of_line
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.input_limits import EVENT, parse_json
from ocf.events.ports import ObjectInfo, ObjectStore
from ocf.events.refs import ExecutionRef
from ocf.functions.core.stored_objects import read_input, stored_tree
from ocf.functions.gateway.bundles.contents import (
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


async def export(store: ObjectStore, ref: ExecutionRef) -> AsyncIterator[bytes]:
    """Yield the bundle of an archived execution.

    Raises:
        NotYetKnown: it has no archive.
        BadBundle: an object is larger than a bundle may have.
    """
    found = await _stored(store, ref)
    rewritten = {EVENTS: await _events(store, ref)}
    entries = []
    for name, info in found.items():
        if (size := len(rewritten[name]) if name in rewritten else info.size) > LIMITS[name]:
            raise BadBundle(f"{name}: {size} bytes; at most {LIMITS[name]} fit in a bundle")
        digest = hashlib.sha256(rewritten[name]).hexdigest() if name in rewritten else info.sha256
        entries.append(Entry(name=name, size=size, sha256=digest or await _digest(store, info.key)))
    index = Index(version=VERSION, project_id=ref.project, execution_id=ref.execution, objects=entries)
    about = index.model_dump_json(indent=1).encode()
    yield header(INDEX, len(about)) + about + padding(len(about))
    for entry in entries:
        yield header(entry.name, entry.size)
        if entry.name in rewritten:
            yield rewritten[entry.name]
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


async def _events(store: ObjectStore, ref: ExecutionRef) -> bytes:
    """Return the events with their data, and without sealed secrets."""
    whole = b""
    async for piece in store.stream(ref.object_key(EVENTS)):
        whole += piece
        if len(whole) > LIMITS[EVENTS]:
            raise BadBundle(f"{EVENTS}: more than {LIMITS[EVENTS]} bytes")
    lines = []
    for line in whole.splitlines():
        try:
            event = await dataref.resolve(of_line(line), ref.prefix, store)
            data = parse_json(event.data, EVENT)
        except (InvalidEvent, NotYetKnown):
            continue  # a command that became a dead letter, or whose data is gone
        # Not `Event.line`: that has data with line breaks as base64, in which no secret is seen.
        plain = without_secrets({**replace(event, data=b"").structured(), "data": data})
        lines.append(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def without_secrets(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value with a mark in place of each sealed secret: it belongs to this installation."""
    if isinstance(value, dict):
        if value.keys() >= _SEALED or {"kid", "nonce", "ciphertext"} <= value.keys():
            return dict(REMOVED)
        return {name: without_secrets(one) for name, one in value.items()}
    return [without_secrets(one) for one in value] if isinstance(value, list) else value
