"""Key-value adapter over JetStream: compare-and-set and a TTL per key (ADR-43), which nats-py's own bucket lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.errors import Conflict
from ocf.events.ports import Entry, Message

#: Keys per request.
_AT_ONCE = 256
_MARKERS = ("DEL", "PURGE")
#: Each write removes the previous value with a rollup header, not by the stream's limit. nats-server (2.15.1) does not
#: persist limit-based removals: after a kill it restores the older value if the newer one has been removed.
_ROLLUP = {"Nats-Rollup": "sub"}


class NatsBucket:
    """See `ocf.events.ports.Bucket`. Keys are subjects below `$KV.<bucket>`."""

    def __init__(self, bus: NatsBus, bucket: str) -> None:
        self._bus = bus
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."

    async def get(self, key: str) -> Entry | None:
        """Implement `Bucket.get`."""
        return await self.newest(key)

    async def newest(self, filter: str) -> Entry | None:
        """Implement `Bucket.newest`."""
        found = await self._bus.last(self._stream, self._prefix + filter)
        if found is None or found.headers.get("KV-Operation") in _MARKERS:
            return None
        return self._entry(found)

    async def create(self, key: str, value: bytes, *, ttl: int | None = None) -> int:
        """Implement `Bucket.create`."""
        try:
            return await self._put(key, value, 0, ttl)
        except Conflict:
            # The latest message may be a deletion marker, which does not prevent a create.
            found = await self._bus.last(self._stream, self._prefix + key)
            if found is None or found.headers.get("KV-Operation") not in _MARKERS:
                raise
            return await self._put(key, value, found.sequence, ttl)

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        """Implement `Bucket.update`."""
        return await self._put(key, value, revision, ttl)

    async def _put(self, key: str, value: bytes, revision: int, ttl: int | None) -> int:
        headers = {**_ROLLUP, "Nats-Expected-Last-Subject-Sequence": str(revision)}
        if ttl is not None:
            headers["Nats-TTL"] = str(ttl)
        try:
            return await self._bus.publish(self._prefix + key, value, headers)
        except Conflict:
            raise Conflict(f"{key} was changed concurrently") from None

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Publish a deletion marker, which watchers see, then purge the key.

        The purge ends at the marker, because the key may have been created again since.
        """
        headers = {**_ROLLUP, "KV-Operation": "DEL"}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        marker = await self._bus.publish(self._prefix + key, b"", headers)
        await self._bus.purge(self._stream, self._prefix + key, through=marker)

    async def get_all(self, keys: Sequence[str]) -> list[Entry]:
        """Implement `Bucket.get_all`."""
        found: list[Entry] = []
        for start in range(0, len(keys), _AT_ONCE):
            wanted = [self._prefix + key for key in keys[start : start + _AT_ONCE]]
            messages = await self._bus.last_of(self._stream, wanted)
            found += [self._entry(one) for one in messages if one.headers.get("KV-Operation") not in _MARKERS]
        return found

    def _entry(self, found: Message) -> Entry:
        return Entry(found.subject.removeprefix(self._prefix), found.data, found.sequence)

    async def entries(self, filter: str = ">", *, after: int = 0) -> AsyncIterator[Entry]:
        """Implement `Bucket.entries`."""
        async for found in self._bus.history(self._stream, self._prefix + filter, after=after):
            if found.headers.get("KV-Operation") not in _MARKERS:
                yield self._entry(found)
