"""The egress proxy with real sockets, and from inside the sandbox with a real tool."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from ocf.functions.execute.egress_proxy import EgressProxy, rules
from ocf.functions.execute.sandbox.policy import SandboxPolicy, sandbox_support
from ocf.functions.execute.sandbox.process import ProcessSpec, start_process


@pytest.fixture
async def site() -> AsyncIterator[int]:
    """A web server on loopback that answers with the request's first line and its proxy headers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # somebody who tries ports: other tests run beside this one
            return
        leaked = [line for line in head.split("\r\n") if line.lower().startswith("proxy-")]
        body = f"{head.splitlines()[0]} {leaked}".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def fake_names(host: str, port: int) -> list[str]:
    """`inside.example` and `site.example` lead to loopback; nothing is asked of a real resolver."""
    return {"site.example": ["127.0.0.1"], "inside.example": ["127.0.0.1"]}[host]


async def get(proxy: EgressProxy, url: str) -> httpx2.Response:
    async with httpx2.AsyncClient(proxy=proxy.env()["HTTP_PROXY"], trust_env=False) as client:
        return await client.get(url, timeout=10)


async def raw(proxy: EgressProxy, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(request.encode())
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def test_allowed_host_is_reached(site: int) -> None:
    """A request to an allowed host arrives, in origin form, without the proxy's own headers."""
    allowed = rules([f"site.example:{site}"], [f"site.example:{site}"])
    async with EgressProxy(allowed, resolver=fake_names) as proxy:
        answer = await get(proxy, f"http://site.example:{site}/path?q=1")
    assert answer.text == "GET /path?q=1 HTTP/1.1 []"


async def test_other_hosts_are_refused_by_name(site: int) -> None:
    """A host outside the list gets 403 with the reason, and the refusal is kept."""
    async with EgressProxy(rules([f"site.example:{site}"], ["*"]), resolver=fake_names) as proxy:
        answer = await get(proxy, f"http://inside.example:{site}/")
        assert answer.status_code == 403
        assert "network.allow" in answer.text
        assert list(proxy.refused) == [f"inside.example:{site} is not in the task's network.allow"]


async def test_names_that_lead_inside_are_refused(site: int) -> None:
    """An allowed name whose address is inside is refused: what a name means is the name owner's choice."""
    name = f"inside.example:{site}"
    async with EgressProxy(rules([name], [f"*.example:{site}"]), resolver=fake_names) as proxy:
        answer = await get(proxy, f"http://{name}/")
    assert answer.status_code == 403
    assert "inside address 127.0.0.1" in answer.text


async def test_tunnel_relays_both_ways(site: int) -> None:
    """CONNECT to an allowed host gives a tunnel."""
    name = f"site.example:{site}"
    async with EgressProxy(rules([name], [name]), resolver=fake_names) as proxy:
        credentials = httpx2.URL(proxy.env()["HTTPS_PROXY"])
        auth = httpx2.BasicAuth(credentials.username, credentials.password)._auth_header
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\nProxy-Authorization: {auth}\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection Established\r\n\r\n"
        writer.write(b"GET /in HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"GET /in HTTP/1.1 []")
        writer.close()


async def test_strangers_are_refused(site: int) -> None:
    """Without the token that only this agent has, nothing is relayed."""
    name = f"site.example:{site}"
    async with EgressProxy(rules([name], [name]), resolver=fake_names) as proxy:
        answer = await raw(proxy, f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 407")


async def test_close_cuts_tunnels(site: int) -> None:
    """Closing the proxy ends what still runs through it."""
    name = f"site.example:{site}"
    proxy = EgressProxy(rules([name], [name]), resolver=fake_names)
    await proxy.start()
    credentials = httpx2.URL(proxy.env()["HTTPS_PROXY"])
    auth = httpx2.BasicAuth(credentials.username, credentials.password)._auth_header
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(f"CONNECT {name} HTTP/1.1\r\nProxy-Authorization: {auth}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await proxy.close()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


@pytest.mark.skipif(bool(sandbox_support().missing), reason="needs the sandbox")
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl_in_the_sandbox(site: int, tmp_path: Path) -> None:
    """In the sandbox, curl reaches the allowed host through the proxy, and nothing without it."""
    name = f"site.example:{site}"
    async with EgressProxy(rules([name], [name]), resolver=fake_names) as proxy:
        script = (
            f"curl -sS http://{name}/ok; echo; "
            f"curl -sS http://other.example/; "
            f"curl -sS --noproxy '*' http://127.0.0.1:{site}/direct"
        )
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), **proxy.env()}
        policy = SandboxPolicy((tmp_path,), connect_ports=(proxy.port,))
        process = await start_process(ProcessSpec(("/bin/sh", "-c", script), tmp_path, env, policy, 50, 2**30))
        await asyncio.wait_for(process.exited(), 30)
        await process.stop()
    output = "\n".join(process.stdout_lines)
    assert "GET /ok HTTP/1.1 []" in output
    assert "other.example:80 is not in the task's network.allow" in output
    assert "GET /direct" not in output
