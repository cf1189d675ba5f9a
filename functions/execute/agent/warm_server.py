"""A warm server: started and booted before its task is known.

A warm server is one OpenCode server in its sandbox, with its own model proxy and an empty directory. OpenCode boots a
directory at the first prompt in it, so a throw-away prompt is sent, which the proxy answers itself at no cost. Then the
workspace is put into the directory. A server serves one execution of one tenant and is thrown away with it.

Every execution runs in such a server, also when none is ready and one is opened on demand: OpenCode 1.18 reads a
directory's plugins and opencode.json when it boots it, even with OPENCODE_DISABLE_PROJECT_CONFIG (that switch covers
its older half only). A directory that is empty at that moment cannot be hostile.
"""

from __future__ import annotations

import asyncio
import shutil
import stat
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from ocf.events.lifecycle import Reason
from ocf.events.output import Draft
from ocf.events.ports import Clock
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_api import OpenCodeError
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.model_proxy import ModelProxy
from ocf.functions.execute.sandbox import idle_priority
from ocf.functions.execute.sandbox.agent_host_client import AgentHost, HostGone, HostUser, Owner
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady, StopReport
from ocf.functions.execute.sandbox.readable_tree import make_readable
from ocf.functions.execute.sandbox.users import AgentUser, AgentUsers, NoUser
from ocf.functions.workspace import discard_tree
from ocf.functions.workspace.threads import in_thread

MakeBroker = Callable[[], Awaitable[ModelProxy]]

BOOT_SECONDS = 120.0
#: Throw-away prompts of a boot while no run waits for it. The first one boots the directory; after the second the first
#: word of a run comes a quarter sooner (ADR 0015), for half a second of idle processor time.
_SPARE_PROMPTS = 2


@dataclass
class WarmServer:
    """A booted server, its workspace directory (empty, mode 0700), and its model proxy.

    `model_proxy.assign` gives the proxy its target. `warm` states whether the server was ready before it was requested.
    """

    server: AgentServer
    model_proxy: ModelProxy
    root: Path
    opened_at: float
    warm: bool = False
    user: Owner | None = None

    async def own(self, path: Path) -> None:
        """Give the agent's user, if it has one, what this process created below `path`."""
        if self.user is not None:
            await self.user.own_tree(path)

    async def open_up(self) -> None:
        """Make the workspace readable for this process, once the agent's processes are gone.

        In a shared directory without a container nothing is changed: others may work there.

        Raises:
            OSError: it failed; in the workspace, what stays unreadable is no failure.
        """
        if isinstance(self.user, HostUser):
            await self.user.open_up(self.directory)
        elif self.user is None and self.directory.parent == self.root:
            await asyncio.to_thread(make_readable, self.directory, stat.S_IRUSR)

    @property
    def directory(self) -> Path:
        """Return the workspace directory."""
        return self.server.spec.directory

    async def close(self, grace: float = 0.0) -> StopReport:
        """End its processes, free the port, remove its files. Safe to call again."""
        report = await self.server.stop(grace)
        await self.model_proxy.close()
        await _remove_files(self.root, self.user)
        return report


@dataclass(frozen=True)
class WarmServerConfig:
    """Settings for opening servers: `spec` without directory, home and proxy, which each server has of its own.

    `folder` is private to this worker. `turn` limits how many servers start at once: more than there are processors are
    ready no sooner, and each takes longer. Five on two busy cores took 12 s each, two by two 6 s. Its argument states
    whether the boot is a spare one, for which no run waits; its result, whether the boot is to take idle time only.
    """

    folder: Path
    spec: ServerSpec
    make_model_proxy: MakeBroker
    #: Each server gets a user of its own; None: all run as this process's user.
    users: AgentUsers | AgentHost | None = None
    turn: Callable[[bool], AbstractAsyncContextManager[bool]] = lambda _: nullcontext(False)
    #: Tells the giver of turns that a run waits for the boot that was a spare one.
    demand: Callable[[], None] = lambda: None

    def fits(self, spec: ServerSpec) -> bool:
        """Return whether a server of this configuration satisfies `spec`, apart from models, which the pool checks."""
        mine, asked = self.spec, spec
        return all(
            getattr(mine, name) == getattr(asked, name)
            for name in (
                "sandboxed",
                "read_only",
                "connect_ports",
                "max_processes",
                "max_memory_bytes",
                "env",
                "tools",
                "definitions",
                "permissions",
            )
        )


