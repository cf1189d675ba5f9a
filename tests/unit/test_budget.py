"""Budgets of projects per day."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ocf.events.errors import Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import Reason, State
from ocf.events.output import Usage
from ocf.functions.settings.settings import Settings
from tests.support.handlers import submit
from tests.support.parts import PROJECT, Bench, bench

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
SECOND = "1c9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a22"


async def spend(b: Bench, usd: float) -> None:
    """One execution that has ended today at this cost."""
    await submit(b.deps, b.submit(ID))
    done = {"state": State.COMPLETED, "usage": Usage(cost_usd=usd), "ended_at": b.deps.clock.now()}
    record = await b.deps.records.change(PROJECT, ID, lambda found: found.model_copy(update=done))
    await b.deps.history.save(record)


async def test_a_project_that_has_spent_its_budget_starts_nothing_more() -> None:
    """Rejected with reason and figures, before anything starts; tomorrow it goes on."""
    b = bench(PROJECT_BUDGETS="default=1.5,other=100")
    await spend(b, 1.5)
    await submit(b.deps, b.submit(SECOND, prompt="one more"))
    record = await b.deps.records.require(PROJECT, SECOND)
    assert (record.state, record.reason, record.title) == (State.REJECTED, Reason.BUDGET_EXCEEDED, "one more")
    assert "$1.50 today (UTC) of its budget of $1.50" in (record.message or "")
    fact = await b.fact(SECOND, "rejected")
    assert b'"reason":"budget_exceeded"' in fact.data
    assert await b.commands("execute", SECOND) == []


async def test_removing_an_execution_gives_no_budget_back() -> None:
    """Its owner may delete it right after its end; what it has cost is spent."""
    b = bench(PROJECT_BUDGETS="default=1.5")
    await spend(b, 1.5)
    await b.deps.history.remove(ExecutionRef(PROJECT, ID))
    await b.deps.history.remove(ExecutionRef(PROJECT, ID))
    assert await b.deps.history.spend_today(PROJECT, b.deps.clock.now()) == 1.5
    await submit(b.deps, b.submit(SECOND))
    assert (await b.deps.records.require(PROJECT, SECOND)).state is State.REJECTED


@pytest.mark.parametrize("budgets", ["", "other=1", "default=1.51", f"default=0,{PROJECT}=2"])
async def test_within_the_budget_or_without_one_it_starts(budgets: str) -> None:
    """A project's own budget wins over the default."""
    b = bench(PROJECT_BUDGETS=budgets)
    await b.deps.history.save((await _accepted(b)).model_copy(update={"usage": Usage(cost_usd=1.5)}))
    await submit(b.deps, b.submit(SECOND))
    assert (await b.deps.records.require(PROJECT, SECOND)).state is State.PENDING


async def _accepted(b: Bench):  # type: ignore[no-untyped-def]
    free = b.having(settings=Settings.model_validate({}))
    await submit(free.deps, free.submit(ID))
    return await b.deps.records.require(PROJECT, ID)


async def test_a_redelivered_submit_is_not_rejected_afterwards() -> None:
    """It was accepted while there was budget."""
    b = bench(PROJECT_BUDGETS="default=1")
    event = b.submit(SECOND)
    await submit(b.deps, event)
    await spend(b, 5.0)
    await submit(b.deps, event)
    assert (await b.deps.records.require(PROJECT, SECOND)).state is State.PENDING
    assert "rejected" not in await b.said(SECOND)


async def test_submits_go_on_while_the_database_is_away() -> None:
    """The budget is not checked then."""
    b = bench(PROJECT_BUDGETS="default=0")

    async def away(*_: object) -> float:
        raise Unavailable("away")

    b.deps.history.spend_today = away  # type: ignore[method-assign]
    await submit(b.deps, b.submit(SECOND))
    assert (await b.deps.records.require(PROJECT, SECOND)).state is State.PENDING


@pytest.mark.parametrize("table", ["5", "a=", "=5", "a=-1", "a=x", "a=1.2.3"])
def test_a_malformed_budget_is_named(table: str) -> None:
    """At the start, with an example."""
    with pytest.raises(ValidationError, match="PROJECT=NUMBER"):
        Settings.model_validate({"PROJECT_BUDGETS": table})
