"""The client of a gateway: tokens that end, for which it asks once, names, redirects and its address."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ocf.events.client.gateway import Address, GatewayClient, connect
from ocf.events.client.gateway_retry import CallFailed, Unreachable


def client(tokens: list[str], accepted: str) -> tuple[GatewayClient, list[str]]:
    """A client whose tokens are these, one at each look; and the tokens that its calls were sent with."""
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.headers["Authorization"].removeprefix("Bearer "))
        if sent[-1] == accepted:
            return httpx2.Response(200, json={"ok": True})
        return httpx2.Response(401, json={"detail": "the token has expired"})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))

    def find() -> Address:
        return Address("http://h", tokens.pop(0) if len(tokens) > 1 else tokens[0])

    return GatewayClient(find(), find, http), sent


async def test_a_call_is_repeated_with_a_new_token() -> None:
    """Once: what gives another token each time does not make it a loop."""
    gateway, sent = client(["first", "second"], "second")
    assert await gateway.call("GET", "/tasks") == {"ok": True}
    assert sent == ["first", "second"]
    gateway, sent = client(["first", "second", "third"], "third")
    with pytest.raises(CallFailed, match="the token has expired"):
        await gateway.call("GET", "/tasks")
    assert sent == ["first", "second"]


async def test_a_call_is_not_repeated_with_the_same_token() -> None:
    """Its refusal is the answer."""
    gateway, sent = client(["first"], "another")
    with pytest.raises(CallFailed, match="the token has expired"):
        await gateway.call("GET", "/tasks")
    assert sent == ["first"]


@pytest.mark.parametrize("name", ["", "..", "a/../b", "a?x=1", "a#x"])
async def test_a_name_that_would_be_another_address_is_refused(name: str) -> None:
    """Nothing is sent: the call would be one for something else."""
    gateway, sent = client(["first"], "first")
    with pytest.raises(CallFailed, match="an id or a name"):
        await gateway.call("DELETE", f"/triggers/{name}")
    assert sent == []


@pytest.mark.parametrize("location", ["https://h/tasks", "/tasks", None])
async def test_a_redirect_is_no_success(tmp_path: Path, location: str | None) -> None:
    """An ingress redirects plain HTTP: the gateway has done nothing, so no call may look as if it had."""
    headers = {"Location": location} if location else {}
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(301, headers=headers)))
    gateway = GatewayClient(Address("http://h"), lambda: Address("http://h"), http)
    (tmp_path / "bundle").write_bytes(b"x")
    said = f"redirects to {location}; use that address" if location else "the gateway answered 301"
    with pytest.raises(CallFailed, match=said) as called:
        await gateway.call("POST", "/tasks/x/cancel")
    with pytest.raises(CallFailed, match=said) as downloaded:
        assert [piece async for piece in gateway.download("/tasks/x/output")] == []
    with pytest.raises(CallFailed, match=said) as uploaded:
        await gateway.upload("/bundles", tmp_path / "bundle", "application/x-tar")
    assert [one.value.status for one in (called, downloaded, uploaded)] == [301, 301, 301]


async def test_a_connection_asks_once_for_its_address() -> None:
    """A context's token command, which may ask its user something, runs once."""
    looks: list[str] = []

    def find() -> Address:
        looks.append("look")
        return Address("http://h")

    async with connect(find) as gateway:
        assert gateway.address.url == "http://h"
    assert looks == ["look"]


async def test_a_token_that_was_renewed_while_the_gateway_is_away_is_used() -> None:
    """The stream's token ends, the look for another one finds it, and no gateway: afterwards that token is sent."""
    gateway, _ = client(["first", "second"], "second")
    sent, away = list[str | None](), [Unreachable("away")]

    async def verify() -> None:
        if away:
            raise away.pop()

    async def stream(*_: Any) -> AsyncGenerator[tuple[dict[str, Any], bytes], None]:
        sent.append(gateway.address.token)
        if sent[-1] == "first":
            raise CallFailed("the token has expired", 401)
        yield {"type": "end", "sequence": 1}, b'{"type":"end","sequence":1}'

    gateway.verify, gateway._stream = verify, stream  # type: ignore[method-assign]
    assert [chunk["type"] async for chunk in gateway.watch("x")] == []
    assert sent == ["first", "second"]
