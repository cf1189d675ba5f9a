"""One OpenCode server for one execution: start it, prompt it, answer its requests, end it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ocf.events import untrusted_json
from ocf.events.errors import InvalidEvent
from ocf.events.lifecycle import Reason
from ocf.events.output import ChunkType, Draft, PendingRequest, Usage, status_draft
from ocf.events.ports import Clock
from ocf.events.untrusted_json import FREE_VALUE, OverLimit, parse_json
from ocf.functions.core.agent_definitions import CommandDefinition, may_run_shell
from ocf.functions.core.asyncio_tasks import cancel_and_wait
from ocf.functions.execute.agent import config
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_api import (
    CONNECTED,
    HEARTBEAT,
    Event,
    FilePart,
    OpenCodeError,
    PermissionReply,
    Prompt,
)
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.repetition import ADVICE, Repetition
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.agent.translate import Translator
from ocf.functions.execute.sandbox.process import AgentFailed, StopReport
from ocf.functions.observability import tracing

__all__ = [
    "Agent",
    "AgentFailed",
    "AgentResult",
    "AgentServer",
    "PromptSpec",
    "ServerSpec",
    "start_agent",
]

Emit = Callable[[Draft], Awaitable[None]]

_CONNECT_SECONDS = 10.0
# OpenCode sends a heartbeat every 10 s.
_POLL_SECONDS = 12.0
_MAX_IDLE_CHECKS = 3
_LAST_EVENTS_SECONDS = 0.1
# A tree that went over a limit is killed before its supervisor can say so.
_EXIT_SECONDS = 5.0
_REPLIES: dict[str, PermissionReply] = {
    **dict.fromkeys(("once", "allow", "yes", "y", "ok"), "once"),
    "always": "always",
    **dict.fromkeys(("reject", "deny", "no", "n"), "reject"),
}


@dataclass(frozen=True)
class PromptSpec:
    """Settings of an execution's prompts, apart from the server, so that a warm server can serve them.

    `answer_seconds` is how long a question waits for an answer; None: nobody can answer. `repeated_calls` equal tool
    calls with equal results are a repetition (0: never): the agent gets a message once, then ends as stalled.
    """

    model: AgentModel
    permissions: Mapping[str, str] = field(default_factory=dict)
    enabled_tools: tuple[str, ...] | None = None
    system_prompt: str | None = None
    answer_seconds: float | None = None
    title: str = "task"
    agent: str | None = None
    variant: str | None = None
    #: Files of the first prompt.
    files: tuple[FilePart, ...] = ()
    #: A prompt `/NAME ARGUMENTS` with one of these names runs the command.
    commands: Mapping[str, CommandDefinition] = field(default_factory=dict)
    repeated_calls: int = 0


@dataclass(frozen=True)
class AgentResult:
    """Result of a prompt that did not fail. `text` is the assistant's last message; `aborted`: ended by `abort`."""

    text: str
    usage: Usage
    session_id: str
    aborted: bool = False


