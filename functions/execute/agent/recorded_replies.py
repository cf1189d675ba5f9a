"""Replies to the agent: recorded, and in a rerun given again to the same request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.model_proxy.played_call import Player
from ocf.functions.recording.model_call_recorder import Recorder
from ocf.functions.recording.playback import Answer

Emit = Callable[[Draft], Awaitable[None]]


class Replies:
    """Replies of one attempt.

    Attributes:
        on_reply: gets the id of a request and the recorded answer to it.
        on_expired: gets the id of a request that the original denied, because nobody answered in time.
    """

    def __init__(self) -> None:
        self.on_reply: Callable[[str, str], None] = lambda _id, _answer: None
        self.on_expired: Callable[[str], None] = lambda _id: None
        self._recorder: Recorder | None = None
        self._player: Player | None = None
        #: Requests by id: number, and what is asked.
        self._requests: dict[str, tuple[int, str]] = {}
        #: Replies before there was a recorder: follow-up prompts that an earlier attempt had taken up.
        self._early: list[str] = []

    def begin(self, recorder: Recorder | None, player: Player | None) -> list[str]:
        """Take what records and plays; return the follow-up prompts of the original."""
        self._recorder, self._player = recorder, player
        early, self._early = self._early, []
        follow_ups = [] if player is None else player.playback.follow_ups
        for prompt in (*early, *follow_ups):
            self.follow_up(prompt)
        return follow_ups

    def watching(self, emit: Emit) -> Emit:
        """Return `emit`, which tells of the agent's requests."""

        async def emit_and_note(draft: Draft) -> None:
            await emit(draft)
            if draft.type in (ChunkType.PERMISSION, ChunkType.QUESTION):
                self._asked(draft)

        return emit_and_note

    def _asked(self, draft: Draft) -> None:
        """Note a request of the agent, once it is published. In a rerun it gets its reply."""
        detail = draft.detail or {}
        request, asked = str(detail.get("request_id")), f"{detail.get('kind')}\n{detail.get('title')}"
        number = len(self._requests) + 1
        self._requests[request] = (number, asked)
        given = None if self._player is None else self._player.playback.reply(number, asked)
        if isinstance(given, Answer) and self._player is not None:
            self._player.on_end(given)
        elif given is not None and not isinstance(given, Answer):
            if given.answer is None:
                self.on_expired(request)
            else:
                self.on_reply(request, given.answer)

    def follow_up(self, prompt: str) -> None:
        """Record a further prompt."""
        if self._recorder is not None:
            self._recorder.note_reply(0, "", prompt)
        else:
            self._early.append(prompt)

    def answered(self, request: str, answer: str | None) -> None:
        """Record the answer to a request; None: it was denied, because there was none in time."""
        if self._recorder is not None and request in self._requests:
            self._recorder.note_reply(*self._requests[request], answer)
