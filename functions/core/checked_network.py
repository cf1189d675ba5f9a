"""Network of an HTTP client that checks the addresses of names when it connects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import httpcore

from ocf.functions.core.address_rules import Reach, resolve, worst_reach


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves names itself and checks all their addresses when connecting.

    A check of the URL alone is not enough: a name may resolve to another address a second later (DNS rebinding).

    Args:
        check: gets host, port and addresses; raises `httpcore.UnsupportedProtocol` for those that are refused.
        resolver: resolves names.
    """

    def __init__(
        self,
        check: Callable[[str, int, list[str]], None],
        resolver: Callable[[str, int], Awaitable[list[str]]] = resolve,
    ) -> None:
        self._real = httpcore.AnyIOBackend()
        self._check = check
        self._resolve = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve `host`, check its addresses and connect to the first that accepts."""
        try:
            addresses = await asyncio.wait_for(self._resolve(host, port), timeout)
        except OSError as error:
            raise httpcore.ConnectError(f"cannot resolve the name: {error.strerror}") from None
        except TimeoutError:
            raise httpcore.ConnectTimeout("resolving the name took too long") from None
        self._check(host, port, addresses)
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses:
            try:
                return await self._real.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await self._real.sleep(seconds)


def refuse_forbidden(host: str, addresses: list[str], allow_hosts: Collection[str] = ()) -> None:
    """Refuse a host that has an address which no tenant may reach, unless it is in `allow_hosts`.

    Raises:
        httpcore.UnsupportedProtocol: it is refused.
    """
    if host not in allow_hosts and worst_reach(addresses) is Reach.NEVER:
        raise httpcore.UnsupportedProtocol("the host's name resolves to a link-local or metadata address")
