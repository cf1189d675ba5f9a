"""The publisher: numbers without gaps, few messages for fast text, nothing too large, nothing secret."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.command_payloads import MAX_CHUNK_BYTES, MAX_EVENT_BYTES
from ocf.events.errors import Unavailable
from ocf.events.output import Chunk, ChunkType, Draft
from ocf.events.redaction import Redactor
from ocf.functions.core.fencing_token import acquire_fence
from ocf.functions.execute.attempt.output_publisher import COALESCE, EARLY_CHUNKS, OutputLimit, Publisher
from tests.support.clock import ManualClock

PROJECT, EXECUTION = "p", "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"


class Hold:
    """A lease as far as the publisher asks."""

    held = True
    mine = True

    doubted = False

    async def wait_until_held(self) -> bool:
        return self.mine

    def invalidate(self) -> None:
        self.doubted = True


def text(data: str, key: str | None = "text:1") -> Draft:
    return Draft(type=ChunkType.TEXT, data=data, merge_key=key)


def status(data: str) -> Draft:
    return Draft(type=ChunkType.STATUS, data=data)


async def publisher(
    bus: MemoryBus, attempt: int = 1, max_bytes: int = 0, hold: Hold | None = None, redactor: Redactor | None = None
) -> Publisher:
    made = Publisher(bus, ManualClock(), redactor or Redactor(), project=PROJECT, execution=EXECUTION)
    fenced = await acquire_fence(bus, PROJECT, EXECUTION)
    made.begin(attempt, fenced, max_bytes=max_bytes, ownership=hold or Hold())
    return made


async def chunks(bus: MemoryBus) -> list[Chunk]:
    subject = subjects.output(PROJECT, EXECUTION)
    return [Chunk.model_validate_json(m.data) async for m in bus.history(subjects.OUTPUT, subject)]


async def test_fast_deltas_are_joined() -> None:
    """Of a hundred deltas in the same moment the first few are chunks at once, and the others are one chunk."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    for number in range(100):
        await made.emit(text(f"{number} "))
    await made.finish(1)
    *first, rest = await chunks(bus)
    assert [chunk.data for chunk in first] == [f"{number} " for number in range(EARLY_CHUNKS + 1)]
    assert rest.data == "".join(f"{number} " for number in range(EARLY_CHUNKS + 1, 100))


@pytest.mark.parametrize("forced", [0, 100])
async def test_a_delta_is_held_for_20_ms_at_most(forced: int) -> None:
    """Also after many chunks that did not wait, since another part followed each."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    for number in range(forced):
        await made.emit(text("x", f"text:{number % 2}"))
    await made.emit(text("y", "text:2"))
    while made._timer is None:  # a stall of the machine allows more chunks at once
        await made.emit(text("y", "text:2"))
    assert made._timer.when() <= asyncio.get_running_loop().time() + COALESCE
    await made.finish(1)


async def test_deltas_that_come_unevenly_are_not_joined() -> None:
    """One each 20 ms on average, in pairs: each is a chunk before `emit` returns."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    loop = asyncio.get_running_loop()
    for number in range(0, 10, 2):
        await made.emit(text(f"{number} "))
        await made.emit(text(f"{number + 1} "))
        assert len(await chunks(bus)) == number + 2
        paused = asyncio.Event()
        loop.call_later(2 * COALESCE, paused.set)
        await paused.wait()


async def test_deltas_further_apart_than_the_bound_are_not_held() -> None:
    """Each delta after a pause of 20 ms is a chunk before `emit` returns, so words arrive as the model writes them."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    loop = asyncio.get_running_loop()
    for number in range(3):
        await made.emit(text(f"{number} "))
        assert len(await chunks(bus)) == number + 1
        paused = asyncio.Event()
        loop.call_later(1.01 * COALESCE, paused.set)
        await paused.wait()


async def test_a_secret_in_deltas_that_are_published_at_once_is_redacted() -> None:
    """No part of a secret that arrives in slow pieces is published, except one or two of its characters."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, redactor=Redactor(["sk-planted-0123456789"]))
    loop = asyncio.get_running_loop()
    for piece in ("key: s", "k-plan", "ted-0123", "456789", " is it"):
        await made.emit(text(piece))
        paused = asyncio.Event()
        loop.call_later(1.01 * COALESCE, paused.set)
        await paused.wait()
    await made.finish(1)
    said = "".join(chunk.data for chunk in await chunks(bus))
    assert "planted" not in said
    assert "0123" not in said
    assert said.endswith("[redacted] is it")


