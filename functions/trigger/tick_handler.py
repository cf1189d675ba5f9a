"""Ticks of schedules: one submit for each planned time, whatever fires or is delivered twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

from ocf.events import subjects
from ocf.events.command_publisher import NATS_SCHEDULER, NATS_SEQUENCE, NATS_SUBJECT
from ocf.events.envelope import Event
from ocf.events.errors import DeadLetter, Drop, NotItsTurn
from ocf.events.ports import Bucket, Bus, Clock, ObjectStore
from ocf.functions.core.execution_store import Records
from ocf.functions.rules.cron import Cron
from ocf.functions.rules.rule import On, Rule
from ocf.functions.rules.rule_state import EventRef, Limits, RuleState, RuleStates
from ocf.functions.rules.rulebook import CompiledRule, execution_id, view
from ocf.functions.rules.schedule_store import TICK, Schedule, Schedules, state_name
from ocf.functions.rules.submit_publisher import publish_cancel, publish_submit, was_submitted
from ocf.functions.trigger.rule_limits import forget_ended

_REMEMBERED = Limits(concurrent=1_000)


@dataclass(frozen=True)
class Ticks:
    """The handler of ticks."""

    bus: Bus
    triggers: Bucket
    records: Records
    store: ObjectStore
    clock: Clock

    async def handle(self, event: Event, project: str) -> None:
        """Publish the submit of a tick, after what `overlap` says about earlier executions.

        Raises:
            Drop: The schedule was deleted or paused.
            NotItsTurn: `overlap` is `queue`, and an earlier execution has not ended.
            RuleFailed: The task is not valid.
        """
        name = event.extensions[NATS_SCHEDULER].rpartition(".")[2]
        stored = await Schedules(self.bus, self.triggers).get(project, name)
        if stored is None or stored.paused:
            raise Drop(f"schedule {name} was deleted or paused")
        schedule, state_of = stored.schedule, state_name(name)
        cron = Cron(schedule.cron, schedule.timezone)
        planned = cron.planned(await self._fired(event))
        data = json.dumps({"schedule": name, "planned": planned, "timezone": schedule.timezone}).encode()
        tick = replace(event, id=planned, data=data)
        execution = execution_id(project, state_of, tick)
        if await was_submitted(self.bus, project, execution):
            return
        states, now = RuleStates(self.triggers, project), self.clock.now()
        state = await states.read(state_of)
        await self._state_missed(states, state_of, state, cron, planned)
        running = [one for one in await forget_ended(states, state_of, self.records, self.bus, now) if one != execution]
        if running and schedule.overlap == "skip":
            reason = f"overlap: {running[0]} has not ended"
            await states.refuse(state_of, EventRef(id=planned, time=now, reason=reason), execution)
            return
        if running and schedule.overlap == "queue":
            raise NotItsTurn(f"schedule {name}: {running[0]} has not ended")
        submit = _rule(schedule, project).submit(view(tick), execution)
        await states.start(state_of, EventRef(id=planned, time=now), execution, _REMEMBERED)
        for earlier in running:
            why = f"schedule {name} started its next execution"
            await publish_cancel(self.bus, project, earlier, why, tick, self.clock)
        try:
            await publish_submit(self.bus, self.store, submit, tick, self.clock)
        except DeadLetter:
            await states.forget(state_of, {execution})
            raise

    async def _fired(self, event: Event) -> datetime:
        """Return when the tick was stored, by the server's clock; a delivery may be much later."""
        sequence, subject = int(event.extensions.get(NATS_SEQUENCE, "0")), event.extensions[NATS_SUBJECT]
        message = await self.bus.first(subjects.INBOX, subject, after=sequence - 1) if sequence else None
        stored = message.time if message is not None and message.sequence == sequence else None
        return stored or self.clock.now()

    async def _state_missed(self, states: RuleStates, name: str, state: RuleState, cron: Cron, planned: str) -> None:
        """Record how many ticks never fired since the last one: NATS does not make up for them."""
        last = state.seen
        missed = cron.missed(last, planned) if last is not None and last < planned else 0
        if missed:
            reason = f"missed: {missed} ticks after {last} did not fire"
            which = f"missed {last}"
            await states.refuse(name, EventRef(id=which, time=self.clock.now(), reason=reason), which)
        await states.note(name, planned)


def _rule(schedule: Schedule, project: str) -> CompiledRule:
    """Return a schedule as a rule for its ticks."""
    return CompiledRule(Rule(name=schedule.name, on=On(type=TICK), task=schedule.task), project)
