"""What the agent's side of an attempt needs: files, broker, OpenCode; one after the other, and put away again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from events.errors import Retry
from events.facts import Artifact, DiffSummary
from events.lifecycle import Reason
from events.models import Execute
from events.output import ChunkType, Draft, Usage
from events.ports import ObjectInfo
from events.redact import Redactor
from functions import logs, workspace
from functions.execute.agent import Agent, AgentServer, TurnSpec
from functions.execute.agent_config import AgentModel, ServerSpec
from functions.execute.broker import Broker, BrokerFailure, Hooks
from functions.execute.outcome import Kept
from functions.execute.process import AgentFailed
from functions.execute.shop import Shop
from functions.execute.watchdog import Activity
from functions.models.endpoints import BadEndpoint
from functions.models.resolve import NoModel
from functions.models.target import ModelTarget

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]

FOLLOW_UP = "prompt"
_ABORT = 0.15
_GRACE = 0.3
_ARTIFACTS = {"workspace.patch": "text/x-patch", "workspace.tar.zst": "application/zstd"}


class Turn:
    """The agent's side of one attempt. `run` ends when the agent is done; `kill` ends it from outside."""

    def __init__(self, shop: Shop, task: Execute, directory: Path, activity: Activity) -> None:
        self._shop = shop
        self._task = task
        self._directory = directory
        self._activity = activity
        self._broker = Broker(shop.upstream, shop.parts.clock)
        self._agent: Agent | None = None
        self._server: AgentServer | None = None
        self._workspace: workspace.Prepared | None = None
        self._follow_ups: deque[str] = deque()
        self._on_failure: Callable[[BrokerFailure], None] = lambda _: None
        self._on_usage: Callable[[Usage], None] = lambda _: None
        self._refused: str | None = None
        self.result = ""

    @property
    def redactor(self) -> Redactor:
        """Knows every secret of this execution."""
        return self._broker.redactor

    @property
    def usage(self) -> Usage:
        """Totals of the model calls."""
        return self._broker.usage

    def on_failure(self, listener: Callable[[BrokerFailure], None]) -> None:
        """Called once when the broker decides that the execution must end."""
        self._on_failure = listener

    def on_usage(self, listener: Callable[[Usage], None]) -> None:
        """Called when the totals have changed."""
        self._on_usage = listener

    async def run(self, emit: Emit) -> None:
        """Prepare, start, prompt until idle, and the follow-ups that came meanwhile.

        Raises:
            InvalidWorkspace, SealError, AgentFailed, OutputLimit.
        """
        target = self._target()
        await emit(_phase("workspace", f"preparing the workspace ({self._task.workspace.source})"))
        self._workspace = await self._prepare()
        await emit(_phase("agent", "starting OpenCode"))
        await self._start(target)
        assert self._agent is not None
        await emit(_phase("model", f"asking {target.display_name}"))
        prompt: str | None = prompt_text(self._task)
        while prompt is not None:
            self.result = (await self._agent.run(prompt, emit)).text
            prompt = self._follow_ups.popleft() if self._follow_ups else None
        await emit(usage_draft(self.usage))

    def _target(self) -> ModelTarget:
        try:
            target = self._shop.target(self._task)
        except (NoModel, BadEndpoint) as error:
            raise AgentFailed(Reason.MODEL_ERROR, str(error)) from None
        if target.api_key is not None:
            logs.SECRETS.add(target.api_key.get_secret_value())
        return target

    async def _prepare(self) -> workspace.Prepared:
        settings, task = self._shop.parts.settings, self._task
        token = None
        if task.workspace.source == "git" and task.workspace.token is not None:
            token = self._shop.opened(task.workspace.token, task.project_id).get_secret_value()
            self.redactor.add(token)
        sources = workspace.Sources(
            roots=tuple(Path(root) for root in settings.workspace_sources),
            shared=settings.workspace_dir,
            objects=self._shop.parts.store,
            project=task.project_id,
            limits=workspace.Limits(max_bytes=task.limits.max_workspace_bytes or settings.max_workspace_bytes),
        )
        target, private = self._directory / "workspace", self._directory / "base"
        return await workspace.prepare(task.workspace, target, sources, private=private, token=token)

    async def _start(self, target: ModelTarget) -> None:
        assert self._workspace is not None
        hooks = Hooks(
            on_activity=self._activity.note,
            on_usage=lambda usage: self._on_usage(usage),
            on_failure=lambda failure: self._on_failure(failure),
        )
        await self._broker.start()
        self._broker.assign(target, self._task.limits, hooks)
        if self._refused is not None:
            self._broker.refuse(self._refused)
        settings, limits = self._shop.parts.settings, self._task.limits
        model = AgentModel(
            kind=target.kind, name=target.wire_model, temperature=target.temperature, max_tokens=target.max_tokens
        )
        home = self._directory / "home"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec = ServerSpec(
            binary=self._shop.binary,
            directory=self._workspace.directory,
            home=home,
            broker_url=self._broker.base_url,
            broker_token=self._broker.token,
            models=(model,),
            sandboxed=self._shop.sandboxed,
            max_processes=limits.max_processes or settings.max_processes,
            max_memory_bytes=limits.max_memory_bytes or settings.max_memory_bytes,
        )
        self._server = await AgentServer.start(spec)
        turn = TurnSpec(
            model=model,
            permissions=self._task.permissions,
            enabled_tools=target.enabled_tools,
            system_prompt=target.system_prompt,
            answer_seconds=limits.answer_seconds,
            title=self._task.task_id or "task",
        )
        self._agent = Agent(self._server, turn, self._shop.parts.clock)

    async def reply(self, request_id: str, answer: str) -> None:
        """An answer to what the agent asked; under the id `prompt`, or one nobody waits for, a follow-up prompt."""
        if request_id != FOLLOW_UP and self._agent is not None and await self._agent.answer(request_id, answer):
            return
        if request_id == FOLLOW_UP:
            self._follow_ups.append(answer)

    def refuse(self, reason: str) -> None:
        """End all spending now."""
        self._refused = reason
        self._broker.refuse(reason)

    async def kill(self) -> int:
        """End OpenCode and everything below it; how many processes are left (0)."""
        server, agent = self._server, self._agent
        self._agent = None
        if server is None:
            return 0
        if agent is not None:
            await asyncio.wait([asyncio.ensure_future(agent.abort())], timeout=_ABORT)
        report = await server.stop(_GRACE)
        return report.left

    async def keep(self, emit: Emit, seconds: float) -> Kept:
        """Store what the run left in the workspace.

        What cannot be stored in time is said, and does not hold the end up.
        """
        if self._workspace is None:
            return Kept()
        diff = DiffSummary()
        try:
            folder = self._directory / "artifacts"
            folder.mkdir(mode=0o700, exist_ok=True)
            diff, _ = await workspace.conclude(self._workspace, folder / "workspace.patch")
            await workspace.pack(self._workspace, folder / "workspace.tar.zst")
            async with asyncio.timeout(seconds):
                return Kept(diff, tuple(await self._store(folder)))
        except (TimeoutError, Retry, workspace.InvalidWorkspace) as error:
            said = f"the workspace could not be stored: {error or 'S3 did not answer in time'}"
            await emit(Draft(type=ChunkType.GAP, data=said, detail={"reason": "not_stored"}))
            return Kept(diff)

    async def _store(self, folder: Path) -> list[Artifact]:
        artifacts = []
        for name, content_type in _ARTIFACTS.items():
            key = f"{self._task.project_id}/{self._task.execution_id}/{name}"
            info = await self._put(key, folder / name, content_type)
            artifacts.append(Artifact(name=name, size=info.size, sha256=info.sha256 or ""))
        return artifacts

    async def _put(self, key: str, path: Path, content_type: str) -> ObjectInfo:
        while True:
            try:
                return await self._shop.parts.store.put_file(key, path, content_type=content_type)
            except Retry as error:
                log.warning("artifact not stored yet", action="run.artifact_retry", key=key, reason=str(error))
                await self._shop.parts.clock.sleep(1.0)

    async def close(self) -> None:
        """Put everything away."""
        await self.kill()
        await self._broker.close()
        if self._broker.target is not None and self._broker.target.api_key is not None:
            logs.SECRETS.remove(self._broker.target.api_key.get_secret_value())


def prompt_text(task: Execute) -> str:
    """The prompt as the agent gets it: what is asked, the context, the code."""
    parts = [task.prompt.strip()] if task.prompt else []
    if task.context:
        context = task.context if isinstance(task.context, str) else _listed(task.context)
        parts.append(f"Context:\n{context}")
    if task.code:
        parts.append(f"Code:\n```\n{task.code}\n```")
    return "\n\n".join(parts)


def _listed(context: dict[str, object]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in context.items())


def usage_draft(usage: Usage) -> Draft:
    """The totals as a chunk."""
    said = f"{usage.requests} model calls, {usage.total_tokens} tokens, ${usage.cost_usd:.4f}"
    return Draft(type=ChunkType.USAGE, data=said, detail=usage.model_dump())


def _phase(phase: str, text: str) -> Draft:
    return Draft(type=ChunkType.STATUS, data=text, detail={"phase": phase})
