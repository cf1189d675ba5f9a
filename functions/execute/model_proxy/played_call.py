"""Recorded calls as answers of the model proxy: no provider, no key, no cost, as fast as the agent reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from ocf.events.lifecycle import Reason
from ocf.events.ports import Clock
from ocf.events.redaction import Redactor
from ocf.functions.execute.model_proxy.budget import Call, Hooks
from ocf.functions.execute.model_proxy.http_server import ClientGone, Reply
from ocf.functions.execute.model_proxy.stream_redaction import StreamRedaction
from ocf.functions.execute.model_proxy.upstream import ModelFailed
from ocf.functions.models.catalog import Wire
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.recording.line_types import CallLine
from ocf.functions.recording.playback import Answer, Playback

_PIECE = 64 * 1024
#: Calls that were open when the original ended, or whose client hung up.
_OPEN = ("refused", "gone")


class Player:
    """Plays the calls of one recording.

    Args:
        playback: gives the calls.
        moved: paths of the recording, each with the one that has its place now.
        complete: the original completed: its open calls stay open until the agent is done.
    """

    def __init__(
        self,
        playback: Playback,
        moved: Sequence[tuple[str, str]],
        *,
        complete: bool,
    ) -> None:
        self.playback = playback
        self._moves = [Redactor([was], now, lambda text: {text}) for was, now in moved if was != now]
        #: Called when the recording ends in the middle of a call, and the original did, too.
        self.on_end: Callable[[Answer], None] = lambda _: None
        self._complete = complete
        self._playing = 0
        self._held = 0

    async def play(self, call: CallLine, wire: Wire, reply: Reply) -> tuple[str | None, bool]:
        """Answer a request with a recorded call.

        Returns:
            Why the agent could not use the answer, if so, and whether it broke off.

        Raises:
            ModelFailed: the recorded call ended so, or has another API format than the agent speaks.
            ClientGone: the agent has hung up.
        """
        if call.wire != wire:
            text = f"the recorded answers have the API format {call.wire}, the agent's model has {wire}"
            raise ModelFailed(Reason.MODEL_ERROR, f"{text}; use a model of the same format")
        if call.outcome == "failed" and call.reason is not None:
            raise ModelFailed(_reason(call.reason), call.message or "the model failed", call.provider_status)
        held = call.outcome in _OPEN
        self._playing += not held
        self._held += held
        try:
            if call.status is not None and not (held and call.status >= 400):
                await self._send(call, reply)
            if not held:
                return call.unusable, call.broken
            self._check_over()
            await asyncio.Event().wait()  # until the execution ends, or the agent hangs up as it did then
            raise AssertionError("unreachable: the wait above ends by a cancellation only")
        finally:
            self._playing -= not held
            self._held -= held
            if not held:
                self._check_over()

    def _check_over(self) -> None:
        """End the execution where the original ended while calls were open, once all others have been played."""
        if self._held and not self._playing and self.playback.played and not self._complete:
            self.on_end(Answer(end="recording", why="the recording ends in the middle of a call"))

    async def _send(self, call: CallLine, reply: Reply) -> None:
        data = await asyncio.to_thread(self._moved, call)
        streams = call.content_type.startswith("text/event-stream")
        await reply.start(call.status or 200, call.content_type, None if streams else len(data))
        for at in range(0, len(data), _PIECE):
            await reply.send(data[at : at + _PIECE])
        if not call.broken and call.outcome not in _OPEN:
            await reply.end()

    def _moved(self, call: CallLine) -> bytes:
        """Return the answer with the paths that the rerun has. A model may give a path in several pieces."""
        data = call.answer.encode("utf-8", "replace")
        for move in self._moves:
            if call.content_type.startswith("text/event-stream"):
                data = StreamRedaction(move).feed(data)
            else:
                data = move.bytes(data)
        return data


class PlayedCall:
    """One call that a recording answers; see `ModelCall`."""

    def __init__(self, number: int, target: ModelTarget, player: Player, hooks: Hooks, clock: Clock) -> None:
        self._player = player
        self._hooks = hooks
        self._clock = clock
        self.facts = Call(number, target.wire_model, target.provider, clock.monotonic())
        self.cut = False
        self.bad: str | None = None
        self.redacted = False

    async def run(self, call: CallLine, wire: Wire, reply: Reply) -> None:
        """Answer a request with a recorded call. Raises as `Player.play` does."""
        self._hooks.on_call_start(self.facts)
        self.redacted = call.redacted
        outcome = call.outcome
        try:
            self.bad, self.cut = await self._player.play(call, wire, reply)
        except (ClientGone, asyncio.CancelledError):
            outcome = "gone" if reply.gone else "refused"
            raise
        finally:
            seconds = self._clock.monotonic() - self.facts.started_at
            self.facts = replace(self.facts, outcome=outcome, seconds=seconds, status=call.provider_status)
            self._hooks.on_call_end(self.facts)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.MODEL_ERROR
