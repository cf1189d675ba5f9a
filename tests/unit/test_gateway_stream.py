"""`WS /tasks/{id}/stream`: history, then live, each chunk once, in order, and every end stated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from ocf.events import reorder, subjects
from ocf.events.lifecycle import State
from ocf.events.ports import Message
from ocf.functions.gateway.routes import stream
from ocf.functions.gateway.settings import GatewaySettings
from tests.support.gateway import DAMAGED, ID, SECRET, World, chunk, token
from tests.support.measures import value

PATH = f"/tasks/{ID}/stream"


async def ended(world: World, last: int) -> None:
    await world.record(state=State.COMPLETED, last_sequence=last)
    await world.fact("completed")


@contextmanager
def unheard(world: World) -> Iterator[None]:
    """What is said meanwhile is kept by the stream, but its live copy never arrives."""
    listeners, world.bus._listeners = world.bus._listeners, []
    yield
    world.bus._listeners = listeners


def kinds(messages: list[dict[str, object]]) -> list[object]:
    """Sequences of chunks, types of what the gateway says itself."""
    return [m["seq"] if m["type"] in ("text", "gap") and "attempt" in m else m["type"] for m in messages]


async def test_history_then_live_then_the_end() -> None:
    """What was said before and what is said afterwards arrive as one; the end closes it regularly."""
    world = World()
    await world.record()
    before = await world.chunk(1)
    async with world.socket(PATH) as socket:
        assert await socket.json() == json.loads(before)
        after = await world.chunk(2)
        assert await socket.json() == json.loads(after)
        await ended(world, 2)
        said, close = await socket.until_close()
        assert said == [{"seq": 2, "type": "end", "data": "completed", "timestamp": said[0]["timestamp"]}]
        assert close["code"] == 1000


@pytest.mark.parametrize(("start", "wanted"), [(1, [1, 2, 3, "end"]), (3, [3, "end"]), (9, ["end"])])
async def test_it_starts_where_it_is_told(start: int, wanted: list[object]) -> None:
    """`from` is the first sequence wanted, so a reader resumes with its last one plus one."""
    world = World()
    for seq in (1, 2, 3):
        await world.chunk(seq)
    await ended(world, 3)
    async with world.socket(f"{PATH}?from={start}") as socket:
        said, _ = await socket.until_close()
    assert kinds(said) == wanted


async def test_of_an_archived_execution_the_archive_is_streamed() -> None:
    """The stream has forgotten it; the reader does not notice."""
    world = World()
    await world.archive(3)
    await ended(world, 3)
    async with world.socket(PATH) as socket:
        said, close = await socket.until_close()
    assert kinds(said) == [1, 2, 3, "end"]
    assert close["code"] == 1000


@pytest.mark.parametrize("watched", [False, True])
async def test_an_execution_that_has_left_nats_is_streamed_from_its_archive(watched: bool) -> None:
    """A viewer gets all chunks, `end` and a regular close, whether it comes later or missed the end of the run."""
    world = World(GatewaySettings(heartbeat=0.05))
    await world.archive(3)
    record = await world.record(last_sequence=3, **({} if watched else {"state": State.COMPLETED}))
    ended = record.model_copy(update={"state": State.COMPLETED})
    if not watched:
        await world.evict(ended)
    async with world.socket(PATH) as socket:
        if watched:
            assert (await socket.json())["type"] == "heartbeat"
            await world.evict(ended)
        said, close = await socket.until_close()
    assert kinds([one for one in said if one["type"] != "heartbeat"]) == [1, 2, 3, "end"]
    assert (said[-1]["data"], close["code"]) == ("completed", 1000)


async def test_chunks_lost_on_the_live_subject_are_read_from_the_stream() -> None:
    """A live message that never came shows as a hole at the next one, and is filled before that is sent."""
    world = World()
    await world.record()
    await world.chunk(1)
    async with world.socket(PATH) as socket:
        await socket.json()
        with unheard(world):
            await world.chunk(2)
        await world.chunk(3)
        assert [(await socket.json())["seq"] for _ in range(2)] == [2, 3]


async def test_a_chunk_that_never_comes_is_a_stated_gap_and_what_is_behind_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four reads of the stream, then `gap` from 3 to 3. Reading goes on from where it was: a few messages each, however
    many come live meanwhile."""
    monkeypatch.setattr(reorder, "FILL_WAIT", 0.02)
    world, read = World(), [0]
    await world.record()
    for seq in (1, 2):
        await world.chunk(seq)
    history = world.bus.history

    async def counted(*args: Any, **more: Any) -> AsyncIterator[Message]:
        async for message in history(*args, **more):
            read[0] += 1
            yield message

    world.bus.history = counted  # type: ignore[method-assign]
    async with world.socket(PATH) as socket:
        assert [(await socket.json())["seq"] for _ in range(2)] == [1, 2]
        for seq in range(4, 304):
            await world.chunk(seq)
            await asyncio.sleep(0)
        said = [await socket.json() for _ in range(301)]
    assert (said[0]["type"], said[0]["detail"]) == ("gap", {"reason": "lost", "from": 3, "to": 3})
    assert [one["seq"] for one in said] == list(range(3, 304))
    assert read[0] < 1_000


