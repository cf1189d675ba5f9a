"""Secret routes against an origin that says everything back, and an agent that wants the secret."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx2
import pytest

from ocf.events.redaction import Redactor, forms_of
from ocf.functions.execute.egress_proxy import Refused
from ocf.functions.execute.secret_routes import Route, SecretRoutes

VALUE = "tok-9xQ4+secret/0123456789="


class Origin:
    """A server that records each request and answers with what the path names."""

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(int(headers.get("content-length", "0"))))
        path = head.split(" ")[1]
        if "/silent" in path:
            await reader.read()  # until the route gives up
        else:
            await self.answer(path, headers, writer)
        writer.close()

    async def answer(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        value = headers.get("x-key", "").removeprefix("Key ")
        status, more, body = "200 OK", "", b"ok"
        if "/redirect" in path:
            status, more = (
                "302 Found",
                f"location: http://127.0.0.1:1/stolen?{value}\r\nset-cookie: session={value}\r\n",
            )
        elif "/echo" in path:
            forms = [
                value,
                quote(value, safe=""),
                base64.b64encode(f"x:{value}".encode()).decode(),
                value.encode().hex(),
            ]
            body = " ".join(forms).encode()
            more = f"x-echo: {value}\r\n"
        elif "/gzip" in path:
            more, body = "content-encoding: gzip\r\n", gzip.compress(value.encode())
        elif "/big" in path:
            body = b"x" * 300_000
        if "/halves" in path:
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + value[:9].encode())
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(value[9:].encode())
        else:
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body)
        await writer.drain()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    origin = Origin()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    origin.port = server.sockets[0].getsockname()[1]
    yield origin
    server.close()


@asynccontextmanager
async def opened(origin: Origin, path: str = "", **rules: object) -> AsyncIterator[tuple[httpx2.AsyncClient, str]]:
    """A route to the origin, and a client that sends paths as they are."""
    async with SecretRoutes([f"127.0.0.1:{origin.port}"]) as routes:
        url = f"http://127.0.0.1:{origin.port}{path}"
        route = Route("KEY", url, {"X-Key": f"Key {VALUE}"}, Redactor([VALUE]), **rules)  # type: ignore[arg-type]
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
            yield client, routes.open(route)


async def raw(base: str, head: str) -> bytes:
    """Send a request head byte by byte as given; `BASE` stands for the route's path."""
    port, _, path = base.removeprefix("http://127.0.0.1:").partition("/")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    try:
        writer.write(head.replace("BASE", "/" + path).encode() + b"\r\nConnection: close\r\n\r\n")
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_the_secret_is_added_on_the_way_out(origin: Origin) -> None:
    """Method, path, query, body and harmless headers arrive as sent, at the origin's host, with the secret header."""
    async with opened(origin, "/base") as (client, base):
        answer = await client.post(f"{base}/a%2Fb/c?q=1%20&r", content=b"body", headers={"Git-Protocol": "version=2"})
    assert answer.text == "ok"
    head = origin.heads[0].lower()
    assert head.startswith("post /base/a%2fb/c?q=1%20&r http/1.1\r\n")
    assert f"host: 127.0.0.1:{origin.port}\r\n" in head
    assert f"x-key: key {VALUE.lower()}\r\n" in head
    assert "git-protocol: version=2\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert origin.bodies == [b"body"]


async def test_the_base_url_itself_has_no_slash_added(origin: Origin) -> None:
    """An endpoint such as a remote MCP server is reached at exactly its URL."""
    async with opened(origin, "/mcp") as (client, base):
        await client.post(base, content=b"{}")
    assert origin.heads[0].startswith("POST /mcp HTTP/1.1")


async def test_the_secret_is_redacted_in_answers(origin: Origin) -> None:
    """Body and headers of an origin that repeats the secret carry it in no spelling: plain, URL-encoded, base64 inside
    a longer text, hexadecimal, cut into two pieces."""
    async with opened(origin) as (client, base):
        answers = [await client.get(f"{base}/{path}") for path in ("echo", "halves")]
    assert answers[0].headers["x-echo"] == "[redacted]"
    assert answers[1].text == "[redacted]"
    said = "".join(f"{answer.text} {answer.headers}" for answer in answers)
    assert [form for form in forms_of(VALUE) if form in said] == []


async def test_redirects_are_returned_and_not_followed(origin: Origin) -> None:
    """The agent gets the redirect, without the secret in it and without cookies; the origin got one request."""
    async with opened(origin) as (client, base):
        answer = await client.get(f"{base}/redirect")
    assert answer.status_code == 302
    assert answer.headers["location"] == "http://127.0.0.1:1/stolen?[redacted]"
    assert "set-cookie" not in answer.headers
    assert len(origin.heads) == 1


