"""The loopback server of one execution's secret routes (ADR 0018).

A route's URL is `http://127.0.0.1:PORT/TOKEN/NAME`. The token is random: other processes of the machine can reach the
port, but do not know it. A request goes to the route's origin only; redirects are returned, not followed.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore2
import httpx2
import structlog

from ocf.functions.core.address_rules import resolve
from ocf.functions.core.checked_network import CheckedNetwork, connected_through
from ocf.functions.execute.egress_proxy import EgressRules, Refused, Resolve, rules
from ocf.functions.execute.model_proxy.api_formats import error_body
from ocf.functions.execute.model_proxy.http_server import Reply, Request, Server
from ocf.functions.execute.secret_routes.route_recording import REFUSED, RoutePlayer, RouteRecorder
from ocf.functions.execute.secret_routes.route_rules import Route, RouteRefused
from ocf.functions.settings.host_rules import origin_of

log = structlog.get_logger()

MAX_ANSWER_BYTES = 1024**3
_CONNECT_SECONDS = 10.0
_ERROR = "ocf_secret"
#: Frames are masked and may be compressed: a secret that the origin repeats in them could not be redacted.
_NO_WEBSOCKET = (
    "a secret route carries no WebSocket; use the HTTP API of the origin (a long poll, server-sent events), or a "
    "WebSocket without a secret to a host of network.allow"
)


class SecretRoutes:
    """One server for all routes of an execution; `async with`, or `start` and `close`.

    Args:
        network_allow: the operator's `NETWORK_ALLOW`; the origin of each route must be within it.
        rerun: no request reaches an origin; `player` answers.
        resolver: resolves names.

    Attributes:
        recorder: records each exchange.
        player: answers the requests of a rerun; without one they are refused.
    """

    def __init__(self, network_allow: Iterable[str], *, rerun: bool = False, resolver: Resolve = resolve) -> None:
        self.recorder: RouteRecorder | None = None
        self.player: RoutePlayer | None = None
        self._rerun = rerun
        self._running: set[asyncio.Task[None]] = set()
        #: Redact it in output: it is worthless elsewhere, but it opens the routes.
        self.token = secrets.token_urlsafe(24)
        self._operator = tuple(network_allow)
        self._routes: dict[str, Route] = {}
        self._allowed: dict[tuple[str, int], EgressRules] = {}
        self._server = Server(self)
        transport = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=None), trust_env=False)
        self._client = httpx2.AsyncClient(
            transport=connected_through(CheckedNetwork(self._check_addresses, resolver), transport),
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=None, write=None, pool=None),
        )

    async def __aenter__(self) -> SecretRoutes:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def port(self) -> int:
        """Return the port on 127.0.0.1; 0 before `start`."""
        return self._server.port

    async def start(self) -> None:
        """Listen on a free loopback port."""
        await self._server.start()

    async def close(self) -> None:
        """Cut every connection and free the port."""
        running = list(self._running)
        await self._server.close()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.aclose()

    def open(self, route: Route) -> str:
        """Open a route and return its base URL, without a trailing slash.

        Raises:
            Refused, InvalidRule: its host is not within `NETWORK_ALLOW`.
        """
        if not self._rerun:
            host, port = origin_of(route.url)
            allowed = rules([f"{host}:{port}"], self._operator)
            allowed.check(host, port)
            self._allowed[(host, port)] = allowed
        self._routes[route.name] = route
        return f"http://127.0.0.1:{self.port}/{self.token}/{route.name}"

    def _check_addresses(self, host: str, port: int, addresses: list[str]) -> None:
        try:
            for address in addresses:
                self._allowed[(host, port)].check_address(host, port, address)
        except Refused as refusal:
            raise httpcore2.UnsupportedProtocol(str(refusal)) from None

    # Interface of the HTTP server.
    def admit(self, request: Request) -> tuple[int, bytes] | None:
        """Return None, or a refusal before the body is read."""
        try:
            route, path = self._found(request.path)
            route.check(request.method, path, request.query)
            if request.headers.get("upgrade", "").lower() == "websocket":
                raise RouteRefused(501, _NO_WEBSOCKET)
        except RouteRefused as refusal:
            log.info("secret route refused", action="secret_routes.refused", reason=str(refusal))
            return refusal.status, error_body(str(refusal), _ERROR)
        return None

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one admitted request."""
        route, path = self._found(request.path)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if self.recorder is None:
                await self._answer(route, path, request, reply)
            else:
                await self.recorder.record(
                    route.recorded_as, path, request, reply, lambda taped: self._answer(route, path, request, taped)
                )
        finally:
            self._running.discard(task)

    async def _answer(self, route: Route, path: str, request: Request, reply: Reply) -> bool:
        """Answer a request from its origin, or in a rerun from the recording; return whether the answer is whole."""
        if self._rerun:
            if self.player is not None:
                return await self.player.play(route.recorded_as, path, request, reply)
            await reply.whole(502, error_body(REFUSED, _ERROR))
            return True
        try:
            async with asyncio.timeout(route.seconds):
                await self._forward(route, path, request, reply)
            return True
        except TimeoutError:
            status, text = 504, f"no complete answer within {route.seconds:g} s"
        except httpx2.UnsupportedProtocol as error:
            status, text = 403, str(error)
        except httpx2.TransportError as error:
            status, text = 502, f"the origin cannot be reached: {str(error) or type(error).__name__}"
        except RouteRefused as refusal:
            status, text = refusal.status, str(refusal)
        if reply.started:
            reply.abort()
            return False
        await reply.whole(status, error_body(route.redactor(text), _ERROR))
        return True

    def _found(self, target: str) -> tuple[Route, str]:
        """Return the route of a request and the path below its URL."""
        _, _, rest = target.partition("/")
        token, _, rest = rest.partition("/")
        name, slash, path = rest.partition("/")
        route = self._routes.get(name)
        if target[:1] != "/" or not hmac.compare_digest(token.encode(), self.token.encode()) or route is None:
            raise RouteRefused(404, "no such route; use the URL of the environment variable OCF_SECRET_NAME_URL")
        return route, slash + path

    async def _forward(self, route: Route, path: str, request: Request, reply: Reply) -> None:
        base, _, query = route.url.partition("?")
        query = "&".join(filter(None, (query, request.query)))
        url = (base.rstrip("/") + path if path else base) + (f"?{query}" if query else "")
        body = bytes(request.body) if request.body or request.method in ("POST", "PUT", "PATCH") else None
        sent = self._client.build_request(
            request.method, url, headers=route.request_headers(request.headers), content=body
        )
        response = await self._client.send(sent, stream=True)
        try:
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding != "identity":
                # Redaction cannot see into it.
                raise RouteRefused(502, "the origin compressed its answer though it was asked not to")
            await self._pass_on(route, request.method, response, reply)
        finally:
            await response.aclose()

    async def _pass_on(self, route: Route, method: str, response: httpx2.Response, reply: Reply) -> None:
        length = response.headers.get("content-length", "") if method == "HEAD" else ""
        content_type = response.headers.get("content-type", "application/octet-stream")
        await reply.start(
            response.status_code,
            route.redactor(content_type),
            int(length) if length.isdecimal() else None,
            route.answer_headers(response.headers.raw),
        )
        # latin-1 maps every byte to one character and back. Secrets are ASCII, as header values.
        stream, size = route.redactor.stream(), 0
        async for data in response.aiter_raw():
            size += len(data)
            if size > MAX_ANSWER_BYTES:
                raise RouteRefused(502, f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            await reply.send(stream.feed(data.decode("latin-1")).encode("latin-1"))
        await reply.send(stream.flush().encode("latin-1"))
        await reply.end()
