"""HTTP/1.1 server on one loopback port: h11's state machine on an asyncio protocol.

One listening socket per execution, because the sandbox lets the agent connect to one port and no other. A server
framework per execution would cost megabytes; a connection here costs some kilobytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import h11

from ocf.events import untrusted_json
from ocf.functions.execute.model_proxy.api_formats import error_body

#: An agent has a handful of connections; its shell knows the port too and must not exhaust our descriptors.
MAX_CONNECTIONS = 64
_BODILESS = (204, 304)


class ClientGone(ConnectionError):
    """The agent has closed its connection."""


@dataclass(frozen=True)
class Request:
    """A request; header names in lower case, `path` without the query."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytearray = field(default_factory=bytearray, repr=False)
    query: str = field(default="", repr=False)


class Handler(Protocol):
    """Handles the server's requests."""

    def admit(self, request: Request) -> tuple[int, bytes] | None:
        """Return None, or status and body of a refusal; called before the body is read."""
        ...

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        ...


class Reply:
    """The answer to one request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.started = False
        #: Awaited before the head is sent.
        self.before: Callable[[], Awaitable[None]] | None = None

    @property
    def gone(self) -> bool:
        """Return whether the agent has hung up."""
        return self._connection.closed

    async def start(
        self, status: int, content_type: str, length: int | None = None, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the head, with `more` headers; without a `length` the body is chunked."""
        if self.before is not None:
            await self.before()
        self.started = True
        headers = [(b"content-type", content_type.encode("latin-1", "replace")), (b"cache-control", b"no-store"), *more]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        elif status not in _BODILESS:
            headers.append((b"transfer-encoding", b"chunked"))
        await self._connection.send(h11.Response(status_code=status, headers=headers))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; wait while the agent does not read.

        Raises:
            ClientGone: the agent has hung up.
        """
        if data:
            await self._connection.send(h11.Data(data=data))

    async def end(self) -> None:
        """End the body."""
        await self._connection.send(h11.EndOfMessage())

    async def whole(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Send a complete answer."""
        await self.start(status, content_type, len(body))
        await self.send(body)
        await self.end()

    def abort(self) -> None:
        """Close without the end of the body, so that the client cannot take it for complete."""
        self._connection.abort()


class Connection(asyncio.Protocol):
    """One connection of the agent. Its requests are answered one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._h11 = h11.Connection(h11.SERVER)
        self._head: Request | None = None
        self._body = bytearray()
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are not subclasses of asyncio.Transport.
        """Accept the connection, or abort it when there are too many."""
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        if not self._server.enter(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the running request: the provider must not go on generating."""
        self._transport = None
        self._writable.set()
        self._release()
        self._server.leave(self)
        # The agent has hung up: the provider must not continue generating.
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Make `send` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `send` continue."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; abort when pipelined data exceeds the limit."""
        if self._task is not None and not self._reserve(len(data)):
            # Pipelined data waits in h11's buffer, which has no bound of its own.
            self.abort()
            return
        self._h11.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """Close the transport."""
        return False

    @property
    def closed(self) -> bool:
        """Return whether the connection is closed."""
        return self._transport is None

    # out
    async def send(self, event: h11.Event) -> None:
        """Send an event; wait while the agent does not read.

        Raises:
            ClientGone: the agent has hung up.
        """
        transport = self._transport
        if transport is None:
            raise ClientGone
        data = self._h11.send(event)
        if data:
            transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the connection after the written data."""
        if self._transport is not None:
            self._transport.close()

    # in
    def _advance(self) -> None:
        try:
            self._read_events()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint, error_body("this is not HTTP"))

    def _read_events(self) -> None:
        while self._task is None:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                if not self._admitted(event):
                    return
            elif isinstance(event, h11.Data):
                if len(self._body) + len(event.data) > untrusted_json.MODEL_REQUEST.bytes:
                    self._refuse(
                        413, error_body(f"the request is longer than {untrusted_json.MODEL_REQUEST.bytes} bytes")
                    )
                    return
                if not self._reserve(len(event.data)):
                    self._refuse(
                        413, error_body(f"requests of more than {untrusted_json.MODEL_REQUESTS} bytes at once")
                    )
                    return
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._answer()
            else:  # NEED_DATA, PAUSED, ConnectionClosed
                return

    def _admitted(self, event: h11.Request) -> bool:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        path, _, query = event.target.decode("latin-1").partition("?")
        self._head = Request(event.method.decode("ascii"), path, headers, query=query)
        refusal = self._server.handler.admit(self._head)
        if refusal is not None:
            self._refuse(*refusal)
            return False
        if self._h11.they_are_waiting_for_100_continue and self._transport is not None:
            self._transport.write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        return True

    def _answer(self) -> None:
        assert self._head is not None
        request = replace(self._head, body=self._body)
        self._body = bytearray()
        self._task = asyncio.get_running_loop().create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        reply = Reply(self)
        try:
            await self._server.handler.handle(request, reply)
        except ClientGone:
            return
        finally:
            self._release()
            self._task = None
            self._next()

    def _next(self) -> None:
        if self._transport is None:
            return
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._advance()
        elif self._h11.our_state is h11.SEND_BODY:
            self.abort()
        else:
            self.close()

    def _refuse(self, status: int, body: bytes) -> None:
        """Answer and close, without reading the rest."""
        if self._transport is None:
            return
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self._transport.write(self._h11.send(event) or b"")
        self._transport.close()

    def _reserve(self, size: int) -> bool:
        if not self._server.reserve(size):
            return False
        self._size += size
        return True

    def _release(self) -> None:
        self._server.release(self._size)
        self._size = 0


class Server:
    """The listening socket and its connections."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.port = 0
        self._connections: set[Connection] = set()
        self._buffered = 0
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        if self._listening is not None:
            self._listening.close()
            for connection in list(self._connections):
                connection.abort()
            await self._listening.wait_closed()
            self._listening = None

    def enter(self, connection: Connection) -> bool:
        """Register a connection; return whether there is room for it."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._connections.discard(connection)

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes for request bodies; return whether they fit."""
        if self._buffered + size > untrusted_json.MODEL_REQUESTS:
            return False
        self._buffered += size
        return True

    def release(self, size: int) -> None:
        """Free reserved bytes."""
        self._buffered -= size
