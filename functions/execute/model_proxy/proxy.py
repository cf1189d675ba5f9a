"""The model proxy of one execution.

A loopback HTTP server that accepts the execution's random token, replaces it with the real key, and forwards only model
calls, as operator and caller allow. See docs/adr/0004-model-proxy.md.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Coroutine
from typing import Any

import structlog

from ocf.events import untrusted_json as bounds
from ocf.events.command_payloads import Limits
from ocf.events.lifecycle import Reason
from ocf.events.output import Usage
from ocf.events.ports import Clock
from ocf.events.redaction import Redactor
from ocf.events.untrusted_json import OverLimit
from ocf.functions.execute.model_proxy import api_formats
from ocf.functions.execute.model_proxy import request as requests
from ocf.functions.execute.model_proxy.budget import Budget, Hooks, ModelProxyFailure
from ocf.functions.execute.model_proxy.call import ModelCall
from ocf.functions.execute.model_proxy.call_recording import RecordedReply, call_line, raw_parts
from ocf.functions.execute.model_proxy.http_server import ClientGone, Reply, Request, Server
from ocf.functions.execute.model_proxy.played_call import PlayedCall, Player
from ocf.functions.execute.model_proxy.string_placeholders import BadRequest, Elided
from ocf.functions.execute.model_proxy.upstream import ModelFailed, Upstream
from ocf.functions.models.catalog import Wire
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.line_types import Part
from ocf.functions.recording.model_call_recorder import Recorder, Tape
from ocf.functions.recording.playback import Answer

log = structlog.get_logger()

#: Unusable answers in a row before the model counts as failed; the agent would retry for ever.
MAX_UNUSABLE = 3


class ModelProxy:
    """One per execution. Without a target, in a warm server, it answers by itself: one word, no cost.

    Args:
        upstream: the HTTP client of the process.
        clock: for durations.
        hooks: listeners.

    Attributes:
        token: the agent's credential; 256 random bits, worthless elsewhere, invalid after `close`.
        failure: why the execution must end, once that is decided.
        redactor: redacts the key and the token; for publishers of the agent's output.
    """

    def __init__(self, upstream: Upstream, clock: Clock, hooks: Hooks | None = None) -> None:
        self.token = secrets.token_urlsafe(32)
        self.failure: ModelProxyFailure | None = None
        self.redactor = Redactor([self.token])
        self.target: ModelTarget | None = None
        self._upstream = upstream
        self._clock = clock
        self._hooks = hooks or Hooks()
        self._server = Server(self)
        self._budget = Budget(Limits(), None)
        self._refused: str | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._recorder: Recorder | None = None
        self._player: Player | None = None
        self._numbers = 0
        self._unusable = 0

    def __repr__(self) -> str:
        return f"ModelProxy(port={self.port}, target={self.target and self.target.display_name!r})"

    # Interface of the other execute modules.
    @property
    def port(self) -> int:
        """Return the port on 127.0.0.1; 0 before `start`."""
        return self._server.port

    @property
    def base_url(self) -> str:
        """Return the base URL for the agent's provider options, in both API formats."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def usage(self) -> Usage:
        """Return the totals of the calls that have ended."""
        return self._budget.usage

    @property
    def in_flight(self) -> int:
        """Return the number of running model calls."""
        return len(self._calls)

    async def start(self) -> ModelProxy:
        """Listen on a free loopback port."""
        await self._server.start()
        return self

    def assign(
        self,
        target: ModelTarget,
        limits: Limits,
        hooks: Hooks | None = None,
        used: Usage | None = None,
        recorder: Recorder | None = None,
        player: Player | None = None,
    ) -> None:
        """Set the target, once: a proxy serves one execution. `used` counts as spent already.

        `recorder` records every call; `player` answers from the recording of another execution, as far as that goes.

        Raises:
            RuntimeError: it has a target already.
        """
        if self.target is not None:
            raise RuntimeError("this model proxy already serves an execution")
        self.target = target
        self._hooks = hooks or self._hooks
        self._budget = Budget(limits, target.prices, used)
        self._recorder = recorder
        self._player = player
        if player is not None:
            player.on_end = self._end
        if target.api_key is not None:
            self.redactor.add(target.api_key.get_secret_value())

    def refuse(self, reason: str) -> None:
        """Cut running calls and answer every further request 403 with `reason`."""
        if self._refused is None:
            self._refused = reason
        current = asyncio.current_task() if self._calls else None
        for call in self._calls:
            if call is not current:
                call.cancel()

    async def close(self) -> None:
        """Refuse further calls and free the port."""
        self.refuse("the execution has ended")
        calls = list(self._calls)
        await self._server.close()
        await asyncio.gather(*calls, return_exceptions=True)

    # Interface of the HTTP server.
    def admit(self, request: Request) -> tuple[int, bytes] | None:
        """Return None, or a refusal before the body is read: wrong token, path or method, or too many calls."""
        shown = api_formats.presented_token(request.headers)
        if not hmac.compare_digest(shown.encode(), self.token.encode()):
            return 401, api_formats.error_body("this port needs the token of its execution", "ocf_token")
        if self._refused is not None:
            return 403, api_formats.error_body(self._refused, "ocf_refused")
        listing, call = request.path in api_formats.MODELS_PATHS, api_formats.route(request.path)
        allowed = "GET" if listing else "POST" if call is not None else None
        if allowed is None:
            return 404, api_formats.error_body(f"{request.path} is not forwarded", "ocf_path")
        if request.method != allowed:
            return 405, api_formats.error_body(f"{request.path} needs {allowed}", "ocf_method")
        if len(self._calls) >= bounds.MODEL_CALLS:
            return 429, api_formats.error_body(f"at most {bounds.MODEL_CALLS} model calls at once", "ocf_calls")
        return None

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answer one admitted request."""
        if self.target is not None:
            reply.before = self._hooks.before_answer
        if request.path in api_formats.MODELS_PATHS:
            name = self.target.wire_model if self.target else api_formats.CANNED_WORD
            await reply.whole(200, api_formats.model_list(name))
            return
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            await self._call(request, reply)
        except asyncio.CancelledError:
            if self._refused is None or reply.gone:
                raise
            await self._answer_refused(reply)
        except ClientGone:
            raise
        except Exception:
            # A bug of ours must end the execution and not leave the agent retrying for ever.
            self.fail(Reason.MODEL_ERROR, "the model proxy failed")
            raise
        finally:
            self._calls.discard(task)

    async def _call(self, request: Request, reply: Reply) -> None:
        route = api_formats.route(request.path)
        assert route is not None
        self._hooks.on_activity()
        try:
            elided, body = await requests.read(request.body)
            target = self.target
            stream = bool(body.get("stream")) if route.stream is None else route.stream
            if target is None:
                content_type, answer = api_formats.canned(route.wire, stream)
                await reply.whole(200, answer, content_type)
                return
            if route.kind != target.kind:
                text = f"this execution's model uses the {target.kind} API format"
                await reply.whole(400, api_formats.error_body(text, "ocf_wire"))
                return
            left = self._budget.tokens_left()
            size = len(elided.skeleton)
            asked = await requests.off_loop(
                size, requests.prepare, route.wire, elided, body, target, left, stream=stream
            )
            parts = await self._parts(route.wire, elided, body)
        except OverLimit as error:
            await reply.whole(413, api_formats.error_body(str(error), "ocf_request"))
            return
        except BadRequest as error:
            await reply.whole(400, api_formats.error_body(str(error), "ocf_request"))
            return
        # The outgoing copy is in memory too: the received one is not needed any longer.
        del elided, body
        request.body.clear()
        tape = None if self._recorder is None else self._recorder.tape(parts)
        reply = reply if tape is None else RecordedReply(reply, tape)
        given = Answer(live=True) if self._player is None else self._player.playback.next(parts or ())
        if given.end is not None:
            self._end(given)
            await self._answer_refused(reply)
        elif given.call is not None and self._player is not None:
            self._numbers += 1
            call = PlayedCall(self._numbers, target, self._player, self._hooks, self._clock)
            await self._make(call, call.run(given.call, route.wire, reply), route.wire, reply, tape)
        else:
            await self._reserve(route, request, asked, target, reply, tape)

    def _end(self, answer: Answer) -> None:
        """End a rerun."""
        if answer.end == "diverged":
            self.fail(Reason.DIVERGED, self.redactor(answer.why))
        elif self.failure is None and self._refused is None:
            self.refuse(answer.why)
            self._hooks.on_over(answer)

    async def _parts(self, wire: Wire, elided: Elided, body: dict[str, Any]) -> list[Part] | None:
        """Return the parts of a request that is recorded or compared; None also if there were too many."""
        if self._player is not None:
            table = self._player.playback.table
        elif self._recorder is not None:
            table = self._recorder.table
        else:
            return None
        # Hashing is a hundred times as fast as parsing.
        return await requests.off_loop(len(elided.source) // 8, lambda: table.parts(raw_parts(wire, elided, body)))

    async def _reserve(
        self,
        route: api_formats.Route,
        request: Request,
        asked: requests.ModelRequest,
        target: ModelTarget,
        reply: Reply,
        tape: Tape | None,
    ) -> None:
        estimate = Usage(input_tokens=asked.input_tokens, output_tokens=asked.output_tokens)
        async with self._budget.reserved(estimate) as reservation:
            if (spent := self._budget.spent()) is not None:
                self.fail(Reason.BUDGET_EXCEEDED, spent)
                await self._answer_refused(reply)
                return
            self._numbers += 1
            call = ModelCall(self._numbers, target, self._upstream, self._budget, self._hooks, self._clock)
            working = call.run(route, request, asked, reservation, reply, self.redactor)
            await self._make(call, working, route.wire, reply, tape)

    async def _make(
        self,
        call: ModelCall | PlayedCall,
        working: Coroutine[Any, Any, None],
        wire: Wire,
        reply: Reply,
        tape: Tape | None,
    ) -> None:
        """Wait for a call that is at work, and record it."""
        failure: tuple[str, str] | None = None
        try:
            await working
        except ModelFailed as error:
            failure = (error.reason.value, self.redactor(error.message))
            self.fail(error.reason, failure[1])
            await self._answer_refused(reply)
        else:
            self._after(call, reply)
        finally:
            if tape is not None and self._recorder is not None:
                tape.redacted = call.redacted
                bad = None if call.bad is None else self.redactor(call.bad)
                line = call_line(wire, call.facts, broken=call.cut, unusable=bad, failure=failure)
                self._recorder.end(tape, line)

    def _after(self, call: ModelCall | PlayedCall, reply: Reply) -> None:
        """Check limits and the run of unusable answers after a call."""
        self._unusable = self._unusable + 1 if call.bad is not None else 0
        if self._unusable >= MAX_UNUSABLE:
            message = f"the model endpoint gave no usable answer {self._unusable} times in a row: {call.bad}"
            self.fail(Reason.MODEL_ERROR, self.redactor(message))
        if (over := self._budget.exceeded()) is not None:
            self.fail(Reason.BUDGET_EXCEEDED, over)
        if call.cut and not reply.gone:
            reply.abort()

    def fail(self, reason: Reason, message: str) -> None:
        """Fail the execution. The first reason stands; nothing more is spent."""
        if self.failure is None and self._refused is None:
            self.failure = ModelProxyFailure(reason, message)
            log.warning("model access ended", action="model_proxy.failed", reason=reason.value)
            self.refuse(message)
            self._hooks.on_failure(self.failure)

    async def _answer_refused(self, reply: Reply) -> None:
        if reply.started:
            reply.abort()
            return
        try:
            # 403, because agents retry what looks temporary.
            await reply.whole(403, api_formats.error_body(self._refused or "refused", "ocf_refused"))
        except ClientGone:
            return
