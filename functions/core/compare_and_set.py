"""Compare-and-set changes of records in a bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ocf.events.base_model import ForwardCompatible
from ocf.events.errors import Conflict, NotYetKnown
from ocf.events.ports import Bucket

_TRIES = 20
M = TypeVar("M", bound=ForwardCompatible)


async def change(
    bucket: Bucket, key: str, model: type[M], decide: Callable[[M], M | None], stamp: Callable[[M], M], *, name: str
) -> M:
    """Change the value of `key` by compare-and-set; retry on a conflict.

    Args:
        bucket: The bucket.
        key: Key of the record.
        model: Type of the record.
        decide: Returns the changed record, or None for no change. Runs again after a conflict.
        stamp: Applied to the changed record before it is written.
        name: Name of the record in errors.

    Returns:
        The latest record.

    Raises:
        NotYetKnown: The key has no value.
        Conflict: Twenty attempts lost to concurrent changes.
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
    """Serialise a record."""
    return record.model_dump_json(exclude_defaults=True).encode()
