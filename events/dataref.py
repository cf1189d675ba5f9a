"""Large payloads: data over 512 KiB is stored in S3, and the event has a `dataref` (CloudEvents Dataref extension)."""

from __future__ import annotations

from dataclasses import replace

from ocf.events.command_payloads import MAX_COMMAND_BYTES, MAX_EVENT_BYTES
from ocf.events.envelope import Event
from ocf.events.errors import InvalidEvent
from ocf.events.ports import ObjectStore
from ocf.events.untrusted_json import EVENT, check_json

_SCHEME = "ocf-s3:"


async def offload(event: Event, prefix: str, store: ObjectStore) -> Event:
    """Move the data of `event` to `<prefix>/data/<event id>.json` if it is too large for a message.

    Returns:
        The event with a `dataref`, or `event` itself when its data fits.

    Raises:
        InvalidEvent: The data has more than 16 MiB.
    """
    if len(event.data) <= MAX_EVENT_BYTES:
        return event
    if len(event.data) > MAX_COMMAND_BYTES:
        raise InvalidEvent(f"data: {len(event.data)} bytes; at most {MAX_COMMAND_BYTES} (16 MiB)")
    key = f"{prefix}/data/{event.id}.json"
    await store.put(key, event.data, content_type="application/json")
    return replace(event, data=b"", extensions={**event.extensions, "dataref": _SCHEME + key})


async def resolve(event: Event, prefix: str, store: ObjectStore) -> Event:
    """Return `event` with its data, read from S3 if it has a `dataref`.

    Accepts only objects below `prefix` (those of the execution), because a reference is untrusted input.

    Raises:
        InvalidEvent: The reference points elsewhere, or the object exceeds the limits of an event.
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