async def test_a_hole_at_the_end_of_a_run_is_stated_once_and_nothing_is_repeated() -> None:
    """The end comes while a chunk is still waited for: a gap of just that one, and all behind it once."""
    world = World()
    await world.record()
    for seq in (1, 2):
        await world.chunk(seq)
    async with world.socket(PATH) as socket:
        assert [(await socket.json())["seq"] for _ in range(2)] == [1, 2]
        for seq in (4, 5, 6):
            await world.chunk(seq)
        await ended(world, 6)
        said, close = await socket.until_close()
    assert kinds(said) == [3, 4, 5, 6, "end"]
    assert (said[0]["type"], said[0]["detail"]["from"], said[0]["detail"]["to"]) == ("gap", 3, 3)
    assert close["code"] == 1000


async def test_a_message_that_is_no_chunk_harms_no_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live or in the stream: it is a gap for those who read it, and what comes behind it arrives."""
    monkeypatch.setattr(reorder, "FILL_WAIT", 0.02)
    world = World()
    await world.record()
    await world.chunk(1)
    async with world.socket(PATH) as socket:
        assert (await socket.json())["seq"] == 1
        for data, headers in (
            (b"\xff", {}),
            (b"[]", {}),
            (b"\xff", {"ce-sequence": "2"}),
            (b"3", {"ce-sequence": "x"}),
        ):
            await world.bus.publish(subjects.output("default", ID), data, headers)
        await world.chunk(4)
        await ended(world, 4)
        said, close = await socket.until_close()
    assert kinds(said) == [2, 4, "end"]
    assert (said[0]["detail"]["from"], said[0]["detail"]["to"]) == (2, 3)
    assert close["code"] == 1000


async def test_a_chunk_that_lies_before_what_was_sent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped in the stream and lost on its way live: before a gap is stated the stream is read from further back."""
    monkeypatch.setattr(reorder, "FILL_WAIT", 0.02)
    world = World()
    await world.record()
    await world.chunk(1)
    async with world.socket(PATH) as socket:
        await socket.json()
        with unheard(world):
            await world.chunk(3)
        for seq in (2, 4):
            await world.chunk(seq)
        assert [(one["seq"], one["type"]) for one in [await socket.json() for _ in range(3)]] == [
            (2, "text"),
            (3, "text"),
            (4, "text"),
        ]


async def test_swapped_and_repeated_live_chunks_arrive_once_and_in_order() -> None:
    """Also the ones of history that are said again live."""
    world = World()
    await world.record()
    await world.chunk(1)
    async with world.socket(PATH) as socket:
        await socket.json()
        await world.chunk(3)
        live = subjects.live("default", ID)
        await world.bus.publish_live(live, chunk(1, world.clock.now()), {"ce-sequence": "1"})
        await world.chunk(2)
        await world.bus.publish_live(live, chunk(3, world.clock.now()), {"ce-sequence": "3"})
        await ended(world, 3)
        said, _ = await socket.until_close()
    assert kinds(said) == [2, 3, "end"]


@pytest.mark.parametrize("settings", [GatewaySettings(backlog=3), GatewaySettings(backlog_bytes=400)])
async def test_a_backlog_beyond_its_bound_is_read_from_the_stream(
    monkeypatch: pytest.MonkeyPatch, settings: GatewaySettings
) -> None:
    """Memory is bounded, in lines and bytes: what does not fit is not kept, and still not lost."""
    world, kept = World(settings), list[int]()
    keep = stream.Viewer._keep

    def watched(viewer: stream.Viewer, line: reorder.Line) -> None:
        keep(viewer, line)
        kept.append(len(viewer._live))

    monkeypatch.setattr(stream.Viewer, "_keep", watched)
    await world.record()
    await world.chunk(1)
    async with world.socket(PATH) as socket:
        await socket.json()
        socket.stop_reading()
        for seq in range(2, 40):
            await world.chunk(seq)
            await asyncio.sleep(0)
        socket.read_on()
        assert [(await socket.json())["seq"] for _ in range(38)] == list(range(2, 40))
    assert max(kept) <= 4


async def test_the_end_is_found_even_when_its_fact_was_missed() -> None:
    """After a silence the record is looked at, and the heartbeat says that the reader is still served."""
    world = World(GatewaySettings(heartbeat=0.05))
    await world.record()
    async with world.socket(PATH) as socket:
        assert (await socket.json())["type"] == "heartbeat"
        await world.record(state=State.FAILED, last_sequence=0)
        said, close = await socket.until_close()
    assert (said[-1]["type"], said[-1]["data"]) == ("end", "failed")
    assert close["code"] == 1000


