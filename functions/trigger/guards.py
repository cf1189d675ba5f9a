"""Limits of a rule: how many executions it may have, and how often it may start one."""

from __future__ import annotations

from datetime import datetime

from ocf.events.envelope import Event
from ocf.events.errors import NotItsTurn
from ocf.functions.core.execution_repository import Records
from ocf.functions.rules.rule_state import CoolsDown, EventRef, Limits, RuleStates, TooMany
from ocf.functions.rules.rulebook import CompiledRule


async def refusal(
    rule: CompiledRule, states: RuleStates, event: Event, execution: str, *, records: Records, now: datetime
) -> str | None:
    """Return why the limits of the rule hold the event back, or None; the start is then recorded.

    Raises:
        NotItsTurn: The rule has `max_concurrent` executions; the event waits.
    """
    name, seen = rule.rule.name, EventRef(id=event.id, time=now)
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
    known = {execution: await records.get(project, execution) for execution in active}
    gone = {execution for execution, record in known.items() if record is not None and record.terminal}
    if gone:
        await states.forget(name, gone)
    return [execution for execution in active if execution not in gone]
