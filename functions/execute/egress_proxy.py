"""Egress proxy: an HTTP proxy on loopback, the only way out for an agent's tools, restricted to allowed hosts.

A host must be allowed twice: by the task (`network.allow`) and by the operator (`NETWORK_ALLOW`, the ceiling). The name
is resolved here, its addresses are checked, and the connection goes to the checked address, so a name cannot resolve to
another one in between. nono-py's own proxy was tried first and connects to whatever address a listed name resolves to,
loopback included (ADR 0003).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog

from ocf.events.errors import OcfError
from ocf.functions.core.address_rules import Reach, reach, resolve
from ocf.functions.settings.host_rules import InvalidRule, Rule, parse_rule

log = structlog.get_logger()

MAX_CONNECTIONS = 128
_HEAD_BYTES = 32_768
_HEAD_SECONDS = 30.0
_CONNECT_SECONDS = 15.0
_USER = "ocf"

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Refused(OcfError):
    """The proxy does not connect to this host."""


@dataclass(frozen=True)
class EgressRules:
    """Rules of the task, limited by those of the operator."""

    task: tuple[Rule, ...]
    operator: tuple[Rule, ...]

    def __bool__(self) -> bool:
        """Return whether anything could be allowed; otherwise no proxy is needed."""
        return bool(self.task and self.operator)

    def check(self, host: str, port: int) -> None:
        """Check that both sides allow the host.

        Raises:
            Refused: one of them does not.
        """
        if not any(rule.matches(host, port) for rule in self.task):
            raise Refused(f"{host}:{port} is not in the task's network.allow")
        if not any(rule.matches(host, port) for rule in self.operator):
            raise Refused(f"{host}:{port} is not in NETWORK_ALLOW")

    def check_address(self, host: str, port: int, address: str) -> None:
        """Check the address that a name resolved to.

        An address that `core.addresses` calls inside needs the operator to list this very host (no wildcard); one that
        it calls never reachable needs both sides to list the address itself.

        Raises:
            Refused: it is an inside address that the rules do not allow.
        """
        where = reach(address)
        if where is Reach.PUBLIC:
            return
        if _names(self.operator, host, port) and (
            where is Reach.INSIDE or (host == address and _names(self.task, host, port))
        ):
            return
        raise Refused(f"{host} leads to the inside address {address}")


def _names(side: tuple[Rule, ...], host: str, port: int) -> bool:
    """Return whether a rule allows this very host, not any that ends like it."""
    return any(rule.matches(host, port) and not rule.wildcard for rule in side)


def rules(task: Iterable[str], operator: Iterable[str]) -> EgressRules:
    """Return the rules of `network.allow` and `NETWORK_ALLOW`.

    Raises:
        InvalidRule: a rule is malformed, or the task asks for `*`.
    """
    asked = tuple(parse_rule(text) for text in task)
    if any(not rule.host for rule in asked):
        raise InvalidRule("a task cannot ask for every host")
    return EgressRules(asked, tuple(parse_rule(text) for text in operator))


class EgressProxy:
    """One per execution that may reach anything; `async with`, or `start` and `close`."""

    def __init__(self, allowed: EgressRules, *, resolver: Resolve = resolve) -> None:
        self.port = 0
        self.refused: deque[str] = deque(maxlen=50)  # messages, newest last
        self._allowed = allowed
        self._resolve = resolver
        self._token = secrets.token_urlsafe(24)
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> EgressProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def env(self) -> dict[str, str]:
        """Return variables that make common tools use this proxy. Loopback (the model proxy) is reached directly."""
        url = f"http://{_USER}:{self._token}@127.0.0.1:{self.port}"
        direct = "127.0.0.1,localhost"
        proxy = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url)
        return proxy | {"NO_PROXY": direct, "no_proxy": direct, "NODE_USE_ENV_PROXY": "1"}

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._running) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._running.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            # The agent's side closed or stayed silent: there is nobody to answer.
            return
        finally:
            self._running.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            await _answer(writer, "431 Request Header Fields Too Large", "the request head is too long")
            return
        request, *lines = head[:-4].split("\r\n")
        if not self._knows_token(lines):
            await _answer(writer, "407 Proxy Authentication Required", "use the proxy of the environment")
            return
        try:
            host, port, forward = _target(request, lines)
            upstream = await self._connect(host, port)
        except Refused as refusal:
            self.refused.append(str(refusal))
            log.info("egress refused", action="egress.refused", reason=str(refusal))
            await _answer(writer, "403 Forbidden", str(refusal))
            return
        except OSError as error:
            await _answer(writer, "502 Bad Gateway", f"cannot connect: {error}")
            return
        if forward is None:
            writer.write(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        else:
            upstream[1].write(forward.encode("latin-1"))
        await _relay((reader, writer), upstream)

    def _knows_token(self, lines: list[str]) -> bool:
        want = base64.b64encode(f"{_USER}:{self._token}".encode()).decode()
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() == "proxy-authorization":
                scheme, _, given = value.strip().partition(" ")
                return scheme.lower() == "basic" and secrets.compare_digest(given.strip().encode(), want.encode())
        return False

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._allowed.check(host, port)
        addresses = await self._resolve(host, port)
        # All of them: a name that has an inside address among others is refused.
        for address in addresses:
            self._allowed.check_address(host, port, address)
        problem: OSError = OSError("the name has no address")
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(address, port)
            except OSError as error:
                problem = error
        raise problem


def _target(request: str, lines: list[str]) -> tuple[str, int, str | None]:
    """Return host and port of a request, and the head to send there (None for CONNECT).

    Raises:
        Refused: it is not a request for a proxy.
    """
    method, _, rest = request.partition(" ")
    url, _, version = rest.partition(" ")
    if method == "CONNECT":
        host, port = _split(url, 443)
        return host, port, None
    if not url.lower().startswith("http://") or not version.startswith("HTTP/1."):
        raise Refused(f"not a proxy request: {method} {url[:100]}")
    authority, slash, path = url[len("http://") :].partition("/")
    host, port = _split(authority.rpartition("@")[2], 80)
    dropped = ("proxy-", "connection:", "keep-alive:")
    forwarded = [line for line in lines if not line.lower().startswith(dropped)]
    # One request per connection, so that every request is checked.
    return host, port, "\r\n".join([f"{method} {slash or '/'}{path} HTTP/1.1", *forwarded, "Connection: close", "", ""])


def _split(authority: str, default: int) -> tuple[str, int]:
    host, colon, port = authority.lower().rpartition(":")
    if not colon:
        host, port = authority.lower(), str(default)
    if "[" in host or ":" in host or not port.isdigit():
        raise Refused(f"{authority[:100]} is not a host and port that can be listed")
    return host.removesuffix("."), int(port)


async def _answer(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = (text + "\n").encode()
    extra = 'Proxy-Authenticate: Basic realm="ocf"\r\n' if status.startswith("407") else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n{extra}Connection: close"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def _relay(
    agent: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Copy both ways until both have ended; each side's end of data is passed on."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    both = [asyncio.create_task(pump(agent[0], upstream[1])), asyncio.create_task(pump(upstream[0], agent[1]))]
    try:
        # When one side is reset the tunnel is over; closing it tells the other.
        await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        upstream[1].close()