async def test_buffered_text_is_published_without_further_input() -> None:
    """A lone delta is published without anything that follows."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    await made.emit(text("alone"))
    async with asyncio.timeout(1):
        while not await chunks(bus):
            await asyncio.sleep(0.005)
    made.close()


async def test_order_is_kept_between_parts() -> None:
    """Another part, or anything that is not joined, sends what is held back first."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    for draft in (text("a"), text("b"), text("c", "text:2"), status("now"), text("d")):
        await made.emit(draft)
    await made.finish(1)
    assert [chunk.data for chunk in await chunks(bus)] == ["a", "b", "c", "now", "d"]
    assert [chunk.seq for chunk in await chunks(bus)] == [1, 2, 3, 4, 5]


async def test_a_second_attempt_goes_on_counting() -> None:
    """Numbers are gapless over attempts; each chunk says which attempt it is from."""
    bus = MemoryBus(ManualClock())
    for attempt in (1, 2):
        made = await publisher(bus, attempt)
        await made.emit(status("one"))
        await made.emit(status("two"))
        await made.finish(1)
        made.close()
    assert [(chunk.seq, chunk.attempt) for chunk in await chunks(bus)] == [(1, 1), (2, 1), (3, 2), (4, 2)]


@pytest.mark.parametrize("key", ["text:1", None])
async def test_long_data_is_split_between_characters(key: str | None) -> None:
    """No chunk over 64 KiB of UTF-8, whatever the width of its characters; joined, nothing is missing."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    data = "aü漢😀" * 40_000
    await made.emit(text(data, key))
    await made.finish(1)
    found = await chunks(bus)
    assert "".join(chunk.data for chunk in found) == data
    assert max(len(chunk.data.encode()) for chunk in found) <= MAX_CHUNK_BYTES
    assert [chunk.seq for chunk in found] == list(range(1, len(found) + 1))


async def test_a_huge_detail_is_shortened() -> None:
    """What a tool was called with may be megabytes: the event still fits, and says that it was cut."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    detail = {"call_id": "1", "tool": "write", "input": {"content": "x" * 2_000_000}}
    await made.emit(Draft(type=ChunkType.TOOL_CALL, data="write", detail=detail))
    await made.finish(1)
    (message,) = [m async for m in bus.history(subjects.OUTPUT, subjects.output(PROJECT, EXECUTION))]
    assert len(message.data) < MAX_EVENT_BYTES
    assert "2000000 characters" in message.data.decode()


