"""Warm servers: started and booted before their task is known.

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
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from ocf.events.lifecycle import Reason
from ocf.events.output import Draft
from ocf.events.ports import Clock
from ocf.functions.execute.agent.agent import Agent, PromptSpec
from ocf.functions.execute.agent.config import AgentModel, ServerSpec
from ocf.functions.execute.agent.opencode_api import OpenCodeError
from ocf.functions.execute.agent.resources import available_memory
from ocf.functions.execute.agent.server import AgentServer
from ocf.functions.execute.model_proxy import ModelProxy
from ocf.functions.execute.sandbox.agent_host_client import AgentHost, HostGone, HostUser, Owner
from ocf.functions.execute.sandbox.process import AgentFailed, AgentNotReady, StopReport
from ocf.functions.execute.sandbox.users import AgentUser, AgentUsers, NoUser
from ocf.functions.workspace import discard_tree
from ocf.functions.workspace.threads import in_thread

log = structlog.get_logger()

MakeBroker = Callable[[], Awaitable[ModelProxy]]

#: OpenCode unloads a directory after 60 minutes without use and would boot it again, with the workspace in it.
MAX_AGE = 1800.0
BOOT_SECONDS = 120.0
#: Opening a server takes a core for seconds, and the execution that took the last one has just begun.
REFILL_DELAY = 3.0
MIN_FREE_BYTES = 1024**3
_WATCH_SECONDS = 5.0
_MAX_BACKOFF = 60.0
_KNOWN_MODELS = 20


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

        Raises:
            OSError: the agent's container failed to do so.
        """
        if isinstance(self.user, HostUser):
            await self.user.open_up(self.directory)

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
    ready no sooner, and each takes longer. Five on two busy cores took 12 s each, two by two 6 s.
    """

    folder: Path
    spec: ServerSpec
    make_model_proxy: MakeBroker
    #: Each server gets a user of its own; None: all run as this process's user.
    users: AgentUsers | AgentHost | None = None
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext

    def fits(self, spec: ServerSpec) -> bool:
        """Return whether a server of this configuration satisfies `spec`, apart from models, which the pool checks."""
        mine, asked = self.spec, spec
        return all(
            getattr(mine, name) == getattr(asked, name)
            for name in ("sandboxed", "read_only", "connect_ports", "max_processes", "max_memory_bytes", "env", "tools")
        )


async def open_warm_server(
    plan: WarmServerConfig, spec: ServerSpec, clock: Clock, *, shared: Path | None = None, user: Owner | None = None
) -> WarmServer:
    """Start a server of `spec` (directory, home, user and proxy are replaced) and boot its empty directory.

    Args:
        plan: the pool's configuration.
        spec: the requested server.
        clock: for `opened_at`.
        shared: a directory to use in place; it is not booted.
        user: its current owner, which the server then owns.

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
        if isinstance(user, HostUser):
            await user.make(root, home, *(() if shared else (directory,)))
        else:
            root.mkdir(mode=0o700, parents=True)
            home.mkdir(mode=0o700)
        if isinstance(user, AgentUser):
            root.chmod(0o711)  # lets the agent's user pass to its own folders
        model_proxy = await plan.make_model_proxy()
        if shared is None:
            # OpenCode checks once whether a directory is a repository; all workspaces are.
            await in_thread(lambda _: _make_git_folder(directory))
            if user is not None:
                await user.hand_over(directory)
        own = replace(
            spec,
            directory=directory,
            home=home,
            user=user,
            model_proxy_url=model_proxy.base_url,
            model_proxy_token=model_proxy.token,
        )
        async with plan.turn():
            server = await AgentServer.start(own)
            if shared is None:
                await _boot(server, clock)
        if shared is None:
            if isinstance(user, HostUser):
                await user.empty(directory)
            else:
                await in_thread(lambda _: _empty(directory))
        return WarmServer(server, model_proxy, root, clock.monotonic(), user=user)
    except BaseException as error:
        # A separate task, so that a second cancellation leaves nothing behind either.
        await asyncio.shield(asyncio.ensure_future(_undo(server, model_proxy, root, user)))
        if isinstance(error, HostGone):
            raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from None
        if isinstance(error, NoUser):
            raise AgentFailed(Reason.AGENT_ERROR, str(error)) from None
        raise


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


async def _boot(server: AgentServer, clock: Clock) -> None:
    """Send the throw-away prompt and delete its session."""

    async def discard(draft: Draft) -> None:
        """Drop the draft."""

    agent = Agent(server, PromptSpec(server.spec.models[0], title="boot"), clock)
    try:
        async with asyncio.timeout(BOOT_SECONDS):
            await agent.run("ready?", discard)
            await server.client.delete_session(agent.session_id)
    except TimeoutError:
        raise server.not_ready(f"OpenCode did not boot its directory within {BOOT_SECONDS:g} s") from None
    except OpenCodeError as error:
        raise server.not_ready(str(error)) from error


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


