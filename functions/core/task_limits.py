"""The operator's settings are the default and the ceiling of what a task may ask for."""

from __future__ import annotations

from collections.abc import Iterator

from ocf.events.commands import Limits
from ocf.functions.settings.settings import Settings

#: A field of `limits` and the setting above which it cannot go.
CEILINGS = {
    "timeout_seconds": "task_timeout",
    "silence_seconds": "silence_timeout",
    "max_memory_bytes": "max_memory_bytes",
    "max_workspace_bytes": "max_workspace_bytes",
    "max_output_bytes": "max_output_bytes",
    "max_processes": "max_processes",
}


def effective_limit(limits: Limits, field: str, settings: Settings) -> int:
    """What holds for an execution: what it asks for, never above the operator's setting."""
    ceiling: int = getattr(settings, CEILINGS[field])
    asked: int | None = getattr(limits, field)
    return ceiling if asked is None else min(asked, ceiling)


def exceeded(limits: Limits, settings: Settings) -> Iterator[tuple[str, str]]:
    """Each field that asks for more than there is, and what would be right."""
    for field, setting in CEILINGS.items():
        ceiling = getattr(settings, setting)
        if (getattr(limits, field) or 0) > ceiling:
            yield f"limits.{field}", f"at most {ceiling} ({Settings.model_fields[setting].alias})"
