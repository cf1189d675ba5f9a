"""Recordings: what is written, what is read back, and what of a stranger's is refused."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
import zstandard

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.errors import Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import ObjectInfo
from ocf.events.redaction import Redactor
from ocf.events.untrusted_json import MIB
from ocf.functions.recording import recorded_calls_reader
from ocf.functions.recording.canonical import PartTable, RawPart, ranges
from ocf.functions.recording.line_types import ANSWER_BYTES, VERSION, CallLine, Head, Holds, Inputs, Part, frame
from ocf.functions.recording.model_call_recorder import Recorder
from tests.support.clock import ManualClock

REF = ExecutionRef("p", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11")
KEY, OTHER_KEY = "ab" * 32, "cd" * 32
SECRET = "sk-very-secret-value"


class Store(MemoryStore):
    """A store that can be away."""

    away = False

    async def put(self, key: str, data: bytes, *, content_type: str = "") -> ObjectInfo:
        if self.away:
            raise Unavailable("S3 is away")
        return await super().put(key, data, content_type=content_type)


def table(key: str = KEY, workspace: str = "/one/workspace") -> PartTable:
    return PartTable(key, Redactor([SECRET]), ((workspace, "<workspace>"), ("/one/home", "<home>")))


def head(holds: Holds = "answers", attempt: int = 1) -> Head:
    return Head(version=VERSION, attempt=attempt, key=KEY, holds=holds)


def message(text: str, **more: Any) -> RawPart:
    return RawPart("message", json.dumps({"role": "user", "content": text, **more}).encode())


def call(number: int) -> CallLine:
    return CallLine(number=number, wire="chat", request=[], outcome="ok")


class World:
    """A recorder on a store, and what it has stored, joined as the archive function joins it."""

    def __init__(self, holds: Holds = "answers") -> None:
        self.store, self.clock = Store(), ManualClock()
        self.recorder = Recorder(self.store, REF, head(holds), table(), self.clock)
        self.calls = 0

    def record(self, answer: bytes, *request: RawPart) -> None:
        self.calls += 1
        tape = self.recorder.tape(self.recorder.table.parts(request))
        tape.head(200, "text/event-stream")
        tape.note(answer)
        self.recorder.end(tape, call(self.calls))

    async def joined(self) -> bytes:
        keys = [one.key async for one in self.store.list(REF.object_key("model/"))]
        return b"".join([await self.store.get(key) for key in keys])

    async def read(self) -> recorded_calls_reader.Recording:
        await self.recorder.close(5.0)
        return recorded_calls_reader.read(BytesIO(await self.joined()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("in /one/workspace/a.py", "in /two/workspace/a.py"),
        ("id ses_0123456789abcdefXYZ", "id ses_9876543210abcdefXYZ"),
        ("tool-output/tool_2297f1498001KhfAJ46", "tool-output/tool_22a801c3d001xYz0Q1a"),
        ("see 127.0.0.1:40123", "see 127.0.0.1:50999"),
        ("Today's date: Sun Nov 29 2026\n", "Today's date: Mon Nov 30 2026\n"),
        ("1 passed in 0.05s", "1 passed in 1.75s"),
        ("at 2026-11-29T18:00:01Z", "at 2026-11-30 09:10:11.5+0100"),
        ("-rw-r--r-- 1 a a 5 Nov 29 18:16 x", "-rw-r--r-- 1 a a 5 Dec  1 08:01 x"),
    ],
)
def test_what_differs_between_two_runs_of_the_same_is_no_difference(one: str, other: str) -> None:
    """Paths, ids, ports, dates and durations do not make a part another one."""
    first = table().parts([message(one)])
    second = table(workspace="/two/workspace").parts([message(other)])
    assert first
    assert second
    assert [part.hash for part in first] == [part.hash for part in second]


def test_a_part_is_another_one_by_its_text_its_kind_and_the_key() -> None:
    """Nothing else is taken for the same; marks of a provider's cache are."""
    parts = table().parts
    (one,) = parts([message("a")]) or []
    (marked,) = parts([message("a", cache_control={"type": "ephemeral"})]) or []
    (other,) = parts([message("b")]) or []
    (system,) = parts([RawPart("system", message("a").data)]) or []
    (keyed,) = table(OTHER_KEY).parts([message("a")]) or []
    assert one.hash == marked.hash
    assert len({one.hash, other.hash, system.hash, keyed.hash}) == 4


async def test_each_call_names_its_parts_and_each_part_is_there_once() -> None:
    """A conversation that grows costs its new messages only, and comes back as it was."""
    world = World("full")
    said = [message(f"message {number}") for number in range(6)]
    for count in (2, 4, 6):
        world.record(f"answer {count}".encode(), *said[:count])
        await world.clock.advance(0)
    found = await world.read()
    assert [one.answer for one in found.calls] == ["answer 2", "answer 4", "answer 6"]
    assert [len(found.request_of(one)) for one in found.calls] == [2, 4, 6]
    assert found.calls[2].request == [(0, 5)]
    texts = [part.text or "" for part in found.request_of(found.calls[2])]
    assert [json.loads(text)["content"] for text in texts] == [f"message {number}" for number in range(6)]
    assert len(found.parts) == 6


async def test_a_recording_of_answers_has_no_text_of_a_request_and_none_has_a_secret() -> None:
    """`answers` holds hashes; `full` holds texts, redacted."""
    for holds, there in (("answers", False), ("full", True)):
        world = World(holds)
        world.record(b"answer", message(f"the plan, and {SECRET}"))
        found = await world.read()
        inflated = zstandard.ZstdDecompressor().stream_reader(await world.joined(), read_across_frames=True).read()
        assert (b"the plan" in inflated) is there
        assert SECRET.encode() not in inflated
        assert found.head.holds == holds


