"""Errors of workspaces."""

from __future__ import annotations

from typing import ClassVar

from ocf.events.errors import DeadLetter
from ocf.events.lifecycle import Reason


class InvalidWorkspace(DeadLetter):
    """The workspace cannot be used."""

    #: `failed.reason` of the execution.
    reason: ClassVar[Reason] = Reason.INVALID_WORKSPACE


class WorkspaceTooLarge(InvalidWorkspace):
    """The workspace has more bytes or entries than allowed."""
