"""Joining of a recording from the objects that the workers wrote, one per model call."""

from __future__ import annotations

from pathlib import Path

from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import ObjectStore
from ocf.functions.recording.line_types import PARTS, End, frame


async def join_recording(store: ObjectStore, ref: ExecutionRef, requests: int, path: Path) -> list[Path]:
    """Write the recording of an execution to a file.

    The objects are zstd frames, which one after the other are a zstd stream: nothing is inflated.

    Args:
        store: the objects.
        ref: the execution.
        requests: number of its model calls, for the last line.
        path: the file.

    Returns:
        `path`; nothing where no call was recorded.
    """
    keys = [info.key async for info in store.list(ref.object_key(PARTS))]
    if not keys:
        return []
    with path.open("wb") as file:
        for key in keys:
            async for piece in store.stream(key):
                file.write(piece)
        file.write(frame(End(requests=requests)))
    return [path]


async def delete_parts(store: ObjectStore, ref: ExecutionRef) -> None:
    """Remove the objects that the recording in the archive was joined from.

    A worker that was lost may still store one afterwards; it goes with the execution.
    """
    await store.delete_prefix(ref.object_key(PARTS))
