"""The record of an ended execution in its archive: it stays there when the bucket no longer has it."""

from __future__ import annotations

import json

from ocf.events.errors import NotYetKnown, Unreadable
from ocf.events.execution_record import Record
from ocf.events.ports import ObjectStore
from ocf.events.refs import ExecutionRef

MANIFEST = "manifest.json"


async def archived_record(store: ObjectStore, ref: ExecutionRef) -> Record | None:
    """Return the record in the manifest of an archive; None without an archive.

    Raises:
        Unavailable: The store does not answer.
        Unreadable: The manifest is damaged.
    """
    try:
        manifest = await store.get(ref.object_key(MANIFEST))
    except NotYetKnown:
        return None
    try:
        # It was written before the archive was complete.
        record = Record.read(json.dumps({**json.loads(manifest)["record"], "archived": True}))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable(f"the manifest of {ref} cannot be read: {type(error).__name__}") from None
    if record.ref != ref:
        raise Unreadable(f"the manifest of {ref} names another execution")
    return record
