"""The key-value adapter over JetStream: compare-and-set, and a TTL per key (ADR-43), which nats-py's own lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.errors import Conflict
from ocf.events.ports import Entry

_MARKERS = ("DEL", "PURGE")
#: Every value puts the one before away by a rollup, never by a limit of the stream: nats-server (2.15.1) leaves no
#: trace on disk of what a limit pushed out, and brings it back when it is killed after the newer value was removed.
_ONLY_THIS = {"Nats-Rollup": "sub"}


class NatsBucket:
    """See `ocf.events.ports.Bucket`. Keys are subjects below `$KV.<bucket>.`"""

    def __init__(self, bus: NatsBus, bucket: str) -> None:
        self._bus = bus
        self._stream = f"KV_{bucket}"
        self._prefix = f"$KV.{bucket}."

    async def get(self, key: str) -> Entry | None:
        found = await self._bus.last(self._stream, self._prefix + key)
        if found is None or found.headers.get("KV-Operation") in _MARKERS:
            return None
        return Entry(key, found.data, found.sequence)

    async def create(self, key: str, value: bytes, *, ttl: int | None = None) -> int:
        try:
            return await self._put(key, value, 0, ttl)
        except Conflict:
            # The newest may be a deletion marker, on top of which a key may be created.
            found = await self._bus.last(self._stream, self._prefix + key)
            if found is None or found.headers.get("KV-Operation") not in _MARKERS:
                raise
            return await self._put(key, value, found.sequence, ttl)

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int | None = None) -> int:
        return await self._put(key, value, revision, ttl)

    async def _put(self, key: str, value: bytes, revision: int, ttl: int | None) -> int:
        headers = {**_ONLY_THIS, "Nats-Expected-Last-Subject-Sequence": str(revision)}
        if ttl is not None:
            headers["Nats-TTL"] = str(ttl)
        try:
            return await self._bus.publish(self._prefix + key, value, headers)
        except Conflict:
            raise Conflict(f"{key} was changed by somebody else") from None

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """A marker first, so that watchers learn of it; then nothing of the key is left.

        Only what was there up to the marker goes: somebody may have created the key anew.
        """
        headers = {**_ONLY_THIS, "KV-Operation": "DEL"}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        marker = await self._bus.publish(self._prefix + key, b"", headers)
        await self._bus.purge(self._stream, self._prefix + key, through=marker)

    async def entries(self, filter: str = ">", *, after: int = 0) -> AsyncIterator[Entry]:
        async for found in self._bus.history(self._stream, self._prefix + filter, after=after):
            if found.headers.get("KV-Operation") not in _MARKERS:
                yield Entry(found.subject.removeprefix(self._prefix), found.data, found.sequence)
