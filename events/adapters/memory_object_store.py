"""`ocf.events.ports.ObjectStore` in memory, for unit tests. The contract tests of the S3 adapter cover it too."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

from ocf.events.errors import NotYetKnown
from ocf.events.ports import ObjectInfo


class MemoryStore:
    """Objects in a dict. See `ocf.events.ports.ObjectStore`. Tests may read and damage `objects`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self._digests: dict[str, str] = {}

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Implement `ObjectStore.put`."""
        self.objects[key] = bytes(data)
        self._digests[key] = hashlib.sha256(data).hexdigest()
        return self._info(key)

    async def put_file(self, key: str, path: Path, *, content_type: str = "application/octet-stream") -> ObjectInfo:
        """Implement `ObjectStore.put_file`."""
        return await self.put(key, await asyncio.to_thread(path.read_bytes), content_type=content_type)

    async def get(self, key: str) -> bytes:
        """Implement `ObjectStore.get`."""
        try:
            return self.objects[key]
        except KeyError:
            raise NotYetKnown(f"no object {key!r}") from None

    async def stream(self, key: str, *, chunk: int = 1024 * 1024) -> AsyncIterator[bytes]:
        """Implement `ObjectStore.stream`."""
        data = await self.get(key)
        for start in range(0, len(data), chunk):
            yield data[start : start + chunk]

    async def head(self, key: str) -> ObjectInfo | None:
        """Implement `ObjectStore.head`."""
        return self._info(key) if key in self.objects else None

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Implement `ObjectStore.list`."""
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(self.objects[key]), modified=self.modified.get(key))

    async def delete_prefix(self, prefix: str) -> int:
        """Implement `ObjectStore.delete_prefix`."""
        if not prefix:
            raise ValueError("an empty prefix would remove every object")
        found = [key for key in self.objects if key.startswith(prefix)]
        for key in found:
            del self.objects[key], self._digests[key]
        return len(found)

    async def ready(self) -> None:
        """Return at once: memory is always available."""

    def _info(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self.objects[key]), self._digests[key])
