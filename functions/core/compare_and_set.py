"""Compare and set: how every record in a bucket is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ocf.events.commands import ForwardCompatible
from ocf.events.errors import Conflict, NotYetKnown
from ocf.events.ports import Bucket

_TRIES = 20
M = TypeVar("M", bound=ForwardCompatible)


async def change(
    bucket: Bucket, key: str, model: type[M], decide: Callable[[M], M | None], stamp: Callable[[M], M], *, name: str
) -> M:
    """Apply `decide` to the newest value of `key` until it sticks; None means leave it. Returns the newest.

    `stamp` is applied to what was decided; `name` is what errors call it.

    Raises:
        NotYetKnown: there is no value.
        Conflict: others changed it faster, twenty times.
    """
    for _ in range(_TRIES):
        entry = await bucket.get(key)
        if entry is None:
            raise NotYetKnown(f"{name} is not known")
        newest = model.read(entry.value)
        changed = decide(newest)
        if changed is None:
            return newest
        changed = stamp(changed)
        try:
            await bucket.update(key, dump(changed), entry.revision)
        except Conflict:
            continue
        return changed
    raise Conflict(f"the record of {name} is changing too fast")


def dump(record: ForwardCompatible) -> bytes:
    """A record as it is kept."""
    return record.model_dump_json(exclude_defaults=True).encode()
