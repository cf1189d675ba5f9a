"""Limits and recording of a task: its own wish within the operator's settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ocf.events.command_payloads import Limits, TaskRequest
from ocf.functions.settings.settings import Settings

#: Fields of `limits`, and the settings that are their maximum.
CEILINGS = {
    "timeout_seconds": "task_timeout",
    "silence_seconds": "silence_timeout",
    "max_memory_bytes": "max_memory_bytes",
    "max_workspace_bytes": "max_workspace_bytes",
    "max_output_bytes": "max_output_bytes",
    "max_processes": "max_processes",
}


def effective_limit(limits: Limits, field: str, settings: Settings) -> int:
    """Return the effective limit: the requested value, at most the operator's setting."""
    ceiling: int = getattr(settings, CEILINGS[field])
    requested: int | None = getattr(limits, field)
    return ceiling if requested is None else min(requested, ceiling)


def effective_recording(task: TaskRequest, settings: Settings) -> Literal["off", "answers", "full"]:
    """Return what is recorded of a task: what it asks for, else the operator's setting."""
    return task.recording or settings.recording


def exceeded(limits: Limits, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each field above its maximum, and a message with the maximum."""
    for field, setting in CEILINGS.items():
        ceiling = getattr(settings, setting)
        if (getattr(limits, field) or 0) > ceiling:
            yield f"limits.{field}", f"at most {ceiling} ({Settings.model_fields[setting].alias})"
