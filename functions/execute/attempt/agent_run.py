"""The agent's side of an attempt: OpenCode, workspace and model proxy, from setup to cleanup."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import structlog

from ocf.events.commands import Execute
from ocf.events.errors import SealError, Unavailable
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, Usage
from ocf.events.redaction import Redactor
from ocf.events.session_record import Session
from ocf.functions import workspace
from ocf.functions.core.session_repository import Sessions
from ocf.functions.core.stored_objects import saved_key
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.config import AgentModel
from ocf.functions.execute.agent.conversation_import import import_conversation
from ocf.functions.execute.agent.opencode_api import OpenCodeError
from ocf.functions.execute.agent.warm_pool import WarmServer
from ocf.functions.execute.attempt import watchdog
from ocf.functions.execute.attempt.artifacts import CONVERSATION, ArtifactWriter
from ocf.functions.execute.attempt.outcome import StoredArtifacts
from ocf.functions.execute.attempt.publisher import Ownership
from ocf.functions.execute.attempt.spans import RunSpans
from ocf.functions.execute.attempt.watchdog import Activity
from ocf.functions.execute.attempt.workspace_source import WorkspaceInput
from ocf.functions.execute.context import WorkerContext
from ocf.functions.execute.egress_proxy import EgressProxy, rules
from ocf.functions.execute.model_proxy import Hooks, ModelProxyFailure
from ocf.functions.execute.sandbox.agent_host_client import HostUser, Owner
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady
from ocf.functions.models.endpoint_check import BadEndpoint
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.resolve import NoModel
from ocf.functions.observability import logs, metrics
from ocf.functions.settings.host_rules import InvalidRule

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]

FOLLOW_UP = "prompt"
_ABORT = 0.15
_EXPORT_AT_REST = 30.0
_EXPORT = 5.0
_EXPORT_IN_A_HURRY = 0.3
_GRACE = 0.3


class AgentRun:
    """The agent's side of one attempt. `run` returns when the agent is done; `kill` ends it from outside."""

    def __init__(self, context: WorkerContext, task: Execute, directory: Path, activity: Activity) -> None:
        self._context = context
        self._task = task
        self._directory = directory
        self._activity = activity
        self._agent: Agent | None = None
        self._warm_server: WarmServer | None = None
        self._user: Owner | None = None
        self._workspace: workspace.Prepared | None = None
        self._conversation: dict[str, object] | None = None
        self._follow_ups: deque[str] = deque()
        self._finished = False
        self._on_failure: Callable[[ModelProxyFailure], None] = lambda _: None
        self._on_usage: Callable[[Usage], None] = lambda _: None
        self._refused: str | None = None
        self._used = Usage()
        self._keep_ignored = False
        self._cleanup = AsyncExitStack()
        #: Redacts every secret of this execution.
        self.redactor = Redactor()
        self.spans = RunSpans()
        self.result = ""

    @property
    def model_name(self) -> str | None:
        """Return the display name of the model; None when it cannot be resolved (`run` raises the reason)."""
        try:
            return self._context.target(self._task).display_name
        except (SealError, NoModel, BadEndpoint):
            return None

    @property
    def usage(self) -> Usage:
        """Return the totals of the model calls over all attempts."""
        return (
            self._warm_server.model_proxy.usage
            if self._warm_server and self._warm_server.model_proxy.target
            else self._used
        )

    @property
    def prepared(self) -> workspace.Prepared | None:
        """Return the workspace; None until it is prepared."""
        return self._workspace

    @property
    def roots(self) -> tuple[Path, ...]:
        """Return every folder that the agent can write to."""
        own = (self._warm_server.root,) if self._warm_server else ()
        shared = (self._workspace.directory,) if self._workspace and self._workspace.source == "shared" else ()
        return own + shared

    def unlinked_open_bytes(self) -> int:
        """Return the bytes on disk of files that the agent's processes have deleted but hold open."""
        return self._warm_server.server.process.unlinked_open_bytes() if self._warm_server else 0

    async def exceeded_disk_limit(self, limit: int) -> str | None:
        """Return which disk limit is exceeded, as a message; None when none is.

        Args:
            limit: bytes on disk.
        """
        roots, user = self.roots, self._warm_server.user if self._warm_server else None
        if isinstance(user, HostUser):
            return await user.exceeded_disk_limit(roots, limit, self.unlinked_open_bytes())
        return await asyncio.to_thread(watchdog.exceeded_disk_limit, roots, limit, self.unlinked_open_bytes)

    def on_failure(self, listener: Callable[[ModelProxyFailure], None]) -> None:
        """Register a listener, called once when the model proxy decides that the execution must end."""
        self._on_failure = listener

    def on_usage(self, listener: Callable[[Usage], None]) -> None:
        """Register a listener, called when the totals have changed."""
        self._on_usage = listener

    async def run(self, emit: Emit, used: Usage) -> None:
        """Start OpenCode, prepare the workspace, prompt until idle, then run the queued follow-up prompts.

        Args:
            emit: publishes a draft.
            used: usage of earlier attempts; the limits cover all attempts together.

        Raises:
            InvalidWorkspace: the workspace cannot be prepared.
            SealError: a sealed key cannot be opened.
            AgentFailed: the agent could not be started, or ended before it was done.
            OutputLimit: the execution produced more output than `limits.max_output_bytes`.
        """
        self._used = used
        try:
            await self._run(lambda draft: emit(self._redact(draft)))
        except AgentFailed as error:
            text = tuple(self.redactor(line) for line in error.stderr_tail)
            raise type(error)(error.reason, self.redactor(error.message), text) from error

    async def _run(self, emit: Emit) -> None:
        await self._context.boundary.admit(self._task.project_id)
        target = self._target()
        session = await self._session()
        workspace_input = WorkspaceInput(self._context, self._task, session, self._directory)
        await asyncio.to_thread(workspace_input.check)  # cheaper than starting OpenCode first
        self._keep_ignored = workspace_input.keep_ignored
        try:
            if workspace_input.shared:
                unused = self._directory / "unused"
                self._workspace = await workspace_input.prepare(unused, self._hide, self._own_shared)
            await emit(_phase("agent", "getting OpenCode ready"))
            warm_server = await self._acquire(target)
            await emit(_phase("workspace", f"preparing the workspace ({workspace_input.label})"))
            if self._workspace is None:
                self._workspace = await workspace_input.prepare(warm_server.directory, self._hide, warm_server.own)
            self._assign(warm_server, target)
            spec = self._prompt_spec(target, await self._resume(warm_server, session))
        except Unavailable as error:
            raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from error  # S3 went away; the agent has done nothing
        self._agent = Agent(warm_server.server, spec, self._context.deps.clock)
        await emit(_phase("model", f"asking {target.display_name}"))
        prompt: str | None = prompt_text(self._task)
        while prompt is not None:
            self.result = self.redactor((await self._agent.run(prompt, emit)).text)
            prompt = self._follow_ups.popleft() if self._follow_ups else None
            if prompt is not None:
                await emit(_phase("model", "taking up a follow-up prompt"))
        self._finished = True
        self._conversation = await self._exported(self._agent, _EXPORT_AT_REST)
        await emit(usage_draft(self.usage))

    def _target(self) -> ModelTarget:
        try:
            target = self._context.target(self._task)
        except (NoModel, BadEndpoint) as error:
            raise AgentFailed(Reason.MODEL_ERROR, str(error)) from None
        if self._task.limits.max_cost_usd is not None and target.prices is None and not target.offline:
            unknown = f"the price of {target.display_name} is not known, so limits.max_cost_usd cannot be enforced"
            raise AgentFailed(Reason.BUDGET_EXCEEDED, f"{unknown}; set limits.max_total_tokens instead")
        if target.api_key is not None:
            self._hide(target.api_key.get_secret_value())
        return target

    def _hide(self, secret: str) -> None:
        """Redact a secret in output, and in logs until the attempt has ended."""
        self.redactor.add(secret)
        logs.SECRETS.add(secret)
        self._cleanup.callback(logs.SECRETS.remove, secret)

    async def _session(self) -> Session | None:
        task, deps = self._task, self._context.deps
        if task.session_id is None:
            return None
        found = await Sessions(deps.sessions, deps.clock).get(task.project_id, task.session_id)
        if found is None:
            raise workspace.InvalidWorkspace(f"session {task.session_id} was destroyed")
        return found

    async def _acquire(self, target: ModelTarget) -> WarmServer:
        spec = replace(self._context.server_spec(self._task.limits), models=(_model(target),))
        try:
            allowed = rules(self._task.network.allow, self._context.deps.settings.network_allow)
        except InvalidRule as error:
            raise AgentFailed(Reason.AGENT_ERROR, f"network.allow: {error}") from None
        if allowed:
            proxy = await self._cleanup.enter_async_context(EgressProxy(allowed))
            spec = replace(spec, connect_ports=(proxy.port,), env=proxy.env())
        shared = self._workspace.directory if self._workspace is not None else None
        user, self._user = self._user, None  # the server owns the user from here on, also when starting it fails
        warm_server = await self._context.slots.acquire(spec, shared=shared, user=user)
        self._warm_server = warm_server
        metrics.slots_taken.labels("warm" if warm_server.warm else "cold").inc()
        self._cleanup.push_async_callback(warm_server.close)
        self._hide(warm_server.model_proxy.token)
        self._hide(warm_server.server.password)
        return warm_server

    async def _own_shared(self, folder: Path) -> None:
        self._user = await self._context.slots.user_of(folder)

    def _assign(self, warm_server: WarmServer, target: ModelTarget) -> None:
        hooks = Hooks(
            on_activity=self._activity.note,
            on_call_start=self.spans.call_started,
            on_call_end=self.spans.call_ended,
            on_usage=lambda usage: self._on_usage(usage),
            on_failure=lambda failure: self._on_failure(failure),
        )
        warm_server.model_proxy.assign(target, self._task.limits, hooks, self._used)
        if self._refused is not None:
            warm_server.model_proxy.refuse(self._refused)

    async def _resume(self, warm_server: WarmServer, session: Session | None) -> str | None:
        """Import the conversation to continue and return its OpenCode id; None when there is none."""
        if session is None:
            return None
        key = None
        if session.saved is not None:
            key = await saved_key(self._context.deps.store, session.ref, session.saved.conversation.name)
        elif session.from_execution_id is not None:
            key = f"{session.project_id}/{session.from_execution_id}/{CONVERSATION}"
            if await self._context.deps.store.head(key) is None:
                return None  # the source execution stored no conversation; only its workspace is forked
        return (
            None
            if key is None
            else await import_conversation(warm_server.server, await self._context.deps.store.get(key))
        )

    def _prompt_spec(self, target: ModelTarget, resume: str | None) -> PromptSpec:
        return PromptSpec(
            model=_model(target),
            permissions=self._task.permissions,
            enabled_tools=target.enabled_tools,
            system_prompt=target.system_prompt,
            answer_seconds=self._task.limits.answer_seconds,
            title=self._task.task_id or "task",
            resume_session=resume,
        )

    @property
    def waiting(self) -> frozenset[str]:
        """Return the ids of requests that are not answered yet."""
        return self._agent.waiting if self._agent is not None else frozenset()

    @property
    def follow_ups(self) -> int:
        """Return the number of follow-up prompts that have not run."""
        return len(self._follow_ups)

    async def reply(self, request_id: str, answer: str) -> bool:
        """Answer a request of the agent; the id `prompt` queues a follow-up prompt to run after the current one.

        Returns:
            Whether the answer was accepted: False when no request waits under the id, or the last prompt is over.
        """
        if request_id == FOLLOW_UP:
            if not self._finished:
                self._follow_ups.append(answer)
            return not self._finished
        try:
            return self._agent is not None and await self._agent.answer(request_id, answer)
        except OpenCodeError:
            return False  # OpenCode is shutting down; the end of the run states the reason

    def refuse(self, reason: str) -> None:
        """Refuse all further model calls."""
        self._refused = reason
        if self._warm_server is not None:
            self._warm_server.model_proxy.refuse(reason)

    async def kill(self, *, hurry: bool = True) -> int:
        """End OpenCode and every process below it.

        A session's conversation is exported first; `hurry` shortens the wait for it.

        Returns:
            The number of processes that could not be killed (normally 0).
        """
        agent, self._agent = self._agent, None
        if self._warm_server is None:
            return 0
        if agent is not None:
            await asyncio.wait([asyncio.ensure_future(agent.abort())], timeout=_ABORT)
            if self._task.session_id is not None and self._conversation is None:
                self._conversation = await self._exported(agent, _EXPORT_IN_A_HURRY if hurry else _EXPORT)
        report = await self._warm_server.server.stop(_GRACE)
        return report.left

    async def _exported(self, agent: Agent, seconds: float) -> dict[str, object] | None:
        try:
            async with asyncio.timeout(seconds):
                return await agent.export()
        except (OpenCodeError, TimeoutError) as error:
            # `ArtifactWriter` states the consequence in the output when it stores the session.
            log.warning("conversation not exported", action="run.not_exported", reason=str(error) or "too slow")
            return None

    def _redact(self, draft: Draft) -> Draft:
        """Redact secrets in details that also go into the record; the publisher redacts all output itself."""
        if draft.detail is None or draft.type not in (ChunkType.TODO, ChunkType.PERMISSION, ChunkType.QUESTION):
            return draft
        return draft.model_copy(update={"detail": self.redactor.value(draft.detail)})

    async def store_artifacts(
        self,
        emit: Emit,
        seconds: float | None,
        ownership: Ownership,
        give_up: Callable[[], Awaitable[str]] | None = None,
    ) -> StoredArtifacts:
        """Store the results of the run; see `ocf.functions.execute.attempt.artifacts`."""
        if self._workspace is None:
            return StoredArtifacts()
        artifact_writer = ArtifactWriter(self._context, self._task, self._directory / "artifacts", ownership)
        conversation = await asyncio.to_thread(self.redactor.value, self._conversation)
        return await artifact_writer.store(
            self._workspace,
            conversation,
            emit,
            seconds,
            give_up,
            result=self.result,
            keep_ignored=self._keep_ignored,
            open_up=self._warm_server.open_up if self._warm_server else None,
        )

    async def close(self) -> None:
        """End the processes and release everything the run has acquired."""
        await self.kill()
        self.spans.close()
        await self._cleanup.aclose()
        if self._user is not None:
            await self._user.release()
        self._context.boundary.folders.check()


def _model(target: ModelTarget) -> AgentModel:
    return AgentModel(
        kind=target.kind, name=target.wire_model, temperature=target.temperature, max_tokens=target.max_tokens
    )


def prompt_text(task: Execute) -> str:
    """Return the prompt as the agent gets it: the request, the context, the code."""
    deps = [task.prompt.strip()] if task.prompt else []
    if task.context:
        context = task.context if isinstance(task.context, str) else _listed(task.context)
        deps.append(f"Context:\n{context}")
    if task.code:
        deps.append(f"Code:\n```\n{task.code}\n```")
    return "\n\n".join(deps)


def _listed(context: dict[str, object]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in context.items())


def usage_draft(usage: Usage) -> Draft:
    """Return the totals as a draft of a `usage` chunk."""
    text = f"{usage.requests} model calls, {usage.total_tokens} tokens, ${usage.cost_usd:.4f}"
    return Draft(type=ChunkType.USAGE, data=text, detail=usage.model_dump())


def _phase(phase: str, text: str) -> Draft:
    return Draft(type=ChunkType.STATUS, data=text, detail={"phase": phase})
