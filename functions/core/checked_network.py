"""Network of an HTTP client that checks the addresses of names when it connects; its streams are asyncio's.

httpcore2's own backend goes through anyio, which costs as much per read as parsing what was read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import httpcore2
import httpx2

from ocf.functions.core.address_rules import Reach, resolve, worst_reach


class _Stream(httpcore2.AsyncNetworkStream):
    """One connection, in httpcore2's interface. Times in seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes; empty at the end."""
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError:
            raise httpcore2.ReadTimeout from None
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes; wait while the other side does not read."""
        try:
            self._writer.write(buffer)
            async with asyncio.timeout(timeout):
                await self._writer.drain()
        except TimeoutError:
            raise httpcore2.WriteTimeout from None
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from None

    async def aclose(self) -> None:
        """Close without waiting: nothing that is still to be sent has a reader."""
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Continue encrypted."""
        try:
            async with asyncio.timeout(timeout):
                await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except TimeoutError:
            raise httpcore2.ConnectTimeout from None
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from None
        return self

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore2's interface
        """Return whether the other side has closed an idle connection (`is_readable`), or what asyncio knows."""
        if info == "is_readable":
            return self._reader.at_eof()
        return self._writer.get_extra_info("sslcontext" if info == "ssl_context" else info)


class CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Resolves names itself and checks all their addresses when connecting.

    A check of the URL alone is not enough: a name may resolve to another address a second later (DNS rebinding).

    Args:
        check: gets host, port and addresses; raises `httpcore2.UnsupportedProtocol` for those that are refused.
        resolver: resolves names.
    """

    def __init__(
        self,
        check: Callable[[str, int, list[str]], None],
        resolver: Callable[[str, int], Awaitable[list[str]]] = resolve,
    ) -> None:
        self._check = check
        self._resolve = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve `host`, check its addresses and connect to the first that accepts."""
        try:
            addresses = await asyncio.wait_for(self._resolve(host, port), timeout)
        except OSError as error:
            raise httpcore2.ConnectError(f"cannot resolve the name: {error.strerror}") from None
        except TimeoutError:
            raise httpcore2.ConnectTimeout("resolving the name took too long") from None
        self._check(host, port, addresses)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for address in addresses:
            try:
                async with asyncio.timeout(timeout):
                    return _Stream(*await asyncio.open_connection(address, port))
            except TimeoutError:
                failure = httpcore2.ConnectTimeout("connecting took too long")
            except OSError as error:
                failure = httpcore2.ConnectError(error.strerror or str(error))
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


def connected_through(network: CheckedNetwork, transport: httpx2.AsyncHTTPTransport) -> httpx2.AsyncHTTPTransport:
    """Let a transport make its connections through `network`; return the transport."""
    # httpx2 has no public way to set the network backend of its pool.
    transport._pool._network_backend = network
    return transport


def refuse_forbidden(host: str, addresses: list[str], allow_hosts: Collection[str] = ()) -> None:
    """Refuse a host that has an address which no tenant may reach, unless it is in `allow_hosts`.

    Raises:
        httpcore2.UnsupportedProtocol: it is refused.
    """
    if host not in allow_hosts and worst_reach(addresses) is Reach.NEVER:
        raise httpcore2.UnsupportedProtocol("the host's name resolves to a link-local or metadata address")
