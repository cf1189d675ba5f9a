"""An agent on the scripted or the real OpenCode, as the tests start it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ocf.events.output import ChunkType, Draft
from ocf.events.ports import Clock
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent.agent import Agent, AgentResult, PromptSpec
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.sandbox.policy import sandbox_support

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = ROOT / "tests/agent/opencode"
RIPGREP = next(iter(ROOT.glob(".tools/node_modules/@vscode/ripgrep-*/bin/rg")), None)
MODEL = AgentModel("openai", "scripted")


def server_spec(
    folder: Path, *, binary: Path = SCRIPTED, url: str = "http://127.0.0.1:9", token: str = "t"
) -> ServerSpec:
    """A server in `folder`/workspace with `folder`/home, sandboxed where this kernel can."""
    workspace, home = folder / "workspace", folder / "home"
    workspace.mkdir(exist_ok=True)
    home.mkdir(exist_ok=True)
    return ServerSpec(
        binary=binary,
        directory=workspace,
        home=home,
        model_proxy_url=url,
        model_proxy_token=token,
        models=(MODEL,),
        sandboxed=not sandbox_support().missing,
        # Whatever is not the model proxy must fail at once: an install from a registry at run time would show.
        env={"npm_config_registry": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
        tools=(RIPGREP,) if RIPGREP else (),
    )


@dataclass
class Heard:
    """Every draft of a run, and a way to wait for one."""

    drafts: list[Draft] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def emit(self, draft: Draft) -> None:
        async with self._changed:
            self.drafts.append(draft)
            self._changed.notify_all()

    async def until(self, wanted: Callable[[Draft], bool], timeout: float = 20.0) -> Draft:
        """The first draft that is wanted, past ones included."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: any(map(wanted, self.drafts)))
        return next(filter(wanted, self.drafts))

    def of(self, type: ChunkType) -> list[Draft]:
        return [draft for draft in self.drafts if draft.type is type]

    def said(self, type: ChunkType = ChunkType.TEXT) -> str:
        return "".join(draft.data for draft in self.of(type))


class Runner:
    """Starts servers and ends all of them with the test."""

    def __init__(self, folder: Path) -> None:
        self.spec = server_spec(folder)
        self.heard = Heard()
        self.servers: list[AgentServer] = []

    async def agent(self, turn: PromptSpec | None = None, clock: Clock | None = None, **spec: object) -> Agent:
        server = await AgentServer.start(replace(self.spec, **spec))  # type: ignore[arg-type]
        self.servers.append(server)
        return Agent(server, turn or PromptSpec(MODEL), clock or SystemClock())

    async def run(self, prompt: str, turn: PromptSpec | None = None) -> AgentResult:
        return await (await self.agent(turn)).run(prompt, self.heard.emit)

    async def close(self) -> None:
        for server in self.servers:
            await server.stop(0.0)
