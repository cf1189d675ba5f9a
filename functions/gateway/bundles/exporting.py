"""Export of an archived execution: its objects as a tar, without sealed secrets."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import AsyncIterator
from typing import Any

from ocf.events import dataref
from ocf.events.archived_record import MANIFEST
from ocf.events.envelope import of_line
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.ports import ObjectStore
from ocf.events.refs import ExecutionRef
from ocf.functions.core.stored_objects import input_key, read_input
from ocf.functions.gateway.bundles.contents import (
    EVENTS,
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
#: What stands for a sealed secret: of its form, and no secret.
_REMOVED = {"alg": "A256GCM", "kid": "removed", "nonce": "AAAAAAAAAAAAAAAA", "ciphertext": ""}


async def export(store: ObjectStore, ref: ExecutionRef) -> AsyncIterator[bytes]:
    """Yield the bundle of an archived execution.

    Raises:
        NotYetKnown: it has no archive.
        BadBundle: an object is larger than a bundle may have.
    """
    keys = await _keys(store, ref)
    rewritten = {EVENTS: await _events(store, ref)}
    entries = []
    for name, key in keys.items():
        info = await store.head(key)
        assert info is not None
        if (size := len(rewritten[name]) if name in rewritten else info.size) > LIMITS[name]:
            raise BadBundle(f"{name}: {size} bytes; at most {LIMITS[name]} fit in a bundle")
        digest = hashlib.sha256(rewritten[name]).hexdigest() if name in rewritten else info.sha256
        entries.append(Entry(name=name, size=size, sha256=digest or await _digest(store, key)))
    index = Index(version=VERSION, project_id=ref.project, execution_id=ref.execution, objects=entries)
    about = index.model_dump_json(indent=1).encode()
    yield header(INDEX, len(about)) + about + padding(len(about))
    for entry in entries:
        yield header(entry.name, entry.size)
        if entry.name in rewritten:
            yield rewritten[entry.name]
        else:
            async for piece in store.stream(keys[entry.name]):
                yield piece
        yield padding(entry.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


async def _keys(store: ObjectStore, ref: ExecutionRef) -> dict[str, str]:
    """Return the key of each object that is there, by its name in the bundle."""
    keys = {name: ref.object_key(name) for name in LIMITS}
    given = await read_input(store, ref)
    keys[TREE] = input_key(ref.project, given.tree) if given is not None and given.tree is not None else ""
    found = {name: key for name, key in keys.items() if key and await store.head(key) is not None}
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
        except (InvalidEvent, NotYetKnown):
            continue  # a command that became a dead letter, or whose data is gone
        lines.append(json.dumps(without_secrets(json.loads(event.line())), ensure_ascii=False, separators=(",", ":")))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def without_secrets(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value with a mark in place of each sealed secret: it belongs to this installation."""
    if isinstance(value, dict):
        if value.keys() >= _SEALED or {"kid", "nonce", "ciphertext"} <= value.keys():
            return dict(_REMOVED)
        return {name: without_secrets(one) for name, one in value.items()}
    return [without_secrets(one) for one in value] if isinstance(value, list) else value
