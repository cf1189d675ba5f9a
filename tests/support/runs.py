"""A worker and a run whose agent's side is a stand-in: as much as their beginnings and ends need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ocf.events.command_payloads import Execute
from ocf.events.envelope import Event
from ocf.events.redaction import Redactor
from ocf.functions.execute.attempt.runner import Runner
from ocf.functions.execute.worker import Worker
from ocf.functions.runtime.bootstrap import Dependencies


def worker_on(deps: Dependencies, make_agent_run: Any = None) -> Worker:
    """A worker without warm servers."""
    slots: Any = SimpleNamespace(start=lambda: None, ready=False)
    return Worker(deps, slots, make_agent_run=make_agent_run or _turn, poll_every=0.02)


def runner_on(deps: Dependencies, task: Execute, event: Event) -> Runner:
    """A run that is not yet begun."""
    return Runner(task, event, deps=deps, make_agent_run=_turn)


def _turn(*_: object) -> Any:
    return SimpleNamespace(redactor=Redactor(), model_name=None)
