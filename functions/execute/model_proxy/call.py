"""One model call: forwarded with the real key, answered event by event, metered on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

import httpcore2

from ocf.events import untrusted_json
from ocf.events.lifecycle import Reason
from ocf.events.output import Usage
from ocf.events.ports import Clock
from ocf.events.redaction import Redactor
from ocf.events.untrusted_json import OverLimit
from ocf.functions.execute.model_proxy import api_formats
from ocf.functions.execute.model_proxy.budget import Budget, Call, Hooks, Reservation
from ocf.functions.execute.model_proxy.call_recording import was_redacted
from ocf.functions.execute.model_proxy.http_server import ClientGone, Reply, Request
from ocf.functions.execute.model_proxy.request import ModelRequest
from ocf.functions.execute.model_proxy.stream_redaction import StreamRedaction
from ocf.functions.execute.model_proxy.upstream import (
    BROKEN,
    Answer,
    ClientErrorForwarded,
    ModelFailed,
    Unusable,
    Upstream,
    describe,
    raw_body,
)
from ocf.functions.execute.model_proxy.usage_meter import UsageMeter
from ocf.functions.models.model_target import ModelTarget

#: Pieces of output between two comparisons of the usage with the limits.
STRIDE = 16
_STREAM = "text/event-stream"

Outcome = Literal["ok", "passed", "failed", "cut", "refused", "gone"]


class ModelCall:
    """One call.

    Afterwards `bad` states why its answer was unusable (None: it was usable), `cut` that it broke off, `redacted` that
    it had a secret in it.
    """

    def __init__(
        self, number: int, target: ModelTarget, upstream: Upstream, budget: Budget, hooks: Hooks, clock: Clock
    ) -> None:
        self._target = target
        self._upstream = upstream
        self._budget = budget
        self._hooks = hooks
        self._clock = clock
        self._call = Call(number, target.wire_model, target.provider, clock.monotonic())
        self._meter = UsageMeter("chat")
        self._reservation = Reservation(Usage())
        self._sent = False
        self._checked_pieces = 0
        self.cut = False
        self.bad: str | None = None
        self.redacted = False

    @property
    def facts(self) -> Call:
        """Return what is known of the call so far."""
        return self._call

    async def run(
        self,
        route: api_formats.Route,
        request: Request,
        asked: ModelRequest,
        reservation: Reservation,
        reply: Reply,
        redactor: Redactor,
    ) -> None:
        """Make the call and pass the answer to the agent.

        Raises:
            ModelFailed: the provider is unavailable, or a limit was exceeded during the answer.
            ClientGone: the agent has hung up.
        """
        self._meter = UsageMeter(route.wire, hide_usage=asked.hide_usage)
        self._reservation = reservation
        url = route.url(self._target)
        headers = api_formats.upstream_headers(self._target, request.headers)
        self._hooks.on_call_start(self._call)
        self._budget.request()
        outcome: Outcome = "failed"
        try:
            self._sent = True
            async with self._upstream.opened(url, headers, asked.data, self._answered) as response:
                outcome = await self._pass_on(response, reply, redactor)
        except ClientErrorForwarded as error:
            outcome = "passed"
            self._sent = False
            self._note(status=error.status)
            await reply.whole(error.status, redactor.bytes(error.body))
        except ModelFailed as error:
            self._note(status=error.status)
            outcome = "refused" if error.reason is Reason.BUDGET_EXCEEDED else "failed"
            self._sent = outcome == "refused"
            raise
        except (ClientGone, asyncio.CancelledError):
            outcome = "gone" if reply.gone else "refused"
            raise
        finally:
            self._finish_call(outcome, asked.input_tokens)

    def _answered(self, status: int) -> None:
        self._note(tries=self._call.tries + 1, status=status or None)
        self._hooks.on_activity()

    async def _pass_on(self, response: Answer, reply: Reply, redactor: Redactor) -> Outcome:
        content_type = response.headers.get("content-type", "application/json")
        try:
            if content_type.startswith(_STREAM):
                await self._pass_stream(response, reply, redactor)
            else:
                await self._pass_whole(response, reply, redactor)
        except (*BROKEN, OverLimit) as error:
            self.cut = True
            self.bad = f"it broke off ({_cut_reason(error)}; {describe(response)})"
            return "cut"
        except Unusable as error:
            self.bad = f"{error} ({describe(response)})"
            if reply.started:
                self.cut = True
            else:
                # Agents retry a 502; three in a row end the execution.
                message = f"the model endpoint gave no usable answer: {self.bad}"
                await reply.whole(502, redactor.bytes(api_formats.error_body(message, "ocf_answer")))
            return "failed"
        if self.bad is None and not self._meter.spoke:
            # The answer went to the agent unchanged: it is useless, but not malformed.
            self.bad = f"an empty answer ({describe(response)})"
        return "ok" if self.bad is None else "failed"

    async def _pass_stream(self, response: Answer, reply: Reply, redactor: Redactor) -> None:
        redaction, meter = StreamRedaction(redactor), self._meter
        async for data in raw_body(response):
            if self._call.first_byte_seconds is None:
                self._note(first_byte_seconds=self._clock.monotonic() - self._call.started_at)
                await reply.start(200, _STREAM)
            ready = meter.feed(data)
            if _lives(data, ready):
                self._hooks.on_activity()
            if ready:
                sent = redaction.feed(ready)
                self.redacted = self.redacted or was_redacted(ready, sent)
                await reply.send(sent)
                self._check_budget()
        remainder = meter.remainder()
        if not meter.finished and not meter.failed:
            raise httpcore2.RemoteProtocolError("the stream ended before the answer did")
        if not reply.started:
            await reply.start(200, _STREAM)
        await reply.send(redaction.feed(remainder))
        await reply.end()
        if meter.failed and not meter.finished:
            self.bad = f"it ended in an error ({describe(response)})"

    def _check_budget(self) -> None:
        """End the call while it is answering when all running calls together exceed a limit."""
        meter = self._meter
        if meter.finished:
            # The answer is complete and paid for, so the agent gets it. The next call is refused.
            return
        if meter.pieces - self._checked_pieces < STRIDE:
            return
        self._checked_pieces = meter.pieces
        self._reservation.live = meter.usage(self._reservation.estimate.input_tokens)
        if (limit := self._budget.passed_by_running()) is not None:
            raise ModelFailed(Reason.BUDGET_EXCEEDED, f"{limit} was reached in the middle of an answer")

    async def _pass_whole(self, response: Answer, reply: Reply, redactor: Redactor) -> None:
        body = bytearray()
        async for data in raw_body(response):
            self._hooks.on_activity()
            body += data
            untrusted_json.check_size(len(body), untrusted_json.MODEL_ANSWER, "the model's answer")
        self._note(first_byte_seconds=self._clock.monotonic() - self._call.started_at)
        self._meter.whole(bytes(body))
        if not self._meter.finished:
            raise Unusable("neither JSON nor an event stream")
        sent = redactor.bytes(bytes(body))
        self.redacted = sent != body
        await reply.whole(200, sent)

    def _note(self, **fields: Any) -> None:
        self._call = replace(self._call, **fields)

    def _finish_call(self, outcome: Outcome, input_tokens: int) -> None:
        # A sent request is billed even when nobody waited for its answer; an empty answer only as it reports itself.
        usage = self._meter.usage(input_tokens if self._sent and (outcome != "failed" or self._meter.spoke) else 0)
        self._budget.add(usage)
        usage = usage.model_copy(update={"cost_usd": self._budget.cost(usage)})
        seconds = self._clock.monotonic() - self._call.started_at
        estimated = not self._meter.reported and usage.total_tokens > 0
        self._note(outcome=outcome, usage=usage, seconds=seconds, estimated=estimated)
        self._hooks.on_call_end(self._call)
        self._hooks.on_usage(self._budget.usage)


def _lives(data: bytes, ready: bytes) -> bool:
    """Return whether a piece of a stream is more than comments and pings, which say nothing of the model."""
    if not ready:
        return not data.lstrip().startswith(b":")
    return ready.count(b"data:") > ready.count(b'"ping"')


def _cut_reason(error: Exception) -> str:
    """Return what cut an answer off, without its content."""
    if isinstance(error, httpcore2.ReadTimeout):
        return "no byte within MODEL_SILENCE_SECONDS"
    return str(error) if isinstance(error, OverLimit) else type(error).__name__