class Agent:
    """An execution's agent on its server.

    Raises:
        AgentFailed: from `run`; `reason` and `message` state the cause, with the last lines of OpenCode's stderr.
    """

    def __init__(self, server: AgentServer, prompt_spec: PromptSpec, clock: Clock) -> None:
        self.server = server
        self.session_id = ""
        #: Called with the id of a request that is denied because nobody answered in time.
        self.on_overdue: Callable[[str], None] = lambda _: None
        #: Seconds without an event before the server's state is read.
        self.poll_every = _POLL_SECONDS
        self._prompt_spec = prompt_spec
        self._clock = clock
        self._translator: Translator | None = None
        self._deadlines: dict[str, float] = {}
        self._aborting = False
        self._idle_checks = 0
        self._emit: Emit | None = None
        self._prompted = False
        self._rules = config.permission_rules(
            prompt_spec.permissions, prompt_spec.enabled_tools, can_answer=prompt_spec.answer_seconds is not None
        )
        self._command: asyncio.Task[None] | None = None
        self._repetition = Repetition(prompt_spec.repeated_calls)
        self._told = False
        self._resumed: str | None = None
        self._creating: asyncio.Task[str] | None = None
        self._stream: _Stream | None = None
        #: The conversation, while nothing was asked since it was read.
        self._conversation: dict[str, object] | None = None

    @property
    def usage(self) -> Usage:
        """Return the totals as OpenCode counts them; the model proxy's totals are the billed ones."""
        return self._translator.usage if self._translator else Usage()

    @property
    def waiting(self) -> frozenset[str]:
        """Return the ids of this agent's requests that are not answered yet."""
        return frozenset(self._translator.waiting) if self._translator else frozenset()

    def resume(self, session: str | None) -> None:
        """Continue the conversation of an imported session, if one is given."""
        self._resumed = session

    def open(self) -> None:
        """Begin to open a new conversation and the event stream, beside the preparation of the workspace.

        `run` waits for both; `close` ends them if it is never called.
        """
        self._creating = asyncio.create_task(self._create_session())
        self._stream = self._open_stream()

    async def close(self) -> None:
        """End what `open` began and no `run` took over."""
        if self._creating is not None:
            await cancel_and_wait([self._creating])
        if self._stream is not None:
            await cancel_and_wait([self._stream.pump])

    async def run(self, prompt: str, emit: Emit) -> AgentResult:
        """Send a prompt and return when the agent is idle. Call again for a follow-up prompt."""
        self._emit, self._aborting, self._idle_checks, self._conversation = emit, False, 0, None
        try:
            with tracing.phase("create session"):
                translator = await self._prepare()
            return await self._follow(translator, prompt)
        except OpenCodeError as error:
            raise await self._connection_failure(str(error)) from error

    async def structured(self, text: str, schema: Mapping[str, Any]) -> object:
        """Ask for the result of the conversation by a JSON Schema; return the value, not checked, or None.

        Without the variant: providers refuse to force a tool call while a model reasons.
        """
        model, self._conversation = self._prompt_spec.model, None
        prompt = Prompt(text=text, provider=model.provider, model=model.name, system=self._prompt_spec.system_prompt)
        try:
            return await self.server.client.structured(self.session_id, prompt, schema)
        except OpenCodeError as error:
            raise await self._connection_failure(str(error)) from error

    async def answer(self, request_id: str, answer: str) -> bool:
        """Answer a request of the agent; return False when no request waits under that id.

        A permission takes once/always/reject (or allow, yes, deny, no); any other text denies it and is passed to the
        agent. A question takes a label or free text; several questions take one line each, or a JSON list.
        """
        waiting = self._translator.waiting.get(request_id) if self._translator else None
        if waiting is None:
            return False
        if waiting.kind == "question":
            return await self.server.client.reply_question(request_id, question_answers(answer, waiting.title))
        reply = _REPLIES.get(answer.strip().lower(), "reject")
        # With a message the agent learns the reason and continues; a bare rejection would end its run silently.
        message = answer if answer.strip().lower() not in _REPLIES else "The user denied this."
        return await self.server.client.reply_permission(request_id, reply, message if reply == "reject" else None)

    def expire(self, request_id: str) -> None:
        """Let the time to answer a request be over."""
        if request_id in self._deadlines:
            self._deadlines[request_id] = self._clock.monotonic()

    async def abort(self) -> None:
        """Ask OpenCode to end the prompt (at most 2 s); `run` then returns with `aborted`. Only `stop` is certain."""
        self._aborting = True
        if self.session_id:
            with suppress(OpenCodeError):
                await self.server.client.abort(self.session_id)

    async def stop(self, grace: float = 0.3) -> StopReport:
        """End the server and every process below it."""
        return await self.server.stop(grace)

    async def export(self) -> dict[str, object]:
        """Return the conversation in the format of `opencode export`.

        Raises:
            OpenCodeError: there is no conversation yet.
        """
        if not self.session_id:
            raise OpenCodeError("there is no conversation yet")
        return self._conversation or await self.server.client.export(self.session_id)

    def memory_bytes(self) -> int:
        """Return the memory of the whole process tree."""
        return self.server.process.memory_bytes()

    async def _prepare(self) -> Translator:
        spec, client = self.server.spec, self.server.client
        config.link_instructions(spec.directory, spec.home)
        if self._translator is None:
            if self._resumed:
                if not await client.has_session(self._resumed):
                    # A new conversation would overwrite the saved one.
                    message = "OpenCode does not have the session's conversation, although it imported it"
                    raise AgentFailed(Reason.AGENT_ERROR, message, self._stderr())
                self.session_id = self._resumed
                await client.set_permissions(self.session_id, self._rules)
            else:
                self.session_id = await (self._creating or self._create_session())
            self._translator = Translator(self.session_id, self.server.directory)
            if self._resumed:
                state = await client.resync(self.session_id)
                with self._parse_errors(state):
                    self._translator.feed(state)
        self._translator.begin_turn()
        return self._translator

    async def _create_session(self) -> str:
        return await self.server.client.create_session(self._prompt_spec.title, self._rules)

    def _open_stream(self) -> _Stream:
        inbox: asyncio.Queue[Event] = asyncio.Queue(maxsize=untrusted_json.AGENT_INBOX)
        return _Stream(inbox, asyncio.create_task(self._pump(inbox)))

    async def _follow(self, translator: Translator, prompt: str) -> AgentResult:
        stream, self._stream = self._stream or self._open_stream(), None
        inbox, pump = stream.inbox, stream.pump
        dead = asyncio.create_task(self.server.process.exited())
        try:
            with tracing.phase("send prompt"):
                await self._until_connected(inbox, pump, dead)
                await self._send(prompt)
            while not translator.idle:
                event = await self._next(inbox, pump, dead)
                if event is None or event.get("type") == HEARTBEAT:
                    event = await self._check_state(translator)
                await self._handle(translator, event)
            with tracing.phase("read final state"):
                # The idle event may overtake the last updates; the state read now is complete.
                state, self._conversation = await self.server.client.final_state(self.session_id)
                await self._handle(translator, state)
        finally:
            running = [task for task in (pump, dead, self._command) if task is not None]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._command = None
        return self._result(translator)

    async def _check_state(self, translator: Translator) -> Event:
        """Read the state after a time of silence, since an end can come without an idle event."""
        try:
            if await self.server.client.busy(self.session_id):
                self._idle_checks = 0
                return {}
            state = await self.server.client.resync(self.session_id)
        except OpenCodeError as error:
            # An overloaded machine is slow; only several failures in a row mean that the server is gone.
            self._idle_checks += 1
            if self._idle_checks >= _MAX_IDLE_CHECKS:
                raise await self._connection_failure(str(error)) from error
            return {}
        self._idle_checks += 1
        if translator.error is not None:
            raise AgentFailed(*translator.error, self._stderr())
        if self._idle_checks >= _MAX_IDLE_CHECKS and not state["properties"]["busy"]:
            with self._parse_errors(state):
                translator.feed(state)
            if not translator.idle:
                raise AgentFailed(Reason.AGENT_ERROR, "OpenCode went idle without an answer", self._stderr())
        return state

    def _result(self, translator: Translator) -> AgentResult:
        if translator.error is not None and not self._aborting:
            reason, message = translator.error
            raise AgentFailed(reason, message, self._stderr())
        if translator.aborted and not self._aborting:
            raise AgentFailed(Reason.AGENT_ERROR, "OpenCode aborted the run", self._stderr())
        if translator.unfinished is not None and not self._aborting:
            # This end looks like an answer; its consumer would take half of it for the whole.
            raise AgentFailed(*translator.unfinished, self._stderr())
        return AgentResult(translator.result_text, translator.usage, self.session_id, self._aborting)

    async def _pump(self, inbox: asyncio.Queue[Event]) -> None:
        async for event in self.server.client.events(lambda: self.session_id):
            await inbox.put(event)

    async def _until_connected(self, inbox: asyncio.Queue[Event], pump: Task, dead: Task) -> None:
        until = time.monotonic() + _CONNECT_SECONDS
        while time.monotonic() < until:
            event = await self._next(inbox, pump, dead)
            if event is not None and event.get("type") == CONNECTED:
                return
        raise self._no_answer("OpenCode's event stream did not open")

    async def _send(self, text: str) -> None:
        spec = self._prompt_spec
        prompt = Prompt(
            text=text,
            provider=spec.model.provider,
            model=spec.model.name,
            system=spec.system_prompt,
            agent=spec.agent,
            variant=spec.variant,
            files=spec.files if not self._prompted else (),
        )
        self._prompted = True
        name, arguments = command_of(text, spec.commands)
        if name is None:
            await self.server.client.prompt(self.session_id, prompt)
            return
        # OpenCode runs the shell commands of a template unasked.
        if may_run_shell(spec.commands[name].template, arguments) and not config.shell_allowed(self._rules):
            message = f"/{name} runs shell commands (`!`), which the task's permissions do not allow"
            raise AgentFailed(Reason.PERMISSION_DENIED, message)
        self._command = asyncio.create_task(self._run_command(name, arguments, prompt))

    async def _run_command(self, name: str, arguments: str, prompt: Prompt) -> None:
        """Run a command; a refusal of OpenCode becomes the error of the run."""
        try:
            await self.server.client.command(self.session_id, name, arguments, prompt)
        except OpenCodeError as error:
            if self._translator is not None and self._translator.error is None:
                self._translator.error = (Reason.AGENT_ERROR, f"the command /{name} failed: {error}")

    async def _next(self, inbox: asyncio.Queue[Event], pump: Task, dead: Task) -> Event | None:
        """Return the next event, or None after a time of silence. Denies requests past their deadline.

        Raises:
            AgentFailed: the process or its event stream has ended.
        """
        if not inbox.empty():
            return inbox.get_nowait()
        await self._deny_overdue()
        wait = min([self.poll_every, *(at - self._clock.monotonic() for at in self._deadlines.values())])
        get = asyncio.create_task(inbox.get())
        try:
            await asyncio.wait({get, pump, dead}, timeout=max(0.0, wait), return_when=asyncio.FIRST_COMPLETED)
            if dead.done() and not get.done():
                # Its last events may still be on the way.
                await asyncio.wait({get}, timeout=_LAST_EVENTS_SECONDS)
            if get.done():
                return get.result()
        finally:
            get.cancel()
        if dead.done():
            raise self._process_failure(await self.server.process.exited())
        if pump.done():
            error = pump.exception()
            raise await self._connection_failure(str(error) if error else "its event stream ended")
        return None

    async def _handle(self, translator: Translator, event: Event) -> None:
        with self._parse_errors(event):
            drafts = translator.feed(event)
        for draft in drafts:
            if draft.type in (ChunkType.PERMISSION, ChunkType.QUESTION):
                await self._publish_request(draft)
            else:
                await self._publish(draft)
            if self._repetition.note(draft):
                await self._end_repetition()
        for closed in self._deadlines.keys() - translator.waiting.keys():
            del self._deadlines[closed]

    async def _end_repetition(self) -> None:
        """Tell the agent that it repeats itself; the second time, end it."""
        if self._told:
            await self.abort()
            message = (
                "the agent repeats the same tool calls with the same results, also after it was told (REPEATED_CALLS)"
            )
            raise AgentFailed(Reason.STALLED, message, self._stderr())
        self._told = True
        await self._publish(status_draft("the agent repeats itself; it gets a message", "agent"))
        # OpenCode gives it to the model with the results of the running step.
        await self._send(ADVICE)

    @contextmanager
    def _parse_errors(self, event: Event) -> Iterator[None]:
        """Fail this run alone when OpenCode, or a process on its socket, sends data of another form."""
        try:
            yield
        except OverLimit as error:
            raise self.server.failed(str(error)) from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            kind = ascii(str(event.get("type"))[:64])
            raise self.server.failed(f"OpenCode sent an event that cannot be read: {kind}") from error

    async def _publish_request(self, draft: Draft) -> None:
        seconds, detail = self._prompt_spec.answer_seconds, dict(draft.detail or {})
        if seconds is not None:
            self._deadlines[detail["request_id"]] = self._clock.monotonic() + seconds
            deadline = self._clock.now() + timedelta(seconds=seconds)
            detail = PendingRequest.model_validate({**detail, "deadline": deadline}).model_dump(mode="json")
            await self._publish(draft.model_copy(update={"detail": detail}))
            return
        await self._publish(draft)
        await self.abort()
        raise AgentFailed(Reason.PERMISSION_DENIED, f"nobody can answer: {draft.data}", self._stderr())

    async def _deny_overdue(self) -> None:
        now, client = self._clock.monotonic(), self.server.client
        for request in [key for key, at in self._deadlines.items() if at <= now]:
            del self._deadlines[request]
            waiting = self._translator.waiting.get(request) if self._translator else None
            if waiting is None:
                continue
            self.on_overdue(request)
            message = f"denied: no answer within {self._prompt_spec.answer_seconds:g} s"
            await self._publish(status_draft(f"{waiting.title}: {message}", "agent"))
            if waiting.kind == "permission":
                await client.reply_permission(request, "reject", message)
            else:
                # An answer, because a rejection would end the run silently.
                count = len(waiting.title.splitlines()) or 1
                await client.reply_question(request, [[f"({message}; decide yourself)"]] * count)

    async def _publish(self, draft: Draft) -> None:
        if self._emit is not None:
            await self._emit(draft)

    def _stderr(self) -> tuple[str, ...]:
        return tuple(self.server.process.stderr_tail)

    def _process_failure(self, code: int) -> AgentFailed:
        hit = self.server.process.limit_hit
        if hit is not None:
            reason = Reason.OUT_OF_MEMORY if hit.what == "memory" else Reason.AGENT_ERROR
            message = f"the agent's processes were ended: {hit.what} {hit.value} over the limit of {hit.limit}"
            return AgentFailed(reason, message, self._stderr())
        return AgentFailed(Reason.AGENT_ERROR, f"OpenCode ended during the run (exit code {code})", self._stderr())

    async def _connection_failure(self, message: str) -> AgentFailed:
        """Return the failure behind an unanswered call: most often the process is dead, the better reason."""
        with suppress(TimeoutError):
            return self._process_failure(await asyncio.wait_for(self.server.process.exited(), _EXIT_SECONDS))
        return self._no_answer(f"OpenCode does not answer: {message}")

    def _no_answer(self, message: str) -> AgentFailed:
        # Before the first prompt the agent has done nothing: an overloaded machine is no end of the execution.
        return self.server.failed(message) if self._prompted else self.server.not_ready(message)


