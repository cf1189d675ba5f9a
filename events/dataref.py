"""Large payloads: over 512 KiB they lie in S3 and the event carries `dataref` (CloudEvents Dataref extension)."""

from __future__ import annotations

from dataclasses import replace

from ocf.events.commands import MAX_COMMAND_BYTES, MAX_EVENT_BYTES
from ocf.events.envelope import Event
from ocf.events.errors import InvalidEvent
from ocf.events.limits import EVENT, check_json
from ocf.events.ports import ObjectStore

_SCHEME = "ocf-s3:"


async def offload(event: Event, prefix: str, store: ObjectStore) -> Event:
    """`event`, its data moved to `<prefix>/data/<event id>.json` when it is too large for a message.

    Raises:
        InvalidEvent: larger than 16 MiB.
    """
    if len(event.data) <= MAX_EVENT_BYTES:
        return event
    if len(event.data) > MAX_COMMAND_BYTES:
        raise InvalidEvent(f"data: {len(event.data)} bytes; at most {MAX_COMMAND_BYTES} (16 MiB)")
    key = f"{prefix}/data/{event.id}.json"
    await store.put(key, event.data, content_type="application/json")
    return replace(event, data=b"", extensions={**event.extensions, "dataref": _SCHEME + key})


async def resolve(event: Event, prefix: str, store: ObjectStore) -> Event:
    """`event` with its data, wherever that lies.

    Only objects below `prefix` (the execution's own) are followed: a reference is input from outside.

    Raises:
        InvalidEvent: the reference points elsewhere, or the object is over the limits of an event.
    """
    reference = event.extensions.get("dataref")
    if reference is None or event.data:
        return event
    key = reference.removeprefix(_SCHEME)
    if not reference.startswith(_SCHEME) or not key.startswith(f"{prefix}/data/") or ".." in key:
        raise InvalidEvent(f"dataref: must be {_SCHEME}{prefix}/data/<name>")
    info = await store.head(key)
    if info is not None and info.size > MAX_COMMAND_BYTES:
        raise InvalidEvent(f"dataref: {info.size} bytes; at most {MAX_COMMAND_BYTES} (16 MiB)")
    data = await store.get(key)
    check_json(data, EVENT)
    extensions = {k: v for k, v in event.extensions.items() if k != "dataref"}
    return replace(event, data=data, extensions=extensions)