async def open_warm_server(
    plan: WarmServerConfig,
    spec: ServerSpec,
    clock: Clock,
    *,
    shared: Path | None = None,
    user: Owner | None = None,
    spare: bool = False,
    demanded: Callable[[], bool] = lambda: False,
) -> WarmServer:
    """Start a server of `spec` (directory, home, user and proxy are replaced) and boot its empty directory.

    Args:
        plan: the pool's configuration.
        spec: the requested server.
        clock: for `opened_at`.
        shared: a directory to use in place; it is not booted.
        user: its current owner, which the server then owns.
        spare: no run waits for it yet.
        demanded: returns whether a run waits for the spare boot by now.

    Raises:
        AgentFailed: the server did not start or boot (AgentNotReady: not in time); nothing of it is left.
    """
    root = plan.folder / uuid.uuid4().hex
    directory, home = shared or root / "workspace", root / "home"
    model_proxy: ModelProxy | None = None
    server: AgentServer | None = None
    try:
        if user is None and plan.users is not None:
            user = plan.users.take(root)
        await _make_folders(root, user, home, *(() if shared else (directory,)))
        model_proxy = await plan.make_model_proxy()
        if shared is None:
            await _make_repository(directory, user)
        own = replace(
            spec,
            directory=directory,
            home=home,
            user=user,
            model_proxy_url=model_proxy.base_url,
            model_proxy_token=model_proxy.token,
        )
        async with plan.turn(spare and not demanded()) as idle:  # a run may have come while the folders were made
            server = await AgentServer.start(replace(own, idle=idle and idle_priority.may_return()))
            if shared is None:
                await _boot(server, clock, lambda sent: spare and sent < _SPARE_PROMPTS and not demanded())
            if server.spec.idle:
                idle_priority.raise_tree(server.process.pid)
        if shared is None:
            await _empty_directory(directory, user)
        return WarmServer(server, model_proxy, root, clock.monotonic(), user=user)
    except BaseException as error:
        # A separate task, so that a second cancellation leaves nothing behind either.
        await asyncio.shield(asyncio.ensure_future(_undo(server, model_proxy, root, user)))
        if isinstance(error, HostGone):
            raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from None
        if isinstance(error, NoUser):
            raise AgentFailed(Reason.AGENT_ERROR, str(error)) from None
        raise


async def _make_repository(directory: Path, user: Owner | None) -> None:
    """Make the directory a repository: OpenCode checks once whether it is one, and all workspaces are."""
    await in_thread(lambda _: _make_git_folder(directory))
    if user is not None:
        await user.hand_over(directory)


async def _empty_directory(directory: Path, user: Owner | None) -> None:
    """Remove what the boot left in the directory."""
    if isinstance(user, HostUser):
        await user.empty(directory)
    else:
        await in_thread(lambda _: _empty(directory))


async def _make_folders(root: Path, user: Owner | None, home: Path, *more: Path) -> None:
    """Create `root` and `home`; the agent's container creates `more`, too."""
    if isinstance(user, HostUser):
        await user.make(root, home, *more)
        return
    root.mkdir(mode=0o700, parents=True)
    home.mkdir(mode=0o700)
    if isinstance(user, AgentUser):
        root.chmod(0o711)  # lets the agent's user pass to its own folders


async def _undo(server: AgentServer | None, model_proxy: ModelProxy | None, root: Path, user: Owner | None) -> None:
    if server is not None:
        await server.stop(0.0)
    if model_proxy is not None:
        await model_proxy.close()
    await _remove_files(root, user)


async def _remove_files(root: Path, user: Owner | None) -> None:
    if not isinstance(user, HostUser):
        await discard_tree(root)
    if user is not None:
        await user.release()


async def _boot(server: AgentServer, clock: Clock, another: Callable[[int], bool]) -> None:
    """Send throw-away prompts, each in a session of its own, and delete the sessions.

    `another` returns whether to send one more after so many.
    """

    async def discard(draft: Draft) -> None:
        """Drop the draft."""

    try:
        async with asyncio.timeout(BOOT_SECONDS):
            for sent in count(1):
                agent = Agent(server, PromptSpec(server.spec.models[0], title="boot"), clock)
                await agent.run("ready?", discard)
                await server.client.delete_session(agent.session_id)
                if not another(sent):
                    return
    except TimeoutError:
        raise server.not_ready(f"OpenCode did not boot its directory within {BOOT_SECONDS:g} s") from None
    except OpenCodeError as error:
        raise server.not_ready(str(error)) from error
    except AgentFailed as error:
        if error.reason is not Reason.AGENT_ERROR:
            raise
        raise server.not_ready(error.message) from error


def _make_git_folder(directory: Path) -> None:
    # Equals what `git init` creates and OpenCode checks; a process for it would cost more than the files.
    directory.mkdir(mode=0o700, exist_ok=True)
    git = directory / ".git"
    for name in ("objects", "refs/heads"):
        (git / name).mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n")


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