@dataclass(frozen=True)
class _Stream:
    """An open event stream: its task, and the events that it has received."""

    inbox: asyncio.Queue[Event]
    pump: asyncio.Task[None]


Task = asyncio.Task[None] | asyncio.Task[int]


def command_of(text: str, commands: Collection[str]) -> tuple[str | None, str]:
    """Return command and arguments of a prompt `/NAME ARGUMENTS`; None when `commands` does not have NAME."""
    found = re.match(r"/(\S+)\s*", text)
    return (found[1], text[found.end() :].strip()) if found and found[1] in commands else (None, "")


def question_answers(answer: str, title: str) -> list[list[str]]:
    """Return the answers to a request with as many questions as `title` has lines."""
    count = len(title.splitlines()) or 1
    with suppress(InvalidEvent):
        given = parse_json(answer.encode("utf-8", "replace"), FREE_VALUE, "answer")
        if isinstance(given, list):
            return [[str(label) for label in one] if isinstance(one, list) else [str(one)] for one in given]
    if count == 1:
        return [[answer]]
    lines = answer.splitlines()
    return [[lines[i]] if i < len(lines) else [] for i in range(count)]


async def start_agent(server: ServerSpec, prompt_spec: PromptSpec, clock: Clock) -> Agent:
    """Start a server for one execution, without the warm pool.

    Raises:
        AgentFailed: OpenCode is missing, of the wrong version, or not ready within 30 s.
    """
    return Agent(await AgentServer.start(server), prompt_spec, clock)
