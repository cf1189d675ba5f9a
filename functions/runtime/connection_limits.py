"""Limits of a server's connections: their number, and the time for a request and for reading its response.

A connection without a request costs the server memory and a descriptor, and the client nothing. If there are too many,
the server drops the oldest of them; a client that sends its request at once is not affected.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ocf.functions.observability import metrics

#: Connections without a request: in total, and per address (behind a proxy all clients share one address).
WAITING, WAITING_EACH = 1_024, 256
#: Maximum of all connections, and descriptors reserved for other purposes; fewer if RLIMIT_NOFILE is lower.
TOTAL, _RESERVED = 8_192, 256
#: Seconds from the connection or the previous response to the end of a request's head; and until the client must have
#: read 48 KiB of a response.
HEAD_SECONDS, WRITE_SECONDS = 10.0, 60.0


class Connections:
    """The open connections of a server; those without a request are ordered by address and age.

    Args:
        total: Maximum of all connections.
        waiting: Maximum of connections without a request.
        each: The same per address.
        head_seconds: Seconds for the head of a request.
        write_seconds: Seconds until a client must have read a part of a response.
    """

    def __init__(
        self,
        *,
        total: int | None = None,
        waiting: int = WAITING,
        each: int = WAITING_EACH,
        head_seconds: float = HEAD_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self.head_seconds = head_seconds
        self.write_seconds = write_seconds
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._total = min(TOTAL, max(_RESERVED, descriptors - _RESERVED)) if total is None else total
        self._most_waiting = waiting
        self._each = each
        self._address: dict[asyncio.Transport, str] = {}
        self._waiting: dict[str, dict[asyncio.Transport, None]] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._address)

    @property
    def waiting(self) -> int:
        """Number of connections without a request."""
        return sum(map(len, self._waiting.values()))

    def opened(self, transport: asyncio.Transport, address: str) -> None:
        """Register a new connection; drop one (perhaps this one) if there are too many."""
        self._address[transport] = address
        self.wait(transport)
        if len(self._address) > self._total:
            self._drop_oldest(max(self._waiting, key=lambda one: len(self._waiting[one])))

    def wait(self, transport: asyncio.Transport) -> None:
        """Mark a connection as having no request; drop one if there are too many."""
        address = self._address.get(transport)
        if address is None:
            return
        mine = self._waiting.setdefault(address, {})
        mine[transport] = None
        if len(mine) > self._each:
            self._drop_oldest(address)
        elif self.waiting > self._most_waiting:
            self._drop_oldest(max(self._waiting, key=lambda one: len(self._waiting[one])))

    def serve(self, transport: asyncio.Transport) -> None:
        """Mark a connection as having a request."""
        mine = self._waiting.get(self._address.get(transport, ""), {})
        mine.pop(transport, None)
        if not mine:
            self._waiting.pop(self._address.get(transport, ""), None)

    def closed(self, transport: asyncio.Transport) -> None:
        """Remove a closed connection."""
        self.serve(transport)
        self._address.pop(transport, None)

    def drop(self, transport: asyncio.Transport) -> None:
        """Abort a connection and count it in the metrics."""
        if transport in self._address:
            metrics.connections_dropped.inc()
        self.closed(transport)
        transport.abort()

    def _drop_oldest(self, address: str) -> None:
        self.drop(next(iter(self._waiting[address])))


class _Http(H11Protocol):
    """uvicorn's HTTP protocol with timeouts for requests and for reading responses."""

    tracker: Connections
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _upgraded = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.tracker.opened(transport, self.client[0] if self.client else "")
        self._update_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.tracker.closed(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_wait()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._upgraded = True
        self._stop()
        self.tracker.serve(self.transport)
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.tracker.write_seconds, self.tracker.drop, self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _update_wait(self) -> None:
        """Start or stop the timeout for a request, depending on the state of the connection."""
        if self._upgraded or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.tracker.serve(self.transport)
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            self.tracker.wait(self.transport)
            self._head_timer = self.loop.call_later(self.tracker.head_seconds, self.tracker.drop, self.transport)

    def _stop(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


class _WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol; the connection counts until it is closed."""

    tracker: Connections

    def connection_lost(self, exc: Exception | None) -> None:
        self.tracker.closed(self.transport)
        super().connection_lost(exc)


def apply_limits(config: uvicorn.Config, tracker: Connections | None = None) -> None:
    """Limit the connections of the server of `config`. Must be called before the server starts."""
    own: dict[str, Any] = {"tracker": Connections() if tracker is None else tracker}
    config.http = cast(type[asyncio.Protocol], type("Http", (_Http,), own))
    if config.ws != "none":
        config.ws = cast(type[asyncio.Protocol], type("WebSocket", (_WebSocket,), own))
