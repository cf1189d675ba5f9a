"""Who waits for a busy function, and who is asked to try again."""

from __future__ import annotations

import asyncio

from ocf.functions.dispatcher.slot_queue import SlotQueue
from tests.support.clock import ManualClock


async def _waiting(line: SlotQueue, count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(line.wait(1.0)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_slot_wakes_who_waits_longest() -> None:
    """One offer wakes one, the oldest; the others go on waiting."""
    line = SlotQueue(ManualClock())
    first, second = await _waiting(line, 2)
    line.wake_next()
    await _settle()
    assert first.done()
    assert not second.done()
    line.wake_next()
    assert await second > 0


async def test_an_offer_is_passed_on_a_few_times_only() -> None:
    """Who cannot use the slot passes it on; after a few it is left to who asks next."""
    line = SlotQueue(ManualClock())
    tasks = await _waiting(line, 20)
    offers, woken = 1, 0
    line.wake_next()
    while offers:
        await _settle()
        offers = tasks[woken].result()
        woken += 1
        line.wake_next(offers)
    assert 1 < woken < 20
    for task in tasks:
        task.cancel()


async def test_without_an_offer_all_together_ask_twice_a_second() -> None:
    """One who waits alone asks again after what the function said; the sixtieth after thirty seconds."""
    clock = ManualClock()
    line = SlotQueue(clock)
    tasks = await _waiting(line, 60)
    await clock.advance(1.0)
    await _settle()
    assert sum(task.done() for task in tasks) == 2
    assert await tasks[0] == 0
    await clock.advance(29.0)
    await _settle()
    assert all(task.done() for task in tasks)


async def test_cancelled_waiter_leaves_the_queue() -> None:
    """A delivery that is given up does not take an offer from the next."""
    line = SlotQueue(ManualClock())
    first, second = await _waiting(line, 2)
    first.cancel()
    await _settle()
    line.wake_next()
    assert await second > 0


async def test_projects_take_turns_for_a_free_slot() -> None:
    """However many of one wait, and for how long: the next offer is another project's, then the first one's again."""
    line = SlotQueue(ManualClock())
    many = [asyncio.create_task(line.wait(1.0, "many")) for _ in range(5)]
    await _settle()
    one = asyncio.create_task(line.wait(1.0, "one"))
    await _settle()
    for _ in range(2):
        line.wake_next()
        await _settle()
    assert [task.done() for task in many] == [True, False, False, False, False]
    assert one.done()
    line.wake_next()
    await _settle()
    assert many[1].done()
    for task in many:
        task.cancel()


async def test_due_waiter_lets_the_project_whose_turn_it_is_ask() -> None:
    """A slot may be free without anybody knowing: the questions go round the projects, too."""
    clock = ManualClock()
    line = SlotQueue(clock)
    first = asyncio.create_task(line.wait(1.0, "many"))
    await _settle()
    line.wake_next()
    await _settle()
    assert first.done()
    many = asyncio.create_task(line.wait(1.0, "many"))
    await _settle()
    one = asyncio.create_task(line.wait(30.0, "one"))
    more = asyncio.create_task(line.wait(1.0, "many"))
    for _ in range(2):
        await clock.advance(1.5)
        await _settle()
    assert many.done()
    assert await one == 0
    more.cancel()
