"""Boundary between two executions of one worker, beside the sandbox (docs/explanation/security.md, ADR 0011).

- With AGENT_HOST_SOCKET agents run in another container, as another user, one execution at a time (ADR 0013).
- Where this process may change users, each execution has a user of its own.
- Where it may not, all agents are one user, which can spoil what that user owns: then only one project's agents run.
  `ALLOW_SHARED_USER=1` is for operators whose projects trust each other.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ocf.events.lifecycle import Reason
from ocf.functions.execute.sandbox.agent_host_client import AgentHost
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.execute.sandbox.users import AgentUsers, cannot_change_users
from ocf.functions.execute.sandbox.worker_folder_repair import Folders
from ocf.functions.settings.settings import Settings
from ocf.functions.workers.state_folders import is_worker_folder

OWN_CONTAINER = "container of its own per execution"
OWN_USER = "user of its own per execution"
ONE_PROJECT = "one user, one project"
SHARED_USER = "one user, shared by all projects (ALLOW_SHARED_USER)"

#: Returns whether an execution of a project runs or waits.
Busy = Callable[[str], Awaitable[bool]]


def current_boundary(settings: Settings) -> tuple[str, str]:
    """Return the boundary these settings give, and why not a stronger one ("" where there is none)."""
    if settings.agent_host_socket is not None:
        return OWN_CONTAINER, ""
    paths = tuple(path for path in (settings.state_dir, settings.opencode_bin, settings.workspace_dir) if path)
    why = cannot_change_users(*settings.agent_uids, paths)
    if why is None:
        return OWN_USER, ""
    return (SHARED_USER if settings.allow_shared_user else ONE_PROJECT), why


class Boundary:
    """Boundary of one worker; all workers of one parent share `STATE_DIR/project` and `STATE_DIR/users`."""

    def __init__(self, settings: Settings, busy: Busy) -> None:
        self.kind, self.why = current_boundary(settings)
        own = self.kind == OWN_USER
        state = settings.state_dir
        common = state.parent if is_worker_folder(state) else state
        path = settings.agent_host_socket
        self.host = None if path is None else AgentHost(path)
        self.slots = state / "slots" if self.host is None else self.host.shared
        ours = (self.slots,) if self.host is None else ()
        # Other users may pass through to their own folders, but not list names.
        self.folders = Folders((*dict.fromkeys((common, state)), *ours), 0o711 if own else 0o700)
        self.users = AgentUsers(*settings.agent_uids, common / "users") if own else self.host
        self._bound = common / "project"
        self._busy = busy

    @property
    def description(self) -> str:
        """Return the boundary and the reason, for display."""
        return f"{self.kind}: {self.why}" if self.why else self.kind

    async def admit(self, project: str) -> None:
        """Let an execution of `project` run here.

        A machine bound to another project is rebound when nothing of that project runs or waits.

        Raises:
            AgentFailed: this machine serves another project.
            Unavailable: the folders are broken.
        """
        self.folders.check()
        if self.kind != ONE_PROJECT:
            return
        with suppress(FileNotFoundError):
            self._bound.chmod(0o600)  # our user owns it, so an agent may have changed its mode
        fd = os.open(self._bound, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            bound = _read(fd)
            while bound not in ("", project):
                if await self._busy(bound):
                    raise AgentFailed(Reason.AGENT_ERROR, self._refusal(project, bound))
                bound = _bind(fd, bound, project)
            if not bound:
                bound = _bind(fd, "", project)
            if bound != project:
                raise AgentFailed(Reason.AGENT_ERROR, self._refusal(project, bound))
        finally:
            os.close(fd)

    def _refusal(self, project: str, bound: str) -> str:
        return (
            f"this machine runs all agents as one user ({self.why}) and serves project {bound} now, so it does not "
            f"run project {project}; run it as root, or set ALLOW_SHARED_USER=1 if these projects trust each other"
        )


def _read(fd: int) -> str:
    return os.pread(fd, 4096, 0).decode(errors="replace").strip()


def _bind(fd: int, seen: str, project: str) -> str:
    """Write `project` if the file still has `seen`; return its content."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        bound = _read(fd)
        if bound != seen:
            return bound
        os.ftruncate(fd, 0)
        os.pwrite(fd, project.encode(), 0)
        return project
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
