"""Output, patch, files and events: from the stream while it is there, else from the archive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from ocf.events import subjects
from ocf.events.command_payloads import Submit
from ocf.events.fact_payloads import ChangedFile, DiffSummary
from ocf.events.lifecycle import State
from ocf.events.output import ChunkType
from ocf.events.ports import Message
from tests.support.gateway import DAMAGED, ID, World, counted_alive, submit_event


async def sequences(world: World, query: str = "") -> list[int]:
    """Sequences of the output; a gap is the negative of its last one."""
    answer = await world.client.get(f"/tasks/{ID}/output{query}")
    assert answer.status_code == 200
    chunks = [json.loads(line) for line in answer.text.splitlines()]
    return [-chunk["detail"]["to"] if chunk["type"] == "gap" else chunk["seq"] for chunk in chunks]


async def spans(world: World, query: str = "") -> list[object]:
    """The output: sequences, and for each gap from where to where."""
    answer = await world.client.get(f"/tasks/{ID}/output{query}", headers={"Accept-Encoding": "identity"})
    assert answer.status_code == 200
    chunks = [json.loads(line) for line in answer.text.splitlines()]
    return [(c["detail"]["from"], c["detail"]["to"]) if c["type"] == "gap" else c["seq"] for c in chunks]


async def test_output_is_passed_on_byte_for_byte() -> None:
    """A line of the history is the event's data, untouched."""
    world = World()
    await world.record()
    lines = [await world.chunk(seq, "ümlaut\u001b[1m") for seq in (1, 2)]
    answer = await world.client.get(f"/tasks/{ID}/output")
    assert answer.content == b"\n".join(lines) + b"\n"
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("?from=3", [3, 4, 5]),
        ("?to=2", [1, 2]),
        ("?from=2&to=3", [2, 3]),
        ("?from=9", []),
        ("?types=stderr", [2]),
        ("?types=stderr&types=status", [2, 3]),
    ],
)
async def test_output_can_be_bounded(query: str, wanted: list[int]) -> None:
    """By sequence and by type."""
    world = World()
    await world.record()
    for seq, type_ in enumerate((ChunkType.TEXT, ChunkType.STDERR, ChunkType.STATUS, ChunkType.TEXT, ChunkType.TEXT)):
        await world.chunk(seq + 1, type_=type_)
    assert await sequences(world, query) == wanted


async def test_swapped_and_repeated_chunks_come_out_in_order() -> None:
    """A worker that reconnected may have left them so in the stream."""
    world = World()
    await world.record()
    for seq in (1, 3, 2, 4):
        await world.chunk(seq)
    await world.bus.publish(subjects.output("default", ID), await world.chunk(2), {"ce-sequence": "2"})
    assert await sequences(world) == [1, 2, 3, 4]


async def test_while_it_runs_nothing_behind_a_missing_chunk_is_given() -> None:
    """It may still come; a reader that asks again from there loses nothing."""
    world = World()
    await world.record()
    for seq in (1, 2, 4):
        await world.chunk(seq)
    assert await sequences(world) == [1, 2]


@pytest.mark.parametrize(
    ("streamed", "archived", "wanted"),
    [
        ([], 5, [1, 2, 3, 4, 5]),
        ([4, 5], 5, [1, 2, 3, 4, 5]),
        ([1, 2, 3, 4, 5], 0, [1, 2, 3, 4, 5]),
        ([4, 5], 0, [-3, 4, 5]),
        ([4, 5], 2, [1, 2, -3, 4, 5]),
        ([1, 5], 0, [1, -4, 5]),
        ([], 0, [-5]),
        ([1, 2], 0, [1, 2, -5]),
    ],
)
async def test_after_the_end_the_archive_fills_in_and_what_is_lost_is_said(
    streamed: list[int], archived: int, wanted: list[int]
) -> None:
    """Every chunk once and in order, or a `gap` that names which are missing; never silence."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=5, archived=archived == 5)
    for seq in streamed:
        await world.chunk(seq)
    if archived:
        await world.archive(archived)
    assert await sequences(world) == wanted
    assert await sequences(world, "?from=4") == [one for one in wanted if abs(one) >= 4]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("?from=1&to=3", [(1, 3)]),
        ("?from=5&to=7", [(5, 7)]),
        ("?from=5&to=10", [(5, 10)]),
        ("?to=12", [(1, 10), 11, 12]),
        ("?from=10", [(10, 10), 11, 12, 13]),
    ],
)
async def test_a_part_that_has_expired_is_a_gap_of_just_that_part(query: str, wanted: list[object]) -> None:
    """Whoever asks for chunks that nobody has any more is told which, never an empty answer."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=13)
    for seq in (11, 12, 13):
        await world.chunk(seq)
    assert await spans(world, query) == wanted


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("streamed", [(), (9, 10), (4, 9, 10)])
@pytest.mark.parametrize(
    ("query", "wanted"),
    [("", [1, 2, (3, 5), 6, 7, 8, 9, 10]), ("?from=4", [(4, 5), 6, 7, 8, 9, 10]), ("?to=4", [1, 2, (3, 4)])],
)
async def test_a_hole_of_the_archive_is_no_larger_than_it_is(
    query: str, wanted: list[object], streamed: tuple[int, ...], stated: bool
) -> None:
    """An archive may have a hole, stated in it or not: what is behind it is given, what the stream has of it too."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=10, archived=True)
    await world.archive(10, hole=(3, 5), stated=stated)
    for seq in streamed:
        await world.chunk(seq)
    if 4 in streamed:
        parts: dict[str, list[object]] = {
            "": [1, 2, (3, 3), 4, (5, 5), 6, 7, 8, 9, 10],
            "?from=4": [4, (5, 5), 6, 7, 8, 9, 10],
            "?to=4": [1, 2, (3, 3), 4],
        }
        wanted = parts[query]
    assert await spans(world, query) == wanted


async def test_a_message_that_is_no_chunk_is_a_gap_and_stops_nobody() -> None:
    """Whatever stands in the output stream, all other chunks are given."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=3)
    await world.chunk(1)
    for data, headers in ((b"\xff\x00", {}), (b"[]", {}), (b"{}", {"ce-sequence": "two"})):
        await world.bus.publish(subjects.output("default", ID), data, headers)
    await world.chunk(3)
    assert await spans(world) == [1, (2, 2), 3]


