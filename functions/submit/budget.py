"""Budgets of projects: `PROJECT_BUDGETS`, US dollars per day (UTC)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from ocf.events import subjects
from ocf.events.errors import Unavailable
from ocf.events.execution_ref import ExecutionRef
from ocf.events.fact_payloads import FieldError
from ocf.events.ports import Bus, Clock
from ocf.functions.settings.settings import Settings, of_project

if TYPE_CHECKING:
    from ocf.functions.database.store import History

log = structlog.get_logger()


async def exhausted(
    ref: ExecutionRef, settings: Settings, bus: Bus, clock: Clock, open_history: Callable[[], History]
) -> FieldError | None:
    """Return the error of a submit whose project has spent its budget of today, or None.

    The spend is that of the history: an execution counts once it has ended. Without an answer of the database the
    submit is accepted, as executions go on without it.
    """
    budget = of_project(settings.project_budgets, ref.project)
    if budget is None:
        return None
    try:
        spent = await open_history().spend_today(ref.project, clock.now())
    except Unavailable as error:
        log.warning("budget not checked", action="submit.budget_unknown", reason=str(error), **ref.log_fields)
        return None
    # A redelivered submit may have been accepted within the budget.
    if spent < budget or await bus.last(subjects.COMMANDS, ref.command("execute")) is not None:
        return None
    return FieldError(field="project_id", message=f"has spent ${spent:.2f} today (UTC) of its budget of ${budget:.2f}")
