"""HTTP listener of the parent: accepts connections, peeks at their first bytes, and passes them on unread."""

from __future__ import annotations

import errno
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

#: Length of the shortest valid request.
_HEAD = len(b"GET / HTTP/1.1\r\n\r\n")
#: Maximum of connections that wait for their request or for the client's close.
MAX_CONNECTIONS = 256
_HEAD_SECONDS, _LINGER_SECONDS = 10.0, 5.0
_SPENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: Passes a connection on; returns False if no worker can take it.
Pass = Callable[[socket.socket], bool]


@dataclass(frozen=True, eq=False)
class _Connection:
    socket: socket.socket
    until: float


class Listener:
    """Listener that passes each POST to `deliver`, and each GET of `/ready` or `/metrics` to `query`.

    `full` is the body of the response 429, if `deliver` returns False.

    Raises:
        OSError: The address is not available.
    """

    def __init__(
        self, selector: selectors.BaseSelector, address: tuple[str, int], *, deliver: Pass, query: Pass, full: str
    ) -> None:
        self._selector = selector
        self._deliver = deliver
        self._query = query
        self._full = full
        self._connections: dict[_Connection, None] = {}
        self._unread = bytearray(1 << 16)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=1024)
        self._socket.setblocking(False)
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    @property
    def port(self) -> int:
        """Port of the listener."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Stop listening, and close the connections that were not passed on."""
        self._selector.unregister(self._socket)
        self._socket.close()
        for connection in list(self._connections):
            self._close(connection)

    def expire(self, now: float) -> None:
        """Close the connections whose time is over; `now` is monotonic."""
        for connection in [one for one in self._connections if now > one.until]:
            self._close(connection)

    def _accept(self) -> None:
        try:
            accepted, _ = self._socket.accept()
        except OSError as error:
            if error.errno in _SPENT:
                self._drop_oldest()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop_oldest()
        accepted.setblocking(False)
        # The socket becomes readable only with enough bytes to decide, so that a client cannot wake this loop per byte.
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _HEAD)
        self._watch(accepted, _HEAD_SECONDS, self._route)

    def _watch(self, accepted: socket.socket, seconds: float, then: Callable[[_Connection], None]) -> None:
        connection = _Connection(accepted, time.monotonic() + seconds)

        def readable() -> None:
            if connection in self._connections:  # it may have been closed in the same round
                then(connection)

        self._connections[connection] = None
        self._selector.register(accepted, selectors.EVENT_READ, readable)

    def _forget(self, connection: _Connection) -> socket.socket:
        del self._connections[connection]
        self._selector.unregister(connection.socket)
        return connection.socket

    def _close(self, connection: _Connection) -> None:
        self._forget(connection).close()

    def _drop_oldest(self) -> None:
        if self._connections:
            self._close(next(iter(self._connections)))

    def _route(self, connection: _Connection) -> None:
        try:
            head = connection.socket.recv(_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if not head:
            self._close(connection)
        elif head.startswith(b"POST "):
            if not self._pass_on(connection, self._deliver):
                self._answer(connection, "429 Too Many Requests", self._full, "retry-after: 1\r\n")
        elif head.startswith((b"GET /ready ", b"GET /metrics ")):
            if not self._pass_on(connection, self._query):
                self._answer(connection, "503 Service Unavailable", '{"status":"not ready","checks":{}}')
        elif head.startswith(b"GET /health "):
            self._answer(connection, "200 OK", '{"status":"ok"}')
        else:
            self._answer(connection, "404 Not Found", '{"detail":"there is nothing here"}')

    def _pass_on(self, connection: _Connection, on: Pass) -> bool:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if on(connection.socket):
            self._close(connection)
            return True
        return False

    def _answer(self, connection: _Connection, status: str, body: str, more: str = "") -> None:
        """Send a response, and close the connection after the client has closed it.

        Discards further bytes of the client. An immediate close would reset the connection and lose the response.
        """
        answered = self._forget(connection)
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        try:
            answered.send(f"{head}{more}connection: close\r\n\r\n{body}".encode())
            answered.shutdown(socket.SHUT_WR)
            answered.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except OSError as error:
            log.debug("connection broke off", action="parent.connection_lost", reason=error.strerror)
            answered.close()
            return
        self._watch(answered, _LINGER_SECONDS, self._discard)

    def _discard(self, connection: _Connection) -> None:
        try:
            # With MSG_TRUNC the bytes are dropped without a copy (tcp(7)).
            flags = socket.MSG_TRUNC if sys.platform == "linux" else 0
            if connection.socket.recv_into(self._unread, len(self._unread), flags) > 0:
                return
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("connection broke off", action="parent.connection_lost", reason=error.strerror)
        self._close(connection)