async def test_the_last_chunks_come_before_the_end_although_its_fact_overtook_them() -> None:
    """Facts and output are two streams: the record says which sequence is the last."""
    world = World()
    await world.record()
    async with world.socket(PATH) as socket:
        assert (await socket.next())["type"] == "websocket.accept"
        with unheard(world):
            for seq in (1, 2):
                await world.chunk(seq)
        await ended(world, 2)
        said, _ = await socket.until_close()
    assert kinds(said) == [1, 2, "end"]


async def test_a_reader_that_does_not_read_is_cut_off_and_told_where_to_resume() -> None:
    """Close code 4408; the reason and a gap message name the sequence."""
    world = World(GatewaySettings(slow_reader=0.05))
    await world.record()
    await world.chunk(1)
    async with world.socket(PATH) as socket:
        await socket.json()
        socket.stop_reading()
        await world.chunk(2)
        while not value(world.gateway.metrics.slow):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # it goes on not to read for longer than one message may take
        socket.read_on()
        said, close = await socket.until_close()
    assert close["code"] == 4408
    assert "resume from=2" in close["reason"]
    assert said[-1]["type"] == "gap"
    assert said[-1]["seq"] == 1


async def test_an_expired_token_ends_the_stream() -> None:
    """Close code 4401, and where to resume with a new one."""
    world = World(GatewaySettings(jwt_secret=SecretStr(SECRET)))
    await world.record()
    # The gateway's clock is the test's; the token's signature is checked against the real one.
    headers = {"authorization": f"Bearer {token('*', now=world.clock.now(), ttl=86_400 * 3650)}"}
    async with world.socket(PATH, headers) as socket:
        await world.chunk(1)
        assert (await socket.json())["seq"] == 1
        await world.clock.advance(86_400 * 3651)
        await world.chunk(2)
        _, close = await socket.until_close()
    assert close["code"] == 4401
    assert "resume from=2" in close["reason"]


async def test_a_deleted_execution_ends_the_stream() -> None:
    """Nothing will come any more."""
    world = World(GatewaySettings(heartbeat=0.05))
    await world.record()
    async with world.socket(PATH) as socket:
        await socket.next()
        await world.executions.delete(f"default.{ID}")
        _, close = await socket.until_close()
    assert "removed" in close["reason"]


async def test_viewer_of_an_unrecorded_execution_learns_of_its_removal() -> None:
    """Its submit was on the way when the stream began; it was deleted before anybody recorded it."""
    world = World(GatewaySettings(heartbeat=0.05))
    await world.bus.publish(subjects.command("submit", "default", ID), b"{}", {})
    async with world.socket(f"{PATH}?project_id=default") as socket:
        assert (await socket.json())["type"] == "heartbeat"
        await world.fact("cleaned")
        _, close = await socket.until_close()
    assert (close["code"], close["reason"]) == (1000, "the execution was removed")


@pytest.mark.parametrize("packed", DAMAGED.values(), ids=DAMAGED.keys())
async def test_a_damaged_archive_ends_the_stream_with_1011(packed: bytes) -> None:
    """Nothing better will come: the code says that it is of no use to try again, the reason what is wrong."""
    world = World()
    await world.store.put(f"default/{ID}/output.ndjson.gz", packed)
    await ended(world, 3)
    async with world.socket(PATH) as socket:
        _, close = await socket.until_close()
    assert close["code"] == 1011
    assert "archived output" in close["reason"]


async def test_closed_viewer_is_no_longer_served() -> None:
    """The stream's task and its subscription end with the reader."""
    world = World()
    await world.record()
    async with world.socket(PATH) as socket:
        await socket.next()
        while not world.bus._listeners:
            await asyncio.sleep(0)
    assert world.bus._listeners == []
    assert value(world.gateway.metrics.streams) == 0


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (PATH, {}, 404),
        ("/tasks/NO/stream", {}, 422),
        (f"{PATH}?project_id=NO", {}, 422),
        (PATH, {"host": "evil.example"}, 421),
        (PATH, {"origin": "https://evil.example"}, 403),
    ],
)
async def test_a_refusal_is_a_problem_document(path: str, headers: dict[str, str], status: int) -> None:
    """Before the stream begins it is plain HTTP."""
    async with World().socket(path, headers) as socket:
        assert (await socket.next())["status"] == status
        assert json.loads((await socket.next())["body"])["status"] == status


async def test_a_browser_sends_its_token_as_a_subprotocol() -> None:
    """It cannot set headers; the token is never echoed."""
    world = World(GatewaySettings(jwt_secret=SecretStr(SECRET)))
    await world.record(project="team-a")
    for projects, accepted in ((["team-a"], True), (["team-b"], False)):
        protocols = ("ocf.v1", f"bearer.{token(projects, ttl=86_400)}")
        async with world.socket(PATH, protocols=protocols) as socket:
            first = await socket.next()
            assert (first["type"] == "websocket.accept") is accepted
            assert first.get("subprotocol") in ("ocf.v1", None)
    async with world.socket(PATH, protocols=("ocf.v1",)) as socket:
        assert (await socket.next())["status"] == 401
