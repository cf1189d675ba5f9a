"""The manifest of an archive, and the record in it: it stays there when the bucket no longer has it."""

from __future__ import annotations

import json
from typing import Any

from ocf.events.errors import InvalidEvent, NotYetKnown, Unreadable
from ocf.events.execution_record import Record
from ocf.events.input_limits import MIB, JsonLimit, parse_json
from ocf.events.ports import ObjectStore
from ocf.events.refs import ExecutionRef

#: Names of two objects of every archive.
MANIFEST, EVENTS = "manifest.json", "events.ndjson"
#: Limit of a manifest: a record, and an entry for each object.
_LIMIT = JsonLimit(bytes=4 * MIB, depth=64, values=200_000)


async def archived_record(store: ObjectStore, ref: ExecutionRef) -> Record | None:
    """Return the record in the manifest of an archive; None without an archive.

    Raises:
        Unavailable: The store does not answer.
        Unreadable: The manifest is damaged.
    """
    manifest = await read_manifest(store, ref)
    if manifest is None:
        return None
    try:
        # It was written before the archive was complete.
        record = Record.read(json.dumps({**manifest["record"], "archived": True}))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(ref, error) from None
    if record.ref != ref:
        raise Unreadable(f"the manifest of {ref} names another execution")
    return record


async def read_manifest(store: ObjectStore, ref: ExecutionRef) -> dict[str, Any] | None:
    """Return the manifest of an archive; None without one. Raises as `archived_record` does."""
    try:
        data = await store.get(ref.object_key(MANIFEST))
    except NotYetKnown:
        return None
    try:
        return dict(parse_json(data, _LIMIT, MANIFEST))
    except (InvalidEvent, ValueError, TypeError) as error:
        raise _unreadable(ref, error) from None


def _unreadable(ref: ExecutionRef, error: Exception) -> Unreadable:
    return Unreadable(f"the manifest of {ref} cannot be read: {type(error).__name__}")
