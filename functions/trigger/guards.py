"""Limits of a rule: how many executions it may have, how often it may start one, what they may cost in a day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ocf.events.envelope import Event
from ocf.events.errors import NotItsTurn
from ocf.functions.core.execution_store import Records
from ocf.functions.database.store import History
from ocf.functions.rules.rule_state import CoolsDown, EventRef, Limits, RuleStates, TooMany
from ocf.functions.rules.rulebook import CompiledRule


async def refusal(
    rule: CompiledRule,
    states: RuleStates,
    event: Event,
    execution: str,
    *,
    records: Records,
    open_history: Callable[[], History],
    now: datetime,
) -> str | None:
    """Return why the limits of the rule hold the event back, or None; the start is then recorded.

    Raises:
        NotItsTurn: The rule has `max_concurrent` executions; the event waits.
    """
    name, seen = rule.rule.name, EventRef(id=event.id, time=now)
    budget = rule.rule.daily_budget_usd
    if budget is not None:
        spent = await open_history().spend_today(rule.project, now, ("trigger", name))
        if spent >= budget:
            return f"daily_budget_usd: {spent:.2f} of {budget:.2f} US dollars are spent since midnight UTC"
    limits = Limits(rule.rule.max_concurrent or 0, rule.rule.cooldown_seconds or 0)
    try:
        try:
            await states.start(name, seen, execution, limits)
        except TooMany:
            await forget_ended(states, rule.project, name, records)
            await states.start(name, seen, execution, limits)
    except TooMany:
        raise NotItsTurn(f"rule {name}: max_concurrent: {limits.concurrent} executions have not ended") from None
    except CoolsDown:
        return f"cooldown_seconds: the rule started an execution less than {limits.cooldown_seconds} s before"
    return None


async def forget_ended(states: RuleStates, project: str, name: str, records: Records) -> list[str]:
    """Remove the executions that have ended from a state; return the others. One without a record is pending."""
    active = (await states.read(name)).active
    known = {execution: await records.find(project, execution) for execution in active}
    gone = {execution for execution, record in known.items() if record is not None and record.terminal}
    if gone:
        await states.forget(name, gone)
    return [execution for execution in active if execution not in gone]
