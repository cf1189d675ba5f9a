"""Events, rules and faults in any order: each rule starts one execution for each event that it matches."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ocf.events.envelope import decode
from ocf.events.errors import Drop, OcfError, Unavailable
from tests.support.handlers import submit, trigger
from tests.support.parts import PROJECT, Bench, bench, instead
from tests.unit.test_trigger import foreign, rule, submits

RULES = ("one", "two", "three")


@dataclass(frozen=True)
class Step:
    """An event's delivery, or a rule that is applied again. The call of that number to NATS or a bucket fails.

    `lost`: it had its effect, and only the answer is lost. A crash is the same: the function does nothing more.
    """

    what: str
    number: int
    call: int | None
    lost: bool


STEPS = st.builds(
    Step,
    what=st.sampled_from(["deliver", "deliver", "deliver", "apply", "submit"]),
    number=st.integers(1, 3),
    call=st.none() | st.integers(0, 8),
    lost=st.booleans(),
)


def failing(b: Bench, step: Step) -> Bench:
    """The bench with a fault at one call that changes something."""
    calls = 0

    def spoil(real: Any, name: str) -> Any:
        async def call(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            fails = step.call is not None and calls - 1 == step.call
            if fails and not step.lost:
                raise Unavailable("as the test wishes")
            answer = await getattr(real, name)(*given, **named)
            if fails:
                raise Unavailable("the answer is lost")
            return answer

        return call

    bus = instead(b.bus, publish=spoil(b.bus, "publish"))
    bucket = b.deps.triggers
    triggers = instead(bucket, **{name: spoil(bucket, name) for name in ("create", "update")})
    return b.having(bus=bus, triggers=triggers)


async def scene(steps: list[Step]) -> None:
    b = bench()
    for name in RULES:
        await rule(b, name, max_concurrent=50, cooldown_seconds=None)
    for step in steps:
        if step.what == "apply":
            await rule(b, RULES[step.number - 1], max_concurrent=50, cooldown_seconds=None)
        elif step.what == "submit":
            await accept(b)
        else:
            with suppress(OcfError):
                await trigger(failing(b, step).deps, foreign(step.number))
    for number in (1, 2, 3):
        await trigger(b.deps, foreign(number))
    found = Counter((one["labels"]["trigger"], one["execution_id"]) for one in await submits(b))
    assert set(found.values()) == {1}
    assert Counter(name for name, _ in found) == dict.fromkeys(RULES, 3)


async def accept(b: Bench) -> None:
    """The submit function takes what there is, again and again."""
    async for message in b.bus.history("OCF_COMMANDS", f"ocf.cmd.submit.{PROJECT}.*"):
        with suppress(Drop):
            await submit(b.deps, decode(message.headers, message.data).with_extensions(natssubject=message.subject))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=8))
def test_no_order_of_deliveries_and_faults_doubles_or_loses_an_execution(steps: list[Step]) -> None:
    """After a last delivery of each event without a fault."""
    asyncio.run(scene(steps))