@pytest.mark.parametrize("query", ["", "?from=2", "?from=3", "?format=text"])
@pytest.mark.parametrize("lacks", [1, 2, 3])
async def test_what_a_lagging_copy_lacks_is_no_gap(monkeypatch: pytest.MonkeyPatch, lacks: int, query: str) -> None:
    """A replica that lags may answer the read: the caller is asked to come again, and then everything is given."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=3)
    lines = [await world.chunk(seq) for seq in (1, 2, 3)]
    lag(monkeypatch, world, lacks)
    answer = await world.client.get(f"/tasks/{ID}/output{query}")
    assert (answer.status_code, "gap" in answer.text) == (503, False)
    async with world.socket(f"/tasks/{ID}/stream") as socket:
        said, close = await socket.until_close()
    assert [one["type"] for one in said] == ["text"] * (3 - lacks)
    assert close["code"] == 1013
    assert close["reason"].endswith(f"; resume from={4 - lacks}")
    monkeypatch.undo()
    assert (await world.client.get(f"/tasks/{ID}/output")).content == b"\n".join(lines) + b"\n"


async def test_a_lagging_copy_of_a_long_output_is_noticed_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read from the middle begins behind most of the stream; that the copy has nothing there yet is no expiry."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=4_000)
    for seq in range(1, 4_001):
        await world.chunk(seq)
    lag(monkeypatch, world, 1)
    assert (await world.client.get(f"/tasks/{ID}/output?from=3990")).status_code == 503
    assert await sequences(world, "?from=3990&to=3992") == [3990, 3991, 3992]  # it has these
    monkeypatch.undo()
    assert await sequences(world, "?from=3999") == [3999, 4000]


async def test_a_lagging_copy_is_no_matter_where_the_archive_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor when what it lacks is no chunk and all chunks were read."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=3)
    for seq in (1, 2, 3):
        await world.chunk(seq)
    await world.bus.publish(subjects.output("default", ID), b"no chunk", {})
    lag(monkeypatch, world, 1)
    assert await sequences(world) == [1, 2, 3]
    lag(monkeypatch, world, 2)
    await world.archive(3)
    assert await sequences(world) == [1, 2, 3]


def lag(monkeypatch: pytest.MonkeyPatch, world: World, lacks: int) -> None:
    """Let the copy of the output that answers reads lack the latest messages; the leader has them."""
    whole = world.bus.history

    async def lagging(stream: str, subject: str, *, after: int = 0) -> AsyncIterator[Message]:
        newest = await world.bus.last(stream, subject)
        async for message in whole(stream, subject, after=after):
            if stream != subjects.OUTPUT or newest is None or message.sequence <= newest.sequence - lacks:
                yield message

    monkeypatch.setattr(world.bus, "history", lagging)


async def test_the_archive_goes_out_as_it_is_to_who_takes_gzip() -> None:
    """No unpacking and packing for the common case."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=3, archived=True)
    await world.archive(3)
    answer = await world.client.get(f"/tasks/{ID}/output", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.text.splitlines()) == 3
    plain = await world.client.get(f"/tasks/{ID}/output", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == answer.text


@pytest.mark.parametrize("packed", DAMAGED.values(), ids=DAMAGED.keys())
async def test_a_damaged_archive_is_a_502(packed: bytes) -> None:
    """Never half a line as if it were all, never a 500; a kilobyte that unpacks to a line without end does not take the
    gateway's memory."""
    world = World()
    await world.record(state=State.COMPLETED, last_sequence=3)
    await world.store.put(f"default/{ID}/output.ndjson.gz", packed)
    answer = await world.client.get(f"/tasks/{ID}/output")
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:ocf:problem:damaged-archive")


async def test_output_as_an_array_and_as_text() -> None:
    """`json` is an array of chunks; `text` is what a person reads, deltas of one text joined."""
    world = World()
    await world.record()
    assert (await world.client.get(f"/tasks/{ID}/output?format=json")).json() == []
    assert (await world.client.get(f"/tasks/{ID}/output?format=text")).text == ""
    said = [("Hel", ChunkType.TEXT), ("lo", ChunkType.TEXT), ("ls -l", ChunkType.TOOL_CALL), ("a\n", ChunkType.STDOUT)]
    for seq, (data, type_) in enumerate([*said, ("9 tokens", ChunkType.USAGE), ("done", ChunkType.STATUS)]):
        await world.chunk(seq + 1, data, type_)
    assert len((await world.client.get(f"/tasks/{ID}/output?format=json")).json()) == 6
    answer = await world.client.get(f"/tasks/{ID}/output?format=text&download=true")
    assert answer.text == "Hello\nls -l\na\ndone\n"
    assert answer.headers["content-disposition"] == f'attachment; filename="{ID}.txt"'


async def test_the_patch_comes_from_the_archive() -> None:
    """409 while it runs, empty when nothing changed, 404 when it is not kept."""
    world = World()
    await world.record()
    running = await world.client.get(f"/tasks/{ID}/diff")
    assert running.status_code == 409
    await world.record(state=State.COMPLETED)
    assert (await world.client.get(f"/tasks/{ID}/diff")).content == b""
    await world.record(state=State.COMPLETED, diff=DiffSummary(files=1))
    assert (await world.client.get(f"/tasks/{ID}/diff")).status_code == 404
    await world.store.put(f"default/{ID}/workspace.patch", b"diff --git a/x b/x\n")
    answer = await world.client.get(f"/tasks/{ID}/diff?download=1")
    assert answer.content == b"diff --git a/x b/x\n"
    assert answer.headers["content-type"].startswith("text/x-patch")


async def test_files_are_those_of_the_record() -> None:
    """Live as far as the record has them; `final` once it has ended."""
    world = World()
    changed = ChangedFile(path="a.py", change="modified", additions=1, deletions=2)
    await world.record(diff=DiffSummary(files=1, additions=1, deletions=2, changed=[changed]))
    answer = (await world.client.get(f"/tasks/{ID}/files")).json()
    assert answer["files"] == [{"path": "a.py", "change": "modified", "additions": 1, "deletions": 2}]
    assert answer["final"] is False


async def test_events_are_structured_cloudevents_in_the_order_they_were_said() -> None:
    """Commands and facts; what is no event is shown as it came; after the streams forgot, the archive answers."""
    world = World()
    await world.record()
    event = submit_event(Submit(prompt="x", execution_id=ID, project_id="default"), world.clock.now())
    await world.bus.publish(subjects.command("submit", "default", ID), event.data, event.headers())
    await world.clock.advance(1)
    await world.bus.publish(subjects.command("cancel", "default", ID), b"rubbish", {})
    answer = await world.client.get(f"/tasks/{ID}/events")
    first, second = [json.loads(line) for line in answer.text.splitlines()]
    assert first["specversion"] == "1.0"
    assert first["type"] == "dev.ocf.task.submit.v1"
    assert first["data"]["prompt"] == "x"
    assert second == {"subject": subjects.command("cancel", "default", ID), "raw": "rubbish"}
    await world.bus.purge(subjects.COMMANDS, "ocf.cmd.>")
    await world.store.put(f"default/{ID}/events.ndjson", b'{"archived":1}\n')
    assert (await world.client.get(f"/tasks/{ID}/events")).text == '{"archived":1}\n'


async def test_events_are_read_while_they_are_sent() -> None:
    """An execution may have a thousand replies of 400 kB: both streams are merged by time, and few are held."""
    world = World()
    await world.record()
    for number in range(200):
        await world.bus.publish(subjects.command("reply", "default", ID), b"x" * 20_000 + b"%d" % number, {})
        await world.clock.advance(1)
        await world.bus.publish(subjects.fact("default", ID, "asked"), b"y" * 20_000 + b"%d" % number, {})
        await world.clock.advance(1)
    with counted_alive(world) as most:
        answer = await world.client.get(f"/tasks/{ID}/events")
    said = [json.loads(line)["raw"] for line in answer.text.splitlines()]
    assert [(one[0], int(one[20_000:])) for one in said] == [(kind, at) for at in range(200) for kind in "xy"]
    assert 0 < most[0] <= 5
