"""One model call: out with the real key, back event by event, counted on the way."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, Literal

import httpx

from events.lifecycle import Reason
from events.output import Usage
from events.ports import Clock
from events.redact import Redactor
from functions.execute.broker import wire as wires
from functions.execute.broker.account import Account, Call, Hooks
from functions.execute.broker.meter import Meter, TooLong
from functions.execute.broker.server import ClientGone, Reply, Request
from functions.execute.broker.upstream import ModelFailed, Passed, Upstream
from functions.execute.broker.veil import Veil
from functions.models.target import ModelTarget

#: An answer that is not a stream is held in memory, up to this size.
MAX_WHOLE = 16 * 1024 * 1024
#: The live cost is compared with its limit at every so many pieces.
COST_STRIDE = 16

Outcome = Literal["ok", "passed", "failed", "cut", "refused", "gone"]


class Relay:
    """One call. Afterwards `cut` says that the answer broke off before its end, `failed` that it ended in an error."""

    def __init__(
        self, number: int, target: ModelTarget, upstream: Upstream, account: Account, hooks: Hooks, clock: Clock
    ) -> None:
        self._target = target
        self._upstream = upstream
        self._account = account
        self._hooks = hooks
        self._clock = clock
        self._call = Call(number, target.wire_model, target.provider, clock.monotonic())
        self._meter = Meter("chat")
        self.cut = False
        self.failed = False

    async def run(
        self, wire: wires.Wire, request: Request, body: dict[str, Any], reply: Reply, redactor: Redactor
    ) -> None:
        """Make the call and pass the answer to the agent.

        Raises:
            ModelFailed: the provider cannot be had, or a limit was crossed while it answered.
            ClientGone: the agent has hung up.
        """
        rewritten, hide = wires.rewrite(wire, body, self._target)
        data = json.dumps(rewritten, ensure_ascii=False, separators=(",", ":")).encode()
        self._meter = Meter(wire, hide_usage=hide)
        url = self._target.base_url + wires.ROUTES[request.path][2]
        headers = wires.upstream_headers(self._target, request.headers)
        self._hooks.on_call_start(self._call)
        self._account.request()
        outcome: Outcome = "failed"
        try:
            async with self._upstream.opened(url, headers, data, self._answered) as response:
                outcome = await self._pass_on(response, reply, redactor)
        except Passed as error:
            outcome = "passed"
            self._note(status=error.status)
            await reply.whole(error.status, redactor.bytes(error.body))
        except ModelFailed as error:
            self._note(status=error.status)
            outcome = "refused" if error.reason is Reason.BUDGET_EXCEEDED else "failed"
            raise
        except (ClientGone, asyncio.CancelledError):
            outcome = "gone" if reply.gone else "refused"
            raise
        finally:
            self._ended(outcome, len(data))

    def _answered(self, status: int) -> None:
        self._note(tries=self._call.tries + 1, status=status or None)
        self._hooks.on_activity()

    async def _pass_on(self, response: httpx.Response, reply: Reply, redactor: Redactor) -> Outcome:
        content_type = response.headers.get("content-type", "application/json")
        if not content_type.startswith("text/event-stream"):
            return await self._pass_whole(response, content_type, reply, redactor)
        veil = Veil(redactor)
        meter, left, cost_left = self._meter, self._account.live_tokens_left(), self._account.live_cost_left()
        try:
            async for data in response.aiter_bytes():
                if self._call.first_byte_seconds is None:
                    self._note(first_byte_seconds=self._clock.monotonic() - self._call.started_at)
                    await reply.start(200, content_type)
                ready = meter.feed(data)
                self._hooks.on_activity()
                if ready:
                    await reply.send(veil.feed(ready))
                self._hold(left, cost_left)
            rest = meter.rest()
        except (httpx.TransportError, httpx.DecodingError, TooLong):
            return self._broken()
        if not meter.finished and not meter.failed:
            return self._broken()
        await reply.send(veil.feed(rest))
        await reply.end()
        self.failed = meter.failed and not meter.finished
        return "failed" if self.failed else "ok"

    def _broken(self) -> Outcome:
        self.cut = True
        return "cut"

    def _hold(self, left: int | None, cost_left: float | None) -> None:
        """Stop a call that is over the limits while it is still talking."""
        meter = self._meter
        if meter.finished:
            # All of it is there and paid for: let the agent have it. The next call will not be made.
            return
        if left is not None and meter.live_tokens > left:
            raise ModelFailed(Reason.BUDGET_EXCEEDED, "limits.max_total_tokens was reached in the middle of an answer")
        if cost_left is not None and meter.pieces % COST_STRIDE == 0:
            usage = Usage(output_tokens=meter.pieces) if not meter.reported else meter.usage()
            if self._account.cost(usage) > cost_left:
                raise ModelFailed(Reason.BUDGET_EXCEEDED, "limits.max_cost_usd was reached in the middle of an answer")

    async def _pass_whole(
        self, response: httpx.Response, content_type: str, reply: Reply, redactor: Redactor
    ) -> Outcome:
        body = bytearray()
        try:
            async for data in response.aiter_bytes():
                self._hooks.on_activity()
                body += data
                if len(body) > MAX_WHOLE:
                    return self._broken()
        except (httpx.TransportError, httpx.DecodingError):
            return self._broken()
        self._note(first_byte_seconds=self._clock.monotonic() - self._call.started_at)
        self._meter.whole(bytes(body))
        await reply.whole(200, redactor.bytes(bytes(body)), content_type)
        return "ok"

    def _note(self, **fields: Any) -> None:
        self._call = replace(self._call, **fields)

    def _ended(self, outcome: Outcome, request_bytes: int) -> None:
        usage = self._meter.usage(request_bytes)
        self._account.add(usage)
        usage = usage.model_copy(update={"cost_usd": self._account.cost(usage)})
        seconds = self._clock.monotonic() - self._call.started_at
        estimated = not self._meter.reported and usage.total_tokens > 0
        self._note(outcome=outcome, usage=usage, seconds=seconds, estimated=estimated)
        self._hooks.on_call_end(self._call)
        self._hooks.on_usage(self._account.usage)
