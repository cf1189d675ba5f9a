"""The state of a rule or schedule: what it started and what its limits held back.

The key is `state.<project>.<name>`. A start is recorded before its submit is published, and again by a redelivery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import Field

from ocf.events.base_model import ForwardCompatible
from ocf.events.errors import NotYetKnown
from ocf.events.ports import Bucket
from ocf.functions.core import compare_and_set

_REFUSALS = 20
#: Name of the state of all rules of a project together; no rule has such a name.
ALL_RULES = "all_rules"


class EventRef(ForwardCompatible):
    """An event, the time of its handling, and why it was held back."""

    id: str
    time: datetime
    reason: str = ""


class RuleState(ForwardCompatible):
    """`active` has the executions that count against `max_concurrent`, `refused` the latest events held back.

    Starts are compared by execution, which stands for rule, source and id: another source may repeat an id.
    """

    matched: int = 0
    seen: str | None = Field(None, description="planned time of the last tick of a schedule, started or not")
    last_event: EventRef | None = None
    last_execution: str | None = Field(None, description="that of `last_event`")
    refused: list[EventRef] = Field(default_factory=list)
    refused_executions: list[str] = Field(default_factory=list, description="those that `refused` did not start")
    active: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """Limits of a start. `concurrent` 0 is no limit, and then no execution is remembered."""

    concurrent: int = 0
    cooldown_seconds: int = 0


class CoolsDown(Exception):
    """The last start was less than the cooldown ago."""


class TooMany(Exception):
    """As many executions as the limit allows have not ended."""


def _started(state: RuleState, event: EventRef, execution: str, limits: Limits) -> RuleState | None:
    """Return the state after a start; None if the start is in it. Raises CoolsDown or TooMany."""
    last, again = state.last_event, state.last_execution == execution
    if execution in state.active or (again and not limits.concurrent):
        return None
    if last is not None and not again and event.time < last.time + timedelta(seconds=limits.cooldown_seconds):
        raise CoolsDown
    if 0 < limits.concurrent <= len(state.active):
        raise TooMany
    active = [*state.active, execution] if limits.concurrent else []
    if again:  # its slot was taken back
        return state.model_copy(update={"active": active})
    latest = {"last_event": event, "last_execution": execution}
    return state.model_copy(update={"matched": state.matched + 1, "active": active, **latest})


class RuleStates:
    """The states of a project's rules."""

    def __init__(self, bucket: Bucket, project: str) -> None:
        self._bucket, self.project = bucket, project

    async def read(self, name: str) -> RuleState:
        """Return the state."""
        entry = await self._bucket.get(f"state.{self.project}.{name}")
        return RuleState() if entry is None else RuleState.read(entry.value)

    async def start(self, name: str, event: EventRef, execution: str, limits: Limits) -> None:
        """Record a start; once, however often it is called for an event.

        Raises:
            CoolsDown: The last start is too recent.
            TooMany: The limit of executions is reached.
        """
        await self._change(name, lambda state: _started(state, event, execution, limits))

    async def check(self, name: str, event: EventRef, execution: str, limits: Limits) -> None:
        """Raise what `start` would raise, and record nothing."""
        _started(await self.read(name), event, execution, limits)

    async def refuse(self, name: str, event: EventRef, execution: str) -> None:
        """Record an event that was held back, once for its execution."""

        def refused(state: RuleState) -> RuleState | None:
            if execution in state.refused_executions:
                return None
            events = [*state.refused, event][-_REFUSALS:]
            executions = [*state.refused_executions, execution][-_REFUSALS:]
            return state.model_copy(update={"refused": events, "refused_executions": executions})

        await self._change(name, refused)

    async def note(self, name: str, seen: str) -> None:
        """Record the planned time of a schedule's tick."""
        await self._change(name, lambda state: None if state.seen == seen else state.model_copy(update={"seen": seen}))

    async def forget(self, name: str, executions: set[str]) -> None:
        """Remove executions that have ended, or never began."""

        def without(state: RuleState) -> RuleState | None:
            left = [one for one in state.active if one not in executions]
            return None if len(left) == len(state.active) else state.model_copy(update={"active": left})

        await self._change(name, without)

    async def _change(self, name: str, decide: Callable[[RuleState], RuleState | None]) -> None:
        key = f"state.{self.project}.{name}"
        try:
            await compare_and_set.change(self._bucket, key, RuleState, decide, lambda one: one, name=f"rule {name}")
        except NotYetKnown:
            first = decide(RuleState())
            if first is not None:
                await self._bucket.create(key, compare_and_set.dump(first))