async def test_too_much_output_is_cut_and_said() -> None:
    """The chunk that passes the limit is replaced by a gap, once; what ends the run can still be said."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, max_bytes=100)
    await made.emit(text("x" * 90, None))
    with pytest.raises(OutputLimit):
        await made.emit(text("y" * 90, None))
    await made.emit(status("it was too much"))
    await made.finish(1)
    found = await chunks(bus)
    assert [chunk.type for chunk in found] == [ChunkType.TEXT, ChunkType.GAP, ChunkType.STATUS]
    assert found[1].detail == {"reason": "output_limit", "type": "text", "bytes": 90}


async def test_a_secret_is_never_said() -> None:
    """Not in data, not in a detail, not when it comes in two deltas."""
    bus = MemoryBus(ManualClock())
    redactor = Redactor()
    redactor.add("sk-very-secret-0123456789")
    made = await publisher(bus, redactor=redactor)
    await made.emit(text("key: sk-very-sec"))
    await made.emit(text("ret-0123456789 end"))
    await made.emit(Draft(type=ChunkType.STDOUT, data="sk-very-secret-0123456789"))
    await made.emit(Draft(type=ChunkType.TOOL_CALL, data="env", detail={"input": {"a": ["sk-very-secret-0123456789"]}}))
    await made.finish(1)
    said = "".join(chunk.model_dump_json() for chunk in await chunks(bus))
    assert "secret" not in said
    assert "0123456789" not in said
    assert "end" in said


async def test_publisher_without_the_lease_publishes_nothing() -> None:
    """A chunk of a worker that no longer owns the execution would be a lie."""
    bus = MemoryBus(ManualClock())
    hold = Hold()
    made = await publisher(bus, hold=hold)
    await made.emit(status("mine"))
    hold.held = hold.mine = False
    await made.emit(status("not mine"))
    await made.finish(1)
    assert [chunk.data for chunk in await chunks(bus)] == ["mine"]
    assert made.last == 1


async def test_letters_that_could_begin_a_secret_stay_in_their_place() -> None:
    """They are held back, and said when their part has ended: before what comes next, as what they are."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, redactor=Redactor(["sk-very-secret-0123456789"]))
    shell = {"call_id": "1", "tool": "bash"}
    await made.emit(text("Let me look at the tasks"))
    await made.emit(Draft(type=ChunkType.TOOL_CALL, data="ls", detail=shell))
    await made.emit(Draft(type=ChunkType.STDOUT, data="tools", detail={"call_id": "1"}, merge_key="stdout:1"))
    await made.emit(Draft(type=ChunkType.TOOL_RESULT, data="tools", detail={**shell, "ok": True}))
    await made.emit(text("these are the tools", "text:2"))
    await made.finish(1)
    said: list[tuple[ChunkType, str]] = []
    for chunk in await chunks(bus):
        if said and said[-1][0] is chunk.type:
            said[-1] = (chunk.type, said[-1][1] + chunk.data)
        else:
            said.append((chunk.type, chunk.data))
    assert said == [
        (ChunkType.TEXT, "Let me look at the tasks"),
        (ChunkType.TOOL_CALL, "ls"),
        (ChunkType.STDOUT, "tools"),
        (ChunkType.TOOL_RESULT, "tools"),
        (ChunkType.TEXT, "these are the tools"),
    ]


async def test_the_last_letters_come_before_the_end_is_said() -> None:
    """A text that ends like the beginning of a secret is whole before what is said about the end."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, redactor=Redactor(["sk-very-secret-0123456789"]))
    await made.emit(text("done, thanks"))
    await made.flush_pending()
    await made.emit(status("completed"))
    await made.finish(1)
    said = [chunk.data for chunk in await chunks(bus)]
    assert said[-1] == "completed"
    assert "".join(said[:-1]) == "done, thanks"


async def test_fenced_publisher_adds_nothing_and_checks_its_lease() -> None:
    """A later owner, or who ended it, has counted the chunks: no other may come. Who still owns it goes on."""
    bus, hold = MemoryBus(ManualClock()), Hold()
    made = await publisher(bus, hold=hold)
    await made.emit(status("before"))
    fenced = await acquire_fence(bus, PROJECT, EXECUTION)
    assert fenced.last == 1
    await made.emit(status("late"))
    assert hold.doubted
    with pytest.raises(Unavailable):
        await made.finish(0.1)
    assert [chunk.data for chunk in await chunks(bus)] == ["before"]
    made.fence(await acquire_fence(bus, PROJECT, EXECUTION))
    await made.emit(status("more"))
    await made.finish(1)
    assert [(chunk.seq, chunk.data) for chunk in await chunks(bus)] == [(1, "before"), (2, "late"), (3, "more")]


async def test_the_limit_holds_for_text_at_any_pace() -> None:
    """Text that comes piece by piece is published by a timer, not by the next emit: it is cut all the same, who judges
    is told at once, and nothing of it comes after the cut."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, max_bytes=100)
    told = asyncio.Event()
    made.on_limit(lambda _: told.set())
    for _ in range(10):
        await _published(made, text("ten bytes "))
    with suppress(OutputLimit):  # the timer's when it comes soon enough after the last one
        await made.emit(text("one more"))
    await asyncio.wait_for(told.wait(), 1)
    await made.emit(status("about the run, from somebody else"))
    for draft in (text("more"), text("and more", "text:2"), Draft(type=ChunkType.TOOL_CALL, data="bash")):
        with pytest.raises(OutputLimit, match="more than 100 bytes"):
            await made.emit(draft)
    await made.flush_pending()
    await made.emit(Draft(type=ChunkType.GAP, data="not stored"))
    await made.finish(1)
    kinds = [chunk.type for chunk in await chunks(bus)]
    assert kinds == [ChunkType.TEXT] * 10 + [ChunkType.GAP, ChunkType.STATUS, ChunkType.GAP]