async def test_while_s3_is_away_nobody_waits_and_afterwards_all_is_there() -> None:
    """Calls end while the store is away; they are stored once it is back, in order."""
    world = World()
    world.store.away = True
    for number in range(3):
        world.record(b"answer %d" % number, message(f"{number}"))
    await world.clock.advance(1)
    assert not await world.joined()
    world.store.away = False
    await world.clock.advance(10)
    found = await world.read()
    assert [one.answer for one in found.calls] == ["answer 0", "answer 1", "answer 2"]


async def test_what_does_not_fit_is_left_out_and_the_recording_says_so() -> None:
    """An answer beyond the bound, and what a long outage pushed out, are gaps that name their calls."""
    world = World()
    world.record(b"x" * (ANSWER_BYTES + 1), message("long"))
    world.store.away = True
    for _ in range(4):
        world.record(b"y" * (5 * MIB), message("held"))
    world.store.away = False
    world.record(b"small", message("small"))
    await world.clock.advance(10)
    found = await world.read()
    assert {number for gap in found.gaps for number in gap.calls} == {1, 5}
    assert [one.number for one in found.calls] == [2, 3, 4, 6]
    assert found.missing == [1, 5]


async def test_the_last_attempt_counts() -> None:
    """A worker was lost: the attempt that followed led to the end."""
    part = Part(number=0, kind="system", hash="0" * 32, bytes=1)
    lines = [head(attempt=1), part, call(1), call(2), head(attempt=2), Inputs(source="git"), call(1)]
    found = recorded_calls_reader.read(BytesIO(frame(*lines)))
    assert (found.head.attempt, [one.number for one in found.calls], found.parts) == (2, [1], {})
    assert found.inputs.source == "git"


def compressed(text: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(text)


FIRST = frame(head())
DEEP = b'{"type":"call","x":' + b"[" * 1000 + b"]" * 1000 + b"}\n"
MANY_GAPS = compressed(b'{"type":"gap","why":"x","calls":[]}\n' * 50_001)
PARTS = frame(*(Part(number=number, kind="message", hash="0" * 32, bytes=1) for number in range(1000)))
WIDE = frame(*(call(number).model_copy(update={"request": [(0, 999)] * 100}) for number in range(101)))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "empty"),
        (b"not zstd at all", "not valid zstd"),
        (FIRST[:-9], "empty|middle of a line"),
        (frame(call(1)), "first line must be of type attempt"),
        (frame(head().model_copy(update={"version": 9})), "version 9"),
        (FIRST + compressed(b"[1]\n"), "not a JSON object"),
        (FIRST + compressed(b"{nonsense\n"), "not valid JSON"),
        (FIRST + compressed(DEEP), "nested deeper"),
        (FIRST + compressed(b'{"type":"call","number":"x"}\n'), "call.number"),
        (FIRST + frame(call(1).model_copy(update={"request": [(0, 2)]})), "parts 0 to 2"),
        (FIRST + frame(call(1).model_copy(update={"request": [(0, 9_999_999)]})), "more than"),
        (FIRST + frame(call(1), call(1)), "there twice"),
        (FIRST + MANY_GAPS, "other lines"),
        (FIRST + PARTS + WIDE, "requests of an attempt"),
        (FIRST + compressed(b'{"type":"x"}'), "middle of a line"),
        (FIRST + compressed(b" " * (25 * MIB)), "a line has more than"),
        (FIRST + compressed((b'{"type":"gap","why":"' + b"x" * MIB + b'","calls":[]}\n') * 97), "an attempt has more"),
    ],
)  # fmt: skip
def test_a_hostile_recording_is_refused_with_what_is_wrong(data: bytes, error: str) -> None:
    """Bombs, depth, other versions, damage and false references end in one error that names the fault."""
    with pytest.raises(recorded_calls_reader.InvalidRecording, match=error):
        recorded_calls_reader.read(BytesIO(data))


async def test_a_recording_must_be_the_one_that_its_manifest_names() -> None:
    """Another object in its place, or none, is refused."""
    store = Store()
    with pytest.raises(recorded_calls_reader.InvalidRecording, match="no recording"):
        await recorded_calls_reader.load(store, REF)
    info = await store.put(REF.object_key("model.ndjson.zst"), FIRST)
    manifest = {"objects": [{"name": "model.ndjson.zst", "size": info.size, "sha256": info.sha256}]}
    await store.put(REF.object_key("manifest.json"), json.dumps(manifest).encode())
    assert (await recorded_calls_reader.load(store, REF)).head.key == KEY
    await store.put(REF.object_key("model.ndjson.zst"), frame(head("full")))
    with pytest.raises(recorded_calls_reader.InvalidRecording, match="SHA-256 differs"):
        await recorded_calls_reader.load(store, REF)


def test_numbers_become_ranges() -> None:
    """Neighbours are one range."""
    assert ranges([0, 1, 2, 5, 7, 8]) == [(0, 2), (5, 5), (7, 8)]


@pytest.mark.parametrize("number", ["8675309123", "-8675309123.5e3", "18675309123"])
def test_a_secret_that_is_a_number_is_redacted_as_one(number: str) -> None:
    """In a JSON number, or as a part of one, there is no place for the mask: a text takes its place."""
    made = PartTable(KEY, Redactor(["8675309123"]))
    (part,) = made.parts([RawPart("message", f'{{"id":{number},"n":7,"t":"8675309123"}}'.encode())]) or []
    assert part.text is not None
    assert "8675309123" not in part.text
    assert json.loads(part.text)["n"] == 7
