"""Inputs of one task, ready for its agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from ocf.events.command_payloads import Execute
from ocf.events.lifecycle import Reason
from ocf.events.output import Draft, status_draft
from ocf.functions import workspace
from ocf.functions.core.agent_definitions import InvalidDefinition, TaskDefinitions
from ocf.functions.core.task_limits import effective_limit
from ocf.functions.execute.agent.opencode_api import FilePart
from ocf.functions.execute.context import WorkerContext
from ocf.functions.execute.inputs import attachments
from ocf.functions.execute.inputs.definition_sources import merged, of_task
from ocf.functions.execute.sandbox.process import AgentFailed

Emit = Callable[[Draft], Awaitable[None]]


class TaskInputs:
    """Reads the attachments and definitions of a task. `folder` is private to the run."""

    def __init__(self, context: WorkerContext, task: Execute, folder: Path) -> None:
        self._task = task
        self._folder = folder
        self._store = context.deps.store
        self._limits = workspace.Limits(
            max_bytes=effective_limit(task.limits, "max_workspace_bytes", context.deps.settings)
        )
        settings = context.deps.settings
        self._sources = workspace.Sources(
            roots=tuple(Path(root) for root in settings.workspace_sources),
            private=(settings.state_dir, *map(Path, settings.private_dirs)),
            limits=self._limits,
        )

    async def files(self) -> tuple[FilePart, ...]:
        """Return the attachments. Raises as `attachments.file_parts`."""
        return await attachments.file_parts(self._task, self._store, self._folder, self._limits)

    async def definitions(self, repository: TaskDefinitions, emit: Emit) -> TaskDefinitions:
        """Return all definitions of the run, those of the task before those of its repository.

        Raises:
            InvalidWorkspace: a git reference cannot be cloned.
            AgentFailed: a definition is invalid, or the task's agent is unknown.
        """
        for ignored in repository.ignored:
            await emit(status_draft(f"ignored: {ignored}", "agent"))
        try:
            found = merged(repository, await of_task(self._task, self._folder, self._sources))
        except InvalidDefinition as error:
            raise AgentFailed(Reason.AGENT_ERROR, str(error)) from None
        agents = {*found.agents, *found.runners}
        if self._task.agent is not None and self._task.agent not in found.runners:
            raise AgentFailed(Reason.AGENT_ERROR, f"agent: must be one of {', '.join(found.runners)}")
        for name, command in found.commands.items():
            if command.agent is not None and command.agent not in agents | {"general", "explore"}:
                raise AgentFailed(Reason.AGENT_ERROR, f"commands.{name}: no agent {command.agent}")
        return found


def prompt_text(task: Execute) -> str:
    """Return the prompt as the agent gets it: the request, the context, the code."""
    parts = [task.prompt.strip()] if task.prompt else []
    if task.context:
        context = task.context if isinstance(task.context, str) else _listed(task.context)
        parts.append(f"Context:\n{context}")
    if task.code:
        parts.append(f"Code:\n```\n{task.code}\n```")
    return "\n\n".join(parts)


def _listed(context: dict[str, object]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in context.items())