async def test_the_last_words_count_as_well() -> None:
    """What is held back when the agent ends is cut like what came before."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, max_bytes=10)
    told: list[OutputLimit] = []
    made.on_limit(told.append)
    for _ in range(EARLY_CHUNKS + 1):
        await made.emit(text("a"))
    await made.emit(text("much more than ten bytes"))
    await made.flush_pending()
    await made.finish(1)
    kinds = [chunk.type for chunk in await chunks(bus)]
    assert kinds == [ChunkType.TEXT] * (EARLY_CHUNKS + 1) + [ChunkType.GAP]
    assert len(told) == 1


async def _published(made: Publisher, draft: Draft) -> None:
    before = made.last
    await made.emit(draft)
    async with asyncio.timeout(1):
        while made.last == before:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("key", ["text:1", None])
async def test_half_a_character_is_replaced(key: str | None) -> None:
    """Half a surrogate pair, which UTF-8 cannot say, is shown as a replacement character, and a pair as what it is."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    detail = {"call_id": "1", "input": {"a\udc00": ["\ud83d", "fine"]}}
    await made.emit(text("half \ud83d of it, \ud83d\ude00", key))
    await made.emit(Draft(type=ChunkType.TOOL_CALL, data="\udfff", detail=detail))
    await made.finish(1)
    first, second = await chunks(bus)
    assert first.data == "half \ufffd of it, 😀"
    assert (second.data, second.detail) == ("\ufffd", {"call_id": "1", "input": {"a\ufffd": ["\ufffd", "fine"]}})


async def _until_refused(made: Publisher, draft: Draft, times: int) -> int:
    """How many of `times` were taken before the limit was reached."""
    for taken in range(times):
        try:
            await made.emit(draft)
        except OutputLimit:
            return taken
    raise AssertionError(f"all {times} were taken")


async def test_detail_counts_against_the_limit() -> None:
    """296 MiB of `detail` under a limit of 100 kB: no more than the limit is stored, and the cut is said."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, max_bytes=100_000)
    call = Draft(type=ChunkType.TOOL_CALL, data="bash", detail={"call_id": "1", "tool": "bash", "input": "x" * 60_000})
    assert await _until_refused(made, call, 296 * 1024**2 // 60_000) == 1
    await made.finish(1)
    kept = await chunks(bus)
    assert kept[-1].type is ChunkType.GAP
    assert sum(len(chunk.model_dump_json()) for chunk in kept) < 100_000


async def test_many_small_chunks_are_bounded_by_what_they_take() -> None:
    """A chunk of two bytes takes hundreds in the stream: an execution cannot store hundreds of times its limit."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus, max_bytes=100_000)
    assert await _until_refused(made, Draft(type=ChunkType.STDERR, data="x\n"), 49_000) > 1000
    subject = subjects.output(PROJECT, EXECUTION)
    stored = [len(message.data) async for message in bus.history(subjects.OUTPUT, subject)]
    assert sum(stored) < 6 * 1024**2


async def test_a_detail_that_cannot_be_shortened_is_left_out() -> None:
    """Hundreds of short texts, lists in lists and long names: the chunk fits, and says that something is missing."""
    bus = MemoryBus(ManualClock())
    made = await publisher(bus)
    wide = {f"{'name' * 50}{number}": ["x" * 900] * 200 for number in range(200)}
    await made.emit(Draft(type=ChunkType.TOOL_CALL, data="bash", detail={"call_id": "1", "input": wide}))
    await made.finish(1)
    (chunk,) = await chunks(bus)
    assert chunk.detail == {"call_id": "1", "omitted": True}
