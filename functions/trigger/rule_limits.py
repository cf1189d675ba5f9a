"""Limits of a rule and of all rules of a project: executions at a time, time between starts, cost of a day."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from ocf.events import subjects
from ocf.events.envelope import Event
from ocf.events.errors import NotItsTurn, Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bus
from ocf.functions.core.execution_store import Records
from ocf.functions.database.store import History
from ocf.functions.rules.rule_state import ALL_RULES, CoolsDown, EventRef, Limits, RuleStates, TooMany
from ocf.functions.rules.rulebook import CompiledRule
from ocf.functions.rules.submit_publisher import was_submitted
from ocf.functions.settings.settings import Settings, of_project

#: An execution has its record long before.
_EXPIRED = timedelta(days=1)


@dataclass(frozen=True)
class _Guard:
    """Limits, the name of the state that they are held to, the start as that state knows it, and whose they are."""

    state: str
    start: EventRef
    limits: Limits
    names: tuple[str, str]


async def refusal(
    rule: CompiledRule,
    states: RuleStates,
    event: Event,
    execution: str,
    *,
    settings: Settings,
    bus: Bus,
    records: Records,
    open_history: Callable[[], History],
    now: datetime,
) -> str | None:
    """Return why limits hold the event back, or None; the start is then recorded.

    Raises:
        NotItsTurn: The rule, or its project, has as many executions as it may; the event waits.
    """
    if spent := await _spent(rule, settings, open_history, now):
        return spent
    name, project = rule.rule.name, rule.project
    limits = Limits(rule.rule.max_concurrent or 0, rule.rule.cooldown_seconds or 0)
    names = (f"rule {name}: max_concurrent", "cooldown_seconds: the rule")
    ended = functools.partial(forget_ended, states, records=records, bus=bus, now=now)
    own = _Guard(name, EventRef(id=event.id, time=now), limits, names)
    concurrent = of_project(settings.trigger_max_concurrent, project) or 0
    common = Limits(concurrent, of_project(settings.trigger_cooldown_seconds, project) or 0)
    if common == Limits():
        return await _held_back(own, execution, ended, states.start)
    # One event may match several rules: the project counts executions.
    names = (f"project {project}: TRIGGER_MAX_CONCURRENT", "TRIGGER_COOLDOWN_SECONDS: a rule of the project")
    shared = _Guard(ALL_RULES, EventRef(id=execution, time=now), common, names)
    # A start that the project refuses must not count for the rule.
    reason = await _held_back(shared, execution, ended, states.check)
    reason = reason or await _held_back(own, execution, ended, states.start)
    if reason is None:
        reason = await _held_back(shared, execution, ended, states.start)
        if reason is not None:  # another rule was faster
            await states.forget(name, {execution})
    return reason


async def _held_back(
    guard: _Guard, execution: str, ended: Callable[[str], Awaitable[object]], start: Callable[..., Awaitable[None]]
) -> str | None:
    arguments = (guard.state, guard.start, execution, guard.limits)
    try:
        try:
            await start(*arguments)
        except TooMany:
            await ended(guard.state)
            await start(*arguments)
    except TooMany:
        raise NotItsTurn(f"{guard.names[0]}: {guard.limits.concurrent} executions have not ended") from None
    except CoolsDown:
        return f"{guard.names[1]} started an execution less than {guard.limits.cooldown_seconds} s before"
    return None


async def _spent(
    rule: CompiledRule, settings: Settings, open_history: Callable[[], History], now: datetime
) -> str | None:
    """Return which budget is spent, or None."""
    budget, words = rule.rule.daily_budget_usd, "US dollars are spent since midnight UTC"
    if budget is not None:
        spent = await open_history().spend_today(rule.project, now, rule.rule.name)
        if spent >= budget:
            return f"daily_budget_usd: {spent:.2f} of {budget:.2f} {words}"
    budget = of_project(settings.project_budgets, rule.project)
    if budget is not None:
        with suppress(Unavailable):  # the function submit holds to this budget too
            spent = await open_history().spend_today(rule.project, now)
            if spent >= budget:
                return f"PROJECT_BUDGETS: {spent:.2f} of {budget:.2f} {words}"
    return None


async def forget_ended(states: RuleStates, name: str, records: Records, bus: Bus, now: datetime) -> list[str]:
    """Remove the executions that have ended, or were deleted, from a state; return the others."""
    state = await states.read(name)
    old = state.last_event is not None and state.last_event.time < now - _EXPIRED
    gone = {one for one in state.active if await _is_over(ExecutionRef(states.project, one), records, bus, old=old)}
    if gone:
        await states.forget(name, gone)
    return [execution for execution in state.active if execution not in gone]


async def _is_over(ref: ExecutionRef, records: Records, bus: Bus, *, old: bool) -> bool:
    """Return whether an execution has ended. Without a record it is pending, unless it was deleted or has expired."""
    record = await records.find(ref.project, ref.execution)
    if record is not None:
        return record.terminal
    if await bus.last(subjects.EVENTS, ref.fact("cleaned")) is not None:
        return True
    # A start is recorded before its submit is published: only an old one without a submit has expired.
    return old and not await was_submitted(bus, ref.project, ref.execution)