class WarmPool:
    """Keeps one server ready while nothing runs, and opens one on demand when it does not fit.

    Models are fixed when a server starts. The pool begins with those of the configuration and adds each requested one,
    so that the next server knows it too.
    """

    def __init__(
        self, plan: WarmServerConfig, clock: Clock, *, wanted: bool, free: Callable[[], int] = available_memory
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._wanted = wanted
        self._free = free
        self._models: list[AgentModel] = list(plan.spec.models)
        self._warm_server: WarmServer | None = None
        #: Models of the server that is ready or being opened.
        self._known: frozenset[AgentModel] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._not_opening = asyncio.Event()
        self._not_opening.set()
        self._opened = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Return whether a server could be taken now."""
        return self._warm_server is not None

    def start(self, delay: float = 0.0) -> None:
        """Start keeping a server ready after `delay` seconds, in the background, unless that runs already."""
        if self._wanted and self._task is None:
            self._task = asyncio.create_task(self._keep_ready(delay))

    async def user_of(self, shared: Path) -> Owner | None:
        """Take the user for an execution in a shared folder, with the folder's files; None: this process's own.

        Raises:
            AgentFailed: no user is free.
        """
        if self._plan.users is None:
            return None
        try:
            return await self._plan.users.take_shared(shared, self._plan.folder / uuid.uuid4().hex)
        except NoUser as error:
            raise AgentFailed(Reason.AGENT_ERROR, str(error)) from None

    async def acquire(self, spec: ServerSpec, *, shared: Path | None = None, user: Owner | None = None) -> WarmServer:
        """Return a server that satisfies `spec`: the warm one, or one opened now.

        Args:
            spec: the requested server; its directory, home and proxy are ignored.
            shared: a directory to use in place. It is not empty at boot, so its own OpenCode plugins are loaded (inside
                the sandbox).
            user: the owner of `shared`.

        Raises:
            AgentFailed: OpenCode cannot be started.
        """
        warm_server = await self.take(spec) if shared is None else None
        return (
            warm_server
            if warm_server is not None
            else await open_warm_server(self._plan, spec, self._clock, shared=shared, user=user)
        )

    async def take(self, spec: ServerSpec) -> WarmServer | None:
        """Return the warm server if it satisfies `spec`, waiting for one that is being opened.

        The caller closes it, and calls `start` when another may take its place.
        """
        asked = {_plain(model) for model in spec.models}
        self._models = [*asked.difference(self._models), *self._models][:_KNOWN_MODELS]
        fits = self._plan.fits(spec) and asked <= self._known
        if fits:
            await self._not_opening.wait()
        elif self._warm_server is not None:
            return None  # it stays for the next task
        warm_server, self._warm_server = self._warm_server, None
        try:
            await self._stop()
            if warm_server is not None:
                warm_server.warm = await self._responds(warm_server)
        finally:
            if warm_server is not None and not warm_server.warm:
                # A separate task, so that a cancellation leaves nothing behind.
                await asyncio.shield(asyncio.ensure_future(warm_server.close()))
        return warm_server if warm_server is not None and warm_server.warm else None

    async def wait_ready(self) -> None:
        """Wait until a server is ready."""
        await self._opened.wait()

    async def close(self) -> None:
        """End a server that was not taken."""
        await self._stop()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.shield(asyncio.gather(task, return_exceptions=True))
        self._known = frozenset()

    async def _keep_ready(self, delay: float) -> None:
        await self._clock.sleep(delay)
        backoff = 1.0
        while (
            self._task is asyncio.current_task()
        ):  # a cancellation can be swallowed (`ocf.functions.core.cancellation`)
            if self._free() < MIN_FREE_BYTES:
                await self._clock.sleep(_WATCH_SECONDS)
                continue
            try:
                warm_server = await self._open()
            except (AgentFailed, OSError) as error:
                log.warning("warm slot not opened", action="slots.failed", reason=str(error), retry_seconds=backoff)
                await self._clock.sleep(backoff)
                backoff = min(_MAX_BACKOFF, backoff * 2)
                continue
            backoff = 1.0
            await self._offer(warm_server)

    async def _offer(self, warm_server: WarmServer) -> None:
        """Offer the server until it is taken or no longer good."""
        offered = self._task is asyncio.current_task()
        try:
            if offered:
                self._warm_server = warm_server
                self._opened.set()
                log.info("warm slot ready", action="slots.ready")
                log.info(
                    "warm slot discarded", action="slots.discarded", reason=await self._discard_reason(warm_server)
                )
        finally:
            self._opened.clear()
            if not offered or self._warm_server is warm_server:  # not taken
                self._warm_server = None
                await asyncio.shield(asyncio.ensure_future(warm_server.close()))

    async def _open(self) -> WarmServer:
        spec = replace(self._plan.spec, models=tuple(self._models))
        self._known = frozenset(spec.models)
        self._not_opening.clear()
        try:
            return await open_warm_server(self._plan, spec, self._clock)
        finally:
            self._not_opening.set()

    async def _discard_reason(self, warm_server: WarmServer) -> str:
        """Return why the server is to be discarded, once that is so; running work needs the memory more."""
        dead = asyncio.ensure_future(warm_server.server.process.exited())
        try:
            while not dead.done():
                if self._free() < MIN_FREE_BYTES:
                    return "memory"
                if self._clock.monotonic() - warm_server.opened_at > MAX_AGE:
                    return "age"
                await asyncio.wait({dead}, timeout=_WATCH_SECONDS)
            return f"it ended with {dead.result()}"
        finally:
            dead.cancel()

    async def _responds(self, warm_server: WarmServer) -> bool:
        try:
            return bool(await warm_server.server.client.version())
        except OpenCodeError as error:
            log.warning("warm slot does not answer", action="slots.silent", reason=str(error))
            return False


def _plain(model: AgentModel) -> AgentModel:
    """Return the model without the values that the model proxy sets per call."""
    return replace(model, temperature=None, max_tokens=None)
