"""How an agent fails, in one place: process, sandbox, OpenCode's API and the run itself raise this."""

from __future__ import annotations

from collections.abc import Sequence

from events.lifecycle import Reason


class AgentFailed(Exception):
    """The agent could not start, or ended without finishing its task.

    `reason` is what `failed.reason` says, `message` one readable line, `stderr_tail` the last lines of
    the agent's own stderr (at most 50).
    """

    def __init__(self, reason: Reason, message: str, stderr_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.stderr_tail = tuple(stderr_tail)

    def with_stderr(self, lines: Sequence[str]) -> AgentFailed:
        """The same failure carrying `lines`, unless it already has some."""
        return AgentFailed(self.reason, self.message, self.stderr_tail or lines)
