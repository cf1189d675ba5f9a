"""Secret routes and remote MCP servers in a rerun: what was recorded is answered again, without origin and secret."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import httpx2
import zstandard
from mcp import Client

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.base_model import Sealed
from ocf.events.execution_ref import ExecutionRef
from ocf.events.optional_task_fields import RemoteMcp, Rerun
from ocf.events.redaction import Redactor, forms_of
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.inputs.mcp import remote_routes
from ocf.functions.execute.model_proxy.played_call import Player
from ocf.functions.execute.secret_routes import Route, SecretRoutes
from ocf.functions.execute.secret_routes.route_recording import RoutePlayer, RouteRecorder
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.line_types import VERSION, Head
from ocf.functions.recording.model_call_recorder import Recorder
from ocf.functions.recording.playback import Playback
from ocf.functions.recording.recorded_calls_reader import read
from tests.integration.test_secret_routes import VALUE, Origin
from tests.support.mcp import TOKEN, tracker

REF = ExecutionRef("p", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
KEY = "ab" * 32
Use = Callable[[str], Awaitable[Any]]


async def recorded(route: Route, allow: str, use: Use, secret: str) -> tuple[Any, bytes]:
    """Return what `use` gets from the route's URL, and the recording. It has the secret in no spelling."""
    store = MemoryStore()
    head = Head(version=VERSION, attempt=1, key=KEY, holds="answers")
    recorder = Recorder(store, REF, head, PartTable(KEY, Redactor([secret])), SystemClock())
    async with SecretRoutes([allow]) as routes:
        routes.recorder = RouteRecorder(recorder)
        result = await use(routes.open(route))
    await recorder.close(5.0)
    data = b"".join([await store.get(one.key) async for one in store.list(REF.object_key("model/"))])
    inflated = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    assert not [form for form in forms_of(secret) if form.encode() in inflated]
    return result, data


async def played(route: Route, data: bytes, use: Use) -> tuple[Any, list[str]]:
    """What `use` returns in a rerun, whose route has no origin, and the differences."""
    playback = Playback(read(BytesIO(data)), Rerun(of=REF.execution), PartTable(KEY, Redactor()), complete=True)
    async with SecretRoutes([], rerun=True) as routes:
        routes.player = RoutePlayer(Player(playback, [], complete=True))
        result = await use(routes.open(route))
    return result, [one.text or "" for one in playback.result.divergences]


async def test_an_api_behind_a_secret_answers_a_rerun_as_it_did(unused_tcp_port: int) -> None:
    """Status, headers and body of each request, in another order, too; what was not asked then is refused and said."""
    origin = Origin()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", unused_tcp_port)

    def use(*paths: str) -> Use:
        async def ask(base: str) -> dict[str, Any]:
            found = {}
            async with httpx2.AsyncClient(trust_env=False, timeout=20) as client:
                for path in paths:
                    body = b"\xff\x00body" if "post" in path else None
                    answer = await client.request("POST" if body else "GET", f"{base}{path}", content=body)
                    kept = {name: answer.headers[name] for name in ("location", "x-echo") if name in answer.headers}
                    found[path] = (answer.status_code, kept, answer.content)
            return found

        return ask

    url = f"http://127.0.0.1:{unused_tcp_port}/api"
    route = Route("KEY", url, {"X-Key": f"Key {VALUE}"}, Redactor([VALUE]))
    paths = ("/echo", "/halves?q=1", "/redirect", "/big", "/gzip", "/post")
    first, data = await recorded(route, f"127.0.0.1:{unused_tcp_port}", use(*paths), VALUE)
    server.close()
    asked = len(origin.heads)
    assert asked == len(paths)
    assert first["/gzip"][0] == 502
    again, differs = await played(Route("KEY", url, {}, Redactor()), data, use(*reversed(paths)))
    assert (again, differs) == (first, [])
    other, differs = await played(Route("KEY", url, {}, Redactor()), data, use("/other"))
    assert other["/other"][0] == 502
    assert b"a rerun reaches no network" in other["/other"][2]
    assert differs == ["GET /other: not in the recording"]
    assert len(origin.heads) == asked


async def test_a_remote_mcp_server_answers_a_rerun_as_it_did() -> None:
    """The client of the protocol's own SDK lists and calls the tools of a server that is gone, without its token."""

    async def use(url: str) -> tuple[list[str], list[str]]:
        async with Client(url) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            said = [str((await client.call_tool("whoami", {})).content) for _ in range(2)]
        return names, said

    sealed = Sealed(kid="k", nonce="AAAAAAAAAAAAAAAA", ciphertext="")
    async with tracker() as (port, guard):
        url, allow = f"http://127.0.0.1:{port}/mcp", f"127.0.0.1:{port}"
        server = RemoteMcp(type="remote", url=url, headers={"Authorization": sealed})
        (route,) = remote_routes({"tracker": server}, lambda _: f"Bearer {TOKEN}", lambda _: None).values()
        first, data = await recorded(route, allow, use, TOKEN)
        assert guard.refused == 0
    assert first[0] == ["whoami"]
    assert "[redacted]" in first[1][0]
    (route,) = remote_routes({"tracker": RemoteMcp(type="remote", url=url)}, lambda _: "", lambda _: None).values()
    assert await played(route, data, use) == (first, [])
