"""trigger: each rule that matches the event publishes one submit. Idempotent on rule and event.

A rule that fails or waits does not affect the others: their submits are published first, and a redelivery publishes no
second one, because its subject takes only one message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ocf.events import subjects
from ocf.events.command_payloads import Submit
from ocf.events.command_publisher import NATS_SCHEDULER, NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.errors import DeadLetter, InvalidEvent, Retry
from ocf.events.ports import Bucket, Bus, Clock, ObjectStore
from ocf.functions.core.execution_store import Records
from ocf.functions.core.session_store import Sessions
from ocf.functions.database.store import History
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.rules.condition import EventView
from ocf.functions.rules.rule_state import ALL_RULES, EventRef, RuleStates
from ocf.functions.rules.rulebook import CompiledRule, RuleBook, RuleFailed, execution_id, view
from ocf.functions.rules.submit_publisher import publish_submit, was_submitted
from ocf.functions.settings.settings import Settings
from ocf.functions.trigger import actors, rule_limits
from ocf.functions.trigger.follow_up_sessions import FollowUps
from ocf.functions.trigger.polls import Polls
from ocf.functions.trigger.tick_handler import Ticks


async def trigger(
    event: Event,
    *,
    bus: Bus,
    store: ObjectStore,
    triggers: Bucket,
    rulebook: RuleBook,
    records: Records,
    session_records: Sessions,
    credentials: ForgeCredentials,
    open_history: Callable[[], History],
    settings: Settings,
    clock: Clock,
) -> None:
    """Handle an event of `ocf.in.<project>.<source>`, or the tick of a polling rule.

    Raises:
        InvalidEvent: The event did not arrive on such a subject, or its payload is too large or too deep.
        RuleFailed: Rules cannot handle the event; names each with its field.
        NotItsTurn: A rule has as many executions as it may.
    """
    parsed = subjects.parse(event.extensions.get(NATS_SUBJECT, ""))
    if parsed.kind == "poll":
        await Polls(bus, triggers, rulebook, credentials, clock).handle(parsed.project, parsed.entity)
        return
    if parsed.kind != "in":
        raise InvalidEvent("natssubject: the event did not arrive on ocf.in.<project>.<source>")
    if event.extensions.get(NATS_SCHEDULER):
        await Ticks(bus, triggers, records, store, clock).handle(event, parsed.project)
        return
    seen = view(event)
    follow_ups = FollowUps(bus, triggers, session_records, clock)
    parts = _Parts(bus, store, triggers, records, follow_ups, credentials, open_history, settings, clock)
    failures: list[str] = []
    waiting: Retry | None = None
    for rule in await rulebook.rules(parsed.project):
        await seen.pause()
        try:
            if rule.mismatch(seen) is None:
                await _start(rule, event, seen, parts, rule.submit)
            elif rule.rule.follow_up and await parts.follow_ups.continues(rule, seen):
                await _start(rule, event, seen, parts, rule.turn)
        except RuleFailed as error:
            failures.append(str(error))
        except DeadLetter as error:
            failures.append(f"rule {rule.rule.name}: {error}")
        except Retry as error:
            waiting = error
    if waiting is not None:
        raise waiting
    if failures:
        raise RuleFailed("; ".join(failures))


@dataclass(frozen=True)
class _Parts:
    """The dependencies of a start."""

    bus: Bus
    store: ObjectStore
    triggers: Bucket
    records: Records
    follow_ups: FollowUps
    credentials: ForgeCredentials
    open_history: Callable[[], History]
    settings: Settings
    clock: Clock


async def _start(
    rule: CompiledRule, event: Event, seen: EventView, parts: _Parts, compose: Callable[[EventView, str], Submit]
) -> None:
    """Publish the submit of one rule, unless a guard of the rule holds the event back."""
    project, name, now = rule.project, rule.rule.name, parts.clock.now()
    execution = execution_id(project, name, event)
    if await was_submitted(parts.bus, project, execution):
        return  # an earlier delivery of this event
    states = RuleStates(parts.triggers, project)
    reason = await actors.refusal(rule, seen, parts.credentials)
    if reason is None:
        submit = compose(seen, execution)
        reason = await rule_limits.refusal(
            rule,
            states,
            event,
            execution,
            settings=parts.settings,
            bus=parts.bus,
            records=parts.records,
            open_history=parts.open_history,
            now=now,
        )
    if reason is not None:
        await states.refuse(name, EventRef(id=event.id, time=now, reason=reason), execution)
        return
    try:
        if rule.rule.follow_up:
            submit = await parts.follow_ups.in_session(rule, submit, seen, event)
        await publish_submit(parts.bus, parts.store, submit, event, parts.clock)
    except DeadLetter:  # no execution will end, and so free its slot
        for one in (name, ALL_RULES):
            await states.forget(one, {execution})
        raise
