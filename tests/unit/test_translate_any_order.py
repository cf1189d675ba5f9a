"""However a recorded stream arrives (cut, repeated, overlapping, interleaved otherwise), the same is told, once."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.opencode_recordings import Recording, essence

RECORDINGS = {name: Recording(name) for name in ("tools", "subagent", "ask", "question", "plain")}
EXPECTED = {name: (essence(one.whole()[1]), one.whole()[0]) for name, one in RECORDINGS.items()}


def interleaved(recording: Recording, seed: int) -> Recording:
    """The same events with neighbours of different parts swapped here and there."""
    shuffled = Recording.__new__(Recording)
    shuffled.__dict__.update(recording.__dict__)
    events, rng = list(recording.events), random.Random(seed)
    for _ in range(3 * len(events)):
        i = rng.randrange(len(events) - 1)
        if _part(events[i]) and _part(events[i + 1]) and _part(events[i]) != _part(events[i + 1]):
            events[i], events[i + 1] = events[i + 1], events[i]
    shuffled.events = events
    return shuffled


def _part(event: dict[str, Any]) -> str | None:
    properties = event["properties"]
    if event["type"] == "message.part.delta":
        return str(properties["partID"])
    return str(properties["part"]["id"]) if event["type"] == "message.part.updated" else None


@pytest.mark.parametrize("name", RECORDINGS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_arrival_tells_the_same(name: str, data: st.DataObject) -> None:
    """Lost stretches are made up by a resync, repeats and overlaps say nothing twice."""
    recording = interleaved(RECORDINGS[name], data.draw(st.integers(0, 2**32), label="order"))
    last = len(recording.events)
    cuts = sorted(data.draw(st.lists(st.tuples(*[st.integers(0, last)] * 3), max_size=4), label="cuts"))
    repeats = data.draw(st.sets(st.integers(0, last)), label="repeats")
    translator, drafts, at = recording.translator(), [], 0
    for cut in cuts:
        lost_from, back_at, read_at = sorted(cut)
        if lost_from < at:
            continue
        for i in range(at, lost_from):
            drafts += translator.feed(recording.events[i])
            if i in repeats:
                drafts += translator.feed(recording.events[i])
        # The stream is open again at `back_at`, the messages are read at `read_at`: what lies between comes twice.
        drafts += translator.feed(recording.resync(read_at))
        at = back_at
    for event in recording.events[at:]:
        drafts += translator.feed(event)
    drafts += translator.feed(recording.resync(last))
    expected, plain = EXPECTED[name]
    assert essence(drafts) == expected
    assert translator.result_text == plain.result_text
    assert translator.usage == plain.usage
    assert translator.idle
    assert translator.waiting == {}
