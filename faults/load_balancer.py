"""What a Kubernetes Service does for two pods: a connection goes to one of them, to the other where it is refused."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from contextlib import suppress

_CONNECT = 1.0
_BLOCK = 65536


class Service:
    """A TCP relay on one address, in turn to each of `backends`."""

    def __init__(self, host: str, port: int, backends: Sequence[tuple[str, int]]) -> None:
        self._where = (host, port)
        self._backends = list(backends)
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Service:
        self._server = await asyncio.start_server(self._relay, *self._where)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await self._connected()
        except OSError:
            writer.transport.abort()
            return
        try:
            ways = (_copy(reader, there[1]), _copy(there[0], writer))
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # What has ended on one side has ended: a request whose worker is gone must fail at once.
            writer.close()
            there[1].close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        first = next(self._turn)
        for number in range(len(self._backends)):
            backend = self._backends[(first + number) % len(self._backends)]
            with suppress(OSError, TimeoutError):
                found = await asyncio.wait_for(asyncio.open_connection(*backend), _CONNECT)
                _ask_after(found[1])
                return found
        raise ConnectionRefusedError("no backend answers")


def _ask_after(writer: asyncio.StreamWriter) -> None:
    """A Service only rewrites addresses: the dispatcher's own questions, which end here, go on to the pod."""
    there: socket.socket = writer.get_extra_info("socket")
    there.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        there.setsockopt(socket.IPPROTO_TCP, option, value)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_BLOCK):
            writer.write(data)
            await writer.drain()
