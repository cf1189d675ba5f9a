"""Recorder, format and playback under any order of calls, outages and kills: what is recorded can be read, and a rerun
that differs says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from io import BytesIO
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.errors import Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.optional_task_fields import Rerun
from ocf.events.ports import ObjectInfo
from ocf.events.redaction import Redactor
from ocf.functions.recording.canonical import PartTable, RawPart
from ocf.functions.recording.line_types import VERSION, CallLine, Exchange, Head
from ocf.functions.recording.model_call_recorder import Recorder, Tape
from ocf.functions.recording.playback import Playback
from ocf.functions.recording.recorded_calls_reader import Recording, read
from tests.support.clock import ManualClock

REF = ExecutionRef("p", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
KEY = "ab" * 32
#: Conversations of an execution: the main one and subagents.
WHO = st.integers(0, 2)
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


class Store(MemoryStore):
    """A store that can be away."""

    away = False

    async def put(self, key: str, data: bytes, *, content_type: str = "") -> ObjectInfo:
        if self.away:
            raise Unavailable("S3 is away")
        return await super().put(key, data, content_type=content_type)


def request(who: int, said: list[str]) -> list[RawPart]:
    messages = [RawPart("message", json.dumps({"content": text}).encode()) for text in said]
    return [RawPart("system", json.dumps(f"agent {who}").encode()), *messages]


class Attempts(RuleBasedStateMachine):
    """An execution whose agent works, whose store comes and goes, and whose worker is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store, self.clock = Store(), ManualClock()
        self.attempt = 0

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        """An attempt begins, and knows nothing of the one before."""
        self.attempt += 1
        head = Head(version=VERSION, attempt=self.attempt, key=KEY, holds="full")
        self.recorder = Recorder(self.store, REF, head, PartTable(KEY, Redactor()), self.clock)
        self.said: dict[int, list[str]] = {}
        self.open: dict[int, tuple[int, Tape]] = {}
        self.asked: dict[int, list[tuple[int, list[str]]]] = {}
        self.fetched: list[str] = []
        self.replies: list[tuple[str, str]] = []
        self.numbers = 0

    @rule(who=WHO, text=TEXT)
    def ask(self, who: int, text: str) -> None:
        """A conversation makes its next call, while others may be open."""
        if who in self.open:
            return
        said = self.said.setdefault(who, [f"do {who}"])
        if self.asked.get(who):
            said += ["answer", text]
        self.numbers += 1
        self.open[who] = (self.numbers, self.recorder.tape(self.recorder.table.parts(request(who, said))))
        self.asked.setdefault(who, []).append((self.numbers, list(said)))

    @rule(who=WHO, answer=TEXT)
    def end(self, who: int, answer: str) -> None:
        """An open call ends."""
        if who not in self.open:
            return
        number, tape = self.open.pop(who)

        async def ended() -> None:
            tape.head(200, "text/event-stream")
            tape.note(answer.encode())
            self.recorder.end(tape, CallLine(number=number, wire="chat", request=[], outcome="ok"))

        self.do(ended())

    @rule(body=TEXT, answer=st.binary(max_size=6))
    def fetch(self, body: str, answer: bytes) -> None:
        """A request to a secret's URL."""

        async def fetched() -> None:
            tape = self.recorder.exchange_tape()
            tape.head(200, "text/plain")
            tape.note(answer)
            digest = self.recorder.table.digest("exchange", body.encode())
            line = Exchange(number=len(self.fetched), route="secrets.A", method="POST", target="/", hash=digest)
            self.recorder.end_exchange(tape, line)

        self.do(fetched())
        self.fetched.append(body)

    @rule(asked=TEXT, answer=TEXT)
    def reply(self, asked: str, answer: str) -> None:
        """Somebody answers the agent."""
        self.replies.append((asked, answer))

        async def replied() -> None:
            self.recorder.note_reply(len(self.replies), asked, answer)

        self.do(replied())

    @rule(away=st.booleans(), seconds=st.sampled_from([0, 1, 10]))
    def time_passes(self, away: bool, seconds: int) -> None:
        """S3 goes or comes back."""
        self.store.away = away
        self.do(self.clock.advance(seconds))

    @precondition(lambda self: self.numbers)
    @rule()
    def killed(self) -> None:
        """The worker dies: what it had not stored is lost. The next attempt starts over."""
        self.store.away = True
        self.do(self.recorder.close(0.0))
        self.do(self._check(whole=False))
        self.store.away = False
        self.begin()

    def teardown(self) -> None:
        """The run ends: what is recorded is read, played in another order, and played with differences."""
        try:
            if self.attempt:
                self.store.away = False
                self.do(self.clock.advance(10))
                self.do(self.recorder.close(5.0))
                self.do(self._check(whole=True))
        finally:
            self.loop.close()

    async def _check(self, *, whole: bool) -> None:
        keys = sorted([one.key async for one in self.store.list(REF.object_key("model/"))])
        data = b"".join([await self.store.get(key) for key in keys])
        if not data:
            return
        recording = read(BytesIO(data))
        ended = {number for calls in self.asked.values() for number, _ in calls} - {n for n, _ in self.open.values()}
        if recording.head.attempt != self.attempt:
            assert not whole or not (ended or self.fetched or self.replies)
            return
        there = {call.number for call in recording.calls}
        assert there <= ended
        if whole:
            assert there == ended
            assert len(recording.exchanges) == len(self.fetched)
            assert [one.answer for one in recording.replies] == [answer for _, answer in self.replies]
        # What is missing between recorded calls is known, so that no rerun goes past it.
        assert set(range(1, max(there, default=0) + 1)) - there <= set(recording.missing)
        if not recording.missing:
            self._play(recording)

    def _play(self, recording: Recording) -> None:
        there = {call.number for call in recording.calls}
        calls = {who: [one for one in asked if one[0] in there] for who, asked in self.asked.items()}
        table = PartTable(KEY, Redactor())
        playback = Playback(recording, Rerun(of=REF.execution), table, complete=True)
        # One conversation after the other, the last one first: the order of the original plays no part.
        for who in sorted(calls, reverse=True):
            for number, said in calls[who]:
                given = playback.next(table.parts(request(who, said)) or []).call
                assert given is not None
                assert given.number == number
        for exchange in reversed(recording.exchanges):
            found = playback.exchange("secrets.A", "POST", "/", exchange.hash)
            assert isinstance(found, Exchange)
            assert found.hash == exchange.hash
        for one in recording.replies:
            assert playback.reply(one.request, self.replies[one.request - 1][0]) == one
        assert playback.result.divergences == []
        for who, asked in calls.items():
            for at in range(len(asked)):
                self._differ(recording, who, [said for _, said in asked], at)

    def _differ(self, recording: Recording, who: int, asked: list[list[str]], at: int) -> None:
        """Play a conversation in which one call has another last message: that is said, and nothing before it."""
        table = PartTable(KEY, Redactor())
        playback = Playback(recording, Rerun(of=REF.execution), table, complete=True)
        for number, said in enumerate(asked[: at + 1]):
            assert playback.result.divergences == []
            changed = [*said[:-1], f"{said[-1]} and something else"] if number == at else said
            playback.next(table.parts(request(who, changed)) or [])
        assert playback.result.divergences


TestAttempts = Attempts.TestCase
TestAttempts.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
