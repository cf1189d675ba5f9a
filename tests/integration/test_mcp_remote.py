"""A remote MCP server behind a sealed header: the model uses its tools, and the agent cannot learn the secret."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ocf.events.optional_task_fields import RemoteMcp
from ocf.events.output import ChunkType
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.inputs.mcp import remote_routes, start_servers
from ocf.functions.execute.secret_routes import SecretRoutes
from ocf.functions.models.offline_model import OfflineModel
from tests.support.agents import MODEL, ROOT, Heard, server_spec
from tests.support.mcp import TOKEN, tracker
from tests.support.offline import OPENCODE, offline_spec

pytestmark = [
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(180),
]


async def test_the_header_is_added_outside_the_sandbox_and_its_value_never_comes_back(tmp_path: Path) -> None:
    """Without the route the server refuses; what it says back of the header is redacted; another URL is not reached."""
    keyring = Keyring(generate_key())
    heard, hidden = Heard(), list[str]()
    async with (
        tracker() as (port, guard),
        OfflineModel(offline_spec([ROOT / "tests/support/task-field-cases.json"])) as model,
        SecretRoutes([f"127.0.0.1:{port}"]) as routes,
    ):
        url = f"http://127.0.0.1:{port}/mcp"
        headers = {"Authorization": keyring.seal(f"Bearer {TOKEN}", "default"), "X-Team": "web"}
        servers = {"tracker": RemoteMcp(type="remote", url=url, headers=headers)}
        found = remote_routes(servers, lambda sealed: keyring.open(sealed, "default"), hidden.append)
        urls = {name: routes.open(route) for name, route in found.items()}
        spec = server_spec(tmp_path, binary=OPENCODE, url=model.base_url)
        server = await AgentServer.start(replace(spec, connect_ports=(routes.port,)), timeout=120)
        try:
            await start_servers(server.client, servers, urls, heard.emit)
            assert [draft.data for draft in heard.drafts] == ["MCP server tracker is ready"]
            agent = Agent(server, PromptSpec(MODEL), SystemClock())
            assert (await agent.run("ask-remote", heard.emit)).text == "Asked."
            conversation = json.dumps(await agent.export())
            places = [Path(f"/proc/{server.process.pid}/{name}").read_bytes() for name in ("environ", "cmdline")]
        finally:
            await server.stop(0.0)
        journal = json.dumps(await model.journal())
    assert guard.refused == 0
    assert {seen["x-team"] for seen in guard.seen} == {"web"}
    assert not [seen for seen in guard.seen if "cookie" in seen]
    results = [draft.data for draft in heard.drafts if draft.type is ChunkType.TOOL_RESULT]
    assert "You are [redacted]" in results[0]
    assert {TOKEN, f"Bearer {TOKEN}"} <= set(hidden)
    assert TOKEN not in conversation + journal
    assert not [place for place in places if TOKEN.encode() in place]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