@pytest.mark.parametrize(
    "header",
    [
        "Host: attacker.example",
        "X-Forwarded-Host: attacker.example",
        "Range: bytes=0-3",
        "Accept-Encoding: gzip",
        "Authorization: Bearer mine",
        "Cookie: a=b",
        "X-Key: mine",
        "X-HTTP-Method-Override: DELETE",
        "X_HTTP_Method_Override: DELETE",
        "X-Original-URL: /admin",
        "Proxy-Authorization: Basic mine",
        "Connection: x-key",
    ],
)
async def test_headers_that_could_reveal_the_secret_are_dropped(origin: Origin, header: str) -> None:
    """No header of the agent changes host, method, path, encoding or credentials of the request to the origin."""
    async with opened(origin) as (_, base):
        host = "" if header.startswith("Host") else "Host: x\r\n"
        assert b" 200 " in await raw(base, f"GET BASE/x HTTP/1.1\r\n{host}{header}")
    head = origin.heads[0]
    assert header.lower() not in head.lower()
    assert f"\r\nX-Key: Key {VALUE}\r\n" in head
    assert f"\r\nHost: 127.0.0.1:{origin.port}\r\n" in head


@pytest.mark.parametrize(
    "target",
    [
        "BASE/a/../b",
        "BASE/a/%2e%2e/b",
        "BASE/a/..%2fb",
        "BASE/a/..;/b",
        "BASE/a/%252e%252e/b",
        "BASE/a/..\\b",
        "BASE/a/%5c..%5cb",
        "BASE/a/%00",
        "BASE/a#/b",
        "BASE/b",
        "BASE/a",
        "BASE/a%2fb",
        "BASE",
        "/wrong-token/KEY/a/b",
        "BASE2/a/b",
        "http://attacker.example/a/b",
    ],
)
async def test_paths_outside_the_patterns_do_not_reach_the_origin(origin: Origin, target: str) -> None:
    """However a path is spelled, only paths within the patterns are forwarded."""
    async with opened(origin, paths=("/a/*",)) as (_, base):
        answer = await raw(base, f"GET {target} HTTP/1.1\r\nHost: x")
        assert b" 200 " in await raw(base, "GET BASE/a/b HTTP/1.1\r\nHost: x")
    assert answer.split(b" ")[1] in (b"400", b"403", b"404")
    assert len(origin.heads) == 1


async def test_methods_are_limited(origin: Origin) -> None:
    """A method that is not listed is refused, and TRACE, which repeats the request, always is."""
    async with opened(origin, methods=("GET",)) as (client, base):
        assert (await client.post(f"{base}/x")).status_code == 405
    async with opened(origin) as (client, base):
        assert (await client.request("TRACE", f"{base}/x")).status_code == 405
    assert origin.heads == []


async def test_a_compressed_answer_is_refused(origin: Origin) -> None:
    """An origin that compresses although it was asked not to could hide the secret from redaction."""
    async with opened(origin) as (client, base):
        answer = await client.get(f"{base}/gzip")
    assert answer.status_code == 502
    assert "compressed" in answer.text


async def test_answers_are_bounded(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A too long answer is cut so that the client sees it as incomplete; one that never comes ends in 504."""
    monkeypatch.setattr("ocf.functions.execute.secret_routes.routes.MAX_ANSWER_BYTES", 100_000)
    async with opened(origin) as (client, base):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(f"{base}/big")
    async with opened(origin, seconds=0.3) as (client, base):
        assert (await client.get(f"{base}/silent")).status_code == 504


async def test_an_origin_outside_the_operators_list_is_refused() -> None:
    """The operator's NETWORK_ALLOW is the ceiling for secrets, too."""
    async with SecretRoutes(["pypi.org"]) as routes:
        with pytest.raises(Refused, match="NETWORK_ALLOW"):
            routes.open(Route("KEY", "https://api.example/", {"X": VALUE}, Redactor([VALUE])))


async def test_a_name_that_changes_its_address_is_refused(origin: Origin) -> None:
    """DNS rebinding: each connection resolves the name once, checks what it got and connects to that. A name that has
    become an inside address gets no request, also when it has a public address beside it."""
    answers = iter((["127.0.0.1"], ["203.0.113.1", "127.0.0.1"]))

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    async with SecretRoutes([f"*.example:{origin.port}"], resolver=rebinding) as routes:
        base = routes.open(Route("KEY", f"http://api.example:{origin.port}", {"X": VALUE}, Redactor([VALUE])))
        async with httpx2.AsyncClient(trust_env=False) as client:
            refused = [await client.get(f"{base}/x") for _ in range(2)]
    assert [answer.status_code for answer in refused] == [403, 403]
    assert all("inside address" in answer.text for answer in refused)
    assert next(answers, None) is None
    assert origin.heads == []
