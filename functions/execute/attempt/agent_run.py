"""The agent's side of an attempt: OpenCode, workspace and model proxy, from setup to cleanup."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import structlog

from ocf.events.command_payloads import Execute, Workspace
from ocf.events.errors import SealError
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, Usage, status_draft
from ocf.events.redaction import Redactor
from ocf.functions import workspace
from ocf.functions.core.asyncio_tasks import run_together
from ocf.functions.execute.agent.agent import Agent
from ocf.functions.execute.agent.opencode_api import OpenCodeError
from ocf.functions.execute.agent.opencode_conversion import usage_draft
from ocf.functions.execute.agent.recorded_replies import Replies
from ocf.functions.execute.agent.warm_server import WarmServer
from ocf.functions.execute.attempt import watchdog
from ocf.functions.execute.attempt.artifacts import ArtifactWriter
from ocf.functions.execute.attempt.outcome import StoredArtifacts
from ocf.functions.execute.attempt.output_publisher import Ownership
from ocf.functions.execute.attempt.preparation import Preparation
from ocf.functions.execute.attempt.rerun_from_recording import open_model
from ocf.functions.execute.attempt.spans import RunSpans
from ocf.functions.execute.attempt.stop_signal import StopReason
from ocf.functions.execute.attempt.watchdog import Activity
from ocf.functions.execute.context import WorkerContext
from ocf.functions.execute.inputs.agent_inputs import prompt_text
from ocf.functions.execute.inputs.output_check import check_output, json_in
from ocf.functions.execute.model_proxy import Hooks, ModelProxyFailure
from ocf.functions.execute.sandbox.agent_host_client import HostUser
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.models.endpoint_check import BadEndpoint
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.resolve import NoModel
from ocf.functions.observability import tracing
from ocf.functions.recording.model_call_recorder import Recorder

log = structlog.get_logger()

Emit = Callable[[Draft], Awaitable[None]]

FOLLOW_UP = "prompt"
_ABORT = 0.15
_EXPORT_AT_REST = 30.0
_EXPORT = 5.0
_EXPORT_IN_A_HURRY = 0.3
_GRACE = 0.3
_RECORDING = 5.0
_OUTPUT_TRIES = 2
_ASK_FOR_OUTPUT = "Give the result of the work above as structured output. Your last message did not fit:"


class AgentRun:
    """The agent's side of one attempt. `run` returns when the agent is done; `kill` ends it from outside."""

    def __init__(self, context: WorkerContext, task: Execute, directory: Path, activity: Activity) -> None:
        self._context = context
        self._task = task
        self._directory = directory
        self._activity = activity
        self._agent: Agent | None = None
        self._conversation: dict[str, object] | None = None
        self._follow_ups: deque[str] = deque()
        self._finished = False
        self._on_failure: Callable[[ModelProxyFailure], None] = lambda _: None
        self._on_usage: Callable[[Usage], None] = lambda _: None
        self._on_over: Callable[[StopReason], None] = lambda _: None
        self._refused: str | None = None
        self._used = Usage()
        self._recorder: Recorder | None = None
        #: Number of the attempt.
        self.attempt = 1
        #: Answers to the agent, recorded and given again.
        self.answers = Replies()
        #: Redacts every secret of this execution.
        self.redactor = Redactor()
        self._preparation = Preparation(context, task, directory, self.redactor, self._assign, activity.note)
        self.spans = RunSpans(task)
        self.result = ""
        #: The value that fits `output_schema`, once there is one.
        self.output: object = None

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
        server = self._preparation.warm_server
        return server.model_proxy.usage if server and server.model_proxy.target else self._used

    @property
    def prepared(self) -> workspace.Prepared | None:
        """Return the workspace; None until it is prepared."""
        return self._preparation.workspace

    @property
    def base_commit(self) -> str | None:
        """Return the commit that the workspace began from, if it is a clone."""
        origin, prepared = self._preparation.origin, self._preparation.workspace
        return origin.base_commit(prepared) if origin is not None and prepared is not None else None

    @property
    def source(self) -> Workspace | None:
        """Return the source of the workspace; None until it is known."""
        return self._preparation.origin.source if self._preparation.origin is not None else None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Return every folder that the agent can write to."""
        own = (self._preparation.warm_server.root,) if self._preparation.warm_server else ()
        shared = (
            (self._preparation.workspace.directory,)
            if self._preparation.workspace and self._preparation.workspace.source == "shared"
            else ()
        )
        return own + shared

    def unlinked_open_bytes(self) -> int:
        """Return the bytes on disk of files that the agent's processes have deleted but hold open."""
        return (
            self._preparation.warm_server.server.process.unlinked_open_bytes() if self._preparation.warm_server else 0
        )

    async def exceeded_disk_limit(self, limit: int) -> str | None:
        """Return which disk limit is exceeded, as a message; None when none is.

        Args:
            limit: bytes on disk.
        """
        roots, user = self.roots, self._preparation.warm_server.user if self._preparation.warm_server else None
        if isinstance(user, HostUser):
            return await user.exceeded_disk_limit(roots, limit, self.unlinked_open_bytes())
        return await asyncio.to_thread(watchdog.exceeded_disk_limit, roots, limit, self.unlinked_open_bytes)

    def on_failure(self, listener: Callable[[ModelProxyFailure], None]) -> None:
        """Register a listener, called once when the model proxy decides that the execution must end."""
        self._on_failure = listener

    def on_over(self, listener: Callable[[StopReason], None]) -> None:
        """Register a listener, called when a rerun has come to the end of its recording."""
        self._on_over = listener

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
            await self._run(self.answers.watching(lambda draft: emit(self._redact(draft))))
        except AgentFailed as error:
            text = tuple(self.redactor(line) for line in error.stderr_tail)
            raise type(error)(error.reason, self.redactor(error.message), text) from error

    async def _run(self, emit: Emit) -> None:
        warm_server, self._agent = await self._preparation.prepare(emit)
        self._agent.on_overdue = lambda request: self.answers.answered(request, None)
        self.answers.on_expired = self._agent.expire
        with self.spans.invoke_agent(warm_server.model_proxy.target):
            await self._work(self._agent, emit)
        self._finished = True
        self._conversation = await self._exported(self._agent, _EXPORT_AT_REST)
        await emit(usage_draft(self.usage))

    async def _work(self, agent: Agent, emit: Emit) -> None:
        prompt: str | None = prompt_text(self._task)
        while prompt is not None:
            self.result = self.redactor((await agent.run(prompt, emit)).text)
            prompt = self._follow_ups.popleft() if self._follow_ups else None
            if prompt is not None:
                await emit(status_draft("taking up a follow-up prompt", "model"))
        if self._task.output_schema is not None:
            self.output = self.redactor.value(await self._structured(agent, self._task.output_schema, emit))

    async def _structured(self, agent: Agent, schema: dict[str, object], emit: Emit) -> object:
        """Return the value that fits the schema: the last message itself, or the answer to a question for it."""
        output, fault = await check_output(json_in(self.result), schema)
        for _ in range(_OUTPUT_TRIES):
            if fault is None:
                return output
            await emit(status_draft("asking for the output by its schema", "model"))
            output, fault = await check_output(await agent.structured(f"{_ASK_FOR_OUTPUT} {fault}", schema), schema)
        if fault is None:
            return output
        raise AgentFailed(Reason.OUTPUT_INVALID, f"the output does not fit output_schema: {fault}")

    def _assign(self, warm_server: WarmServer, target: ModelTarget) -> None:
        hooks = Hooks(
            on_activity=self._activity.note,
            on_call_start=self.spans.call_started,
            on_call_end=self.spans.call_ended,
            on_usage=lambda usage: self._on_usage(usage),
            on_failure=lambda failure: self._on_failure(failure),
            before_answer=self._preparation.input.packed,
        )
        rerun = self._preparation.rerun
        if rerun is not None:
            hooks = replace(hooks, on_over=lambda answer: self._on_over(rerun.stop_reason(answer)))
        about = (self._context.deps, self._task, self.attempt, warm_server, target, self.redactor)
        self._recorder, player = open_model(*about, self._preparation.inputs, rerun)
        self._follow_ups.extend(self.answers.begin(self._recorder, player))
        warm_server.model_proxy.assign(target, self._task.limits, hooks, self._used, self._recorder, player)
        self._preparation.record_routes(self._recorder, player)
        if self._refused is not None:
            warm_server.model_proxy.refuse(self._refused)

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
                self.answers.follow_up(answer)
            return not self._finished
        try:
            taken = self._agent is not None and await self._agent.answer(request_id, answer)
        except OpenCodeError:
            return False  # OpenCode is shutting down; the end of the run states the reason
        if taken:
            self.answers.answered(request_id, answer)
        return taken

    def refuse(self, reason: str) -> None:
        """Refuse all further model calls."""
        self._refused = reason
        if self._preparation.warm_server is not None:
            self._preparation.warm_server.model_proxy.refuse(reason)

    async def kill(self, *, hurry: bool = True) -> int:
        """End OpenCode and every process below it.

        A session's conversation is exported first; `hurry` shortens the wait for it.

        Returns:
            The number of processes that could not be killed (normally 0).
        """
        agent, self._agent = self._agent, None
        if self._preparation.warm_server is None:
            return 0
        if agent is not None:
            if not self._finished:
                await asyncio.wait([asyncio.ensure_future(agent.abort())], timeout=_ABORT)
            if self._task.session_id is not None and self._conversation is None:
                self._conversation = await self._exported(agent, _EXPORT_IN_A_HURRY if hurry else _EXPORT)
        with tracing.phase("end agent"):
            # An idle agent has nothing to finish, and OpenCode does not end on SIGTERM.
            report = await self._preparation.warm_server.server.stop(0.0 if self._finished else _GRACE)
        return report.left

    async def _exported(self, agent: Agent, seconds: float) -> dict[str, object] | None:
        try:
            with tracing.phase("export conversation"):
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
        stored = await self._stored(emit, seconds, ownership, give_up)
        # S3 has just answered, or it is away and nothing waits for these.
        patience = _RECORDING if stored.artifacts == "stored" else 0.0
        await self._preparation.close_routes()
        ending = [self._preparation.input.finish(patience)]
        if self._recorder is not None:
            ending.append(self._recorder.close(patience))
        await run_together(*ending)
        rerun = self._preparation.rerun
        return stored if rerun is None else replace(stored, rerun=rerun.result)

    async def _stored(
        self, emit: Emit, seconds: float | None, ownership: Ownership, give_up: Callable[[], Awaitable[str]] | None
    ) -> StoredArtifacts:
        if self._preparation.workspace is None:
            return StoredArtifacts()
        artifact_writer = ArtifactWriter(self._context, self._task, self._directory / "artifacts", ownership)
        conversation = await asyncio.to_thread(self.redactor.value, self._conversation)
        return await artifact_writer.store(
            self._preparation.workspace,
            conversation,
            emit,
            seconds,
            give_up,
            result=self.result,
            keep_ignored=self._preparation.keep_ignored,
            open_up=self._preparation.warm_server.open_up if self._preparation.warm_server else None,
            base_commit=self.base_commit,
        )

    async def close(self) -> None:
        """End the processes and release everything the run has acquired."""
        await self.kill()
        if self._recorder is not None:
            await self._recorder.close(0.0)
        self.spans.close()
        await self._preparation.close()
        self._context.boundary.folders.check()
