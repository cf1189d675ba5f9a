"""Answers of a recording for the requests of a rerun: which one, and what differs. Nothing here does I/O.

Calls belong to conversations: the main one, that of each subagent, the title's. Two calls are of one conversation if
system prompt and first message are the same. Within a conversation answers are given by position, so it does not matter
which of two conversations asks first. A conversation that the recording does not have gets the most similar one that
nobody has taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from ocf.events.fact_payloads import Divergence, RerunResult
from ocf.events.optional_task_fields import Rerun
from ocf.events.terminal_facts import MAX_DIVERGENCES
from ocf.functions.core.execution_comparison import first_difference
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.line_types import CallLine, Exchange, Part, Reply
from ocf.functions.recording.recorded_calls_reader import Recording

#: Characters of a text from the first difference on, and before it.
_SHOWN, _BEFORE = 150, 30
#: Differences that are remembered, so that each is reported once.
_MAX_KNOWN = 10_000

Conversation = tuple[tuple[str, ...], str]
_Given = TypeVar("_Given", Exchange, Reply)


class Answer(NamedTuple):
    """A recorded call, or the model (`live`), or the end of the execution: its reason and a message.

    Ends: `diverged`; `until`, the rerun was to go no further; `recording`, the original went no further.
    """

    call: CallLine | None = None
    live: bool = False
    end: Literal["diverged", "until", "recording"] | None = None
    why: str = ""


class Playback:
    """The recording as the source of answers.

    Args:
        recording: the recording.
        asked: the rerun.
        table: has the parts of the rerun's requests, under the same key.
        complete: the original completed, so it has no further calls.
    """

    def __init__(self, recording: Recording, asked: Rerun, table: PartTable, *, complete: bool) -> None:
        self.table = table
        self._complete = complete
        self._recording = recording
        self._asked = asked
        self._waiting: dict[Conversation, deque[CallLine]] = {}
        for call in recording.calls:
            self._waiting.setdefault(_conversation(recording.request_of(call)), deque()).append(call)
        self._taken: dict[Conversation, deque[CallLine]] = {}
        self._left = sum(asked.until is None or call.number <= asked.until for call in recording.calls)
        self._live = False
        self._known: set[tuple[str, str, str]] = set()
        self._divergences: list[Divergence] = []
        self._more = 0
        self._calls = self._live_calls = 0
        self._exchanges: dict[str, list[Exchange]] = {}
        for exchange in recording.exchanges:
            self._exchanges.setdefault(exchange.route, []).append(exchange)
        self._replies = [one for one in recording.replies if asked.until is None or one.calls <= asked.until]

    @property
    def result(self) -> RerunResult:
        """Return what has happened so far."""
        return RerunResult(
            of=self._asked.of,
            calls=self._calls,
            live_calls=self._live_calls,
            divergences=list(self._divergences),
            more=self._more,
        )

    @property
    def played(self) -> bool:
        """Return whether every recorded call has been given."""
        return self._left <= 0

    @property
    def follow_ups(self) -> list[str]:
        """Return the prompts that followed the first one while the original ran."""
        return [one.answer for one in self._replies if not one.request and one.answer is not None]

    def reply(self, request: int, asked: str) -> Reply | Answer | None:
        """Return what the agent's request number `request` gets: a recorded reply, the end, or None: none is there."""
        found = next((one for one in self._replies if one.request == request), None)
        if found is None:
            if self.played and not self._complete and self._asked.until is None:
                return Answer(end="recording", why="the recording ends at a question to which nobody replied")
            return None
        if found.hash == self.table.digest("request", asked.encode("utf-8", "replace")):
            return found
        return self._differs(f"request {request}", "the agent asks something else", found)

    def exchange(self, route: str, method: str, target: str, digest: str) -> Exchange | Answer | None:
        """Return the recorded answer to a request to a route, an `Answer` that ends the rerun, or None without either.

        Equal requests get their answers in order. One that is not recorded gets the first answer that is left to
        another request of the same method and target.
        """
        waiting = self._exchanges.get(route, [])
        same = [one for one in waiting if (one.method, one.target) == (method, target)]
        found = next((one for one in same if one.hash == digest), None)
        if found is not None:
            waiting.remove(found)
            return found
        near = next(iter(same), None)
        what = "another body than in the recording" if near else "not in the recording"
        given = self._differs(route, f"{method} {target[:_SHOWN]}: {what}", near)
        if given is near and near is not None:
            waiting.remove(near)
        return given

    def _differs(self, part: str, text: str, near: _Given | None) -> _Given | Answer | None:
        """Report a difference that is not in a model call, and return what it gets."""
        call = self._calls + self._live_calls
        if (part, text, "") not in self._known:
            if len(self._known) < _MAX_KNOWN:
                self._known.add((part, text, ""))
            self._report(Divergence(call=call, part=part, text=text))
        if self._asked.on_divergence == "fail":
            return Answer(end="diverged", why=f"after call {call}, {part}: {text}")
        return near if self._asked.on_divergence == "nearest" else None

    def next(self, request: Sequence[Part]) -> Answer:
        """Return what the next request gets."""
        answer = self._next(request)
        self._calls += answer.call is not None
        self._live_calls += answer.live
        return answer

    def _next(self, request: Sequence[Part]) -> Answer:
        if self._live:
            return Answer(live=True)
        calls = self._calls_of(request)
        if not calls or (self._asked.until is not None and calls[0].number > self._asked.until):
            return self._beyond(calls)
        call = calls.popleft()
        self._left -= 1
        differs = self._compare(call, request)
        if differs and self._asked.on_divergence == "live":
            self._live = True
            return Answer(live=True)
        if differs and self._asked.on_divergence == "fail":
            first = self._divergences[0]
            text = f": {first.text}" if first.text else ""
            return Answer(end="diverged", why=f"call {call.number} differs from the recording in {first.part}{text}")
        return Answer(call)

    def _beyond(self, calls: deque[CallLine] | None) -> Answer:
        """Return what a request gets that no recorded call answers."""
        if self._asked.then == "live":
            return Answer(live=True)
        if calls or (self.played and self._asked.until is not None):
            return Answer(end="until", why=f"the rerun ends after call {self._asked.until} (until)")
        last = self._recording.calls[-1].number if self._recording.calls else 0
        if self.played and not self._complete:
            return Answer(end="recording", why=f"the recording ends with call {last}")
        self._report(Divergence(call=last + 1, part="call", text="a call that the recording does not have"))
        if self._asked.on_divergence == "live":
            self._live = True
            return Answer(live=True)
        return Answer(end="diverged", why=f"the agent makes a call that the recording, of {last} calls, does not have")

    def _calls_of(self, request: Sequence[Part]) -> deque[CallLine] | None:
        """Return the recorded calls of a request's conversation that are left; None without such a conversation."""
        key = _conversation(request)
        if key not in self._taken:
            found = key if key in self._waiting else self._most_similar(request)
            if found is None:
                return None
            self._taken[key] = self._waiting.pop(found)
        return self._taken[key]

    def _most_similar(self, request: Sequence[Part]) -> Conversation | None:
        mine = {(part.kind, part.hash) for part in request}
        tools = any(part.kind == "tools" for part in request)

        def score(key: Conversation) -> tuple[int, bool, int]:
            call = self._waiting[key][0]
            first = self._recording.request_of(call)
            same = len(mine.intersection((part.kind, part.hash) for part in first))
            return same, any(part.kind == "tools" for part in first) is tools, -call.number

        return max(self._waiting, key=score, default=None)

    def _compare(self, call: CallLine, request: Sequence[Part]) -> bool:
        """Report what is new in how a request differs from the recorded one; return whether anything differs."""
        recorded = self._recording.request_of(call)
        differs = False
        for name, was, now in _pairs(recorded, request):
            if was is not None and now is not None and was.hash == now.hash:
                continue
            differs = True
            # Each later request of the conversation has the same difference again.
            seen = (name, was.hash if was is not None else "", now.hash if now is not None else "")
            if seen not in self._known:
                if len(self._known) < _MAX_KNOWN:
                    self._known.add(seen)
                self._report(Divergence(call=call.number, part=name, text=self._text(was, now)))
        return differs

    def _report(self, divergence: Divergence) -> None:
        if len(self._divergences) < MAX_DIVERGENCES:
            self._divergences.append(divergence)
        else:
            self._more += 1

    def _text(self, was: Part | None, now: Part | None) -> str | None:
        if was is None:
            return "not in the recording"
        if now is None:
            return "only in the recording"
        if was.text is None or now.text is None:
            return None
        one, other = self.table.normal(was.text), self.table.normal(now.text)
        at = first_difference(one, other)
        start = max(0, at - _BEFORE)
        return f"was …{one[start : at + _SHOWN]}, is …{other[start : at + _SHOWN]}"


def _conversation(request: Sequence[Part]) -> Conversation:
    system = tuple(part.hash for part in request if part.kind == "system")
    return system, next((part.hash for part in request if part.kind == "message"), "")


def _pairs(recorded: Sequence[Part], request: Sequence[Part]) -> list[tuple[str, Part | None, Part | None]]:
    """Return the parts of both by position, with their names."""
    found: list[tuple[str, Part | None, Part | None]] = []
    for kind in ("system", "tools", "message"):
        was = [part for part in recorded if part.kind == kind]
        now = [part for part in request if part.kind == kind]
        for at in range(max(len(was), len(now))):
            name = f"{kind} {at + 1}" if kind == "message" or at else kind
            found.append((name, was[at] if at < len(was) else None, now[at] if at < len(now) else None))
    return found
