"""Servers that were started and booted before their task is known.

A slot is one OpenCode server in its sandbox, its own broker, and an empty directory. OpenCode boots a directory at the
first prompt in it, so a throw-away one is sent, which the broker answers itself, at no cost. Then the workspace is
put into the directory. A slot serves one execution of one tenant and is thrown away with it.

Every execution runs in a slot, also when none was ready and it is opened on demand: OpenCode 1.18 reads a directory's
plugins and opencode.json when it boots it, even with OPENCODE_DISABLE_PROJECT_CONFIG (that switch holds for its
older half only). A directory that is empty at that moment cannot be hostile.
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

#: OpenCode forgets a directory that was not used for 60 minutes and would boot it again, with the workspace in it.
MAX_AGE = 1800.0
BOOT_SECONDS = 120.0
#: A new slot takes a core for seconds; the execution that took the last one has just begun.
REFILL_DELAY = 3.0
MIN_FREE_BYTES = 1024**3
_WATCH_SECONDS = 5.0
_MAX_BACKOFF = 60.0
_KNOWN_MODELS = 20


@dataclass
class WarmServer:
    """A booted server, the directory its workspace goes to (empty, mode 0700), and the broker it talks to.

    The broker has no target yet: `broker.assign`. `warm` says whether it was ready before it was asked for.
    """

    server: AgentServer
    broker: ModelProxy
    root: Path
    opened_at: float
    warm: bool = False
    user: Owner | None = None

    async def own(self, path: Path) -> None:
        """Give what this process has put below `path` to the agent's user, where it has one."""
        if self.user is not None:
            await self.user.own_tree(path)

    async def open_up(self) -> None:
        """Make its workspace readable for this process, once its processes are gone. Raises OSError."""
        if isinstance(self.user, HostUser):
            await self.user.open_up(self.directory)

    @property
    def directory(self) -> Path:
        """Where the workspace goes."""
        return self.server.spec.directory

    async def close(self, grace: float = 0.0) -> StopReport:
        """End every process of it, free the port, remove its files. Safe to call again."""
        report = await self.server.stop(grace)
        await self.broker.close()
        await _put_away_files(self.root, self.user)
        return report


@dataclass(frozen=True)
class WarmServerConfig:
    """How slots of a worker are opened: `spec` without its directory, home and broker, which each slot has of its own.

    `folder` is private to this worker. `turn`: more servers at once than there are processors are ready no sooner, and
    each takes longer: five on two busy cores took 12 s each, two by two 6 s.
    """

    folder: Path
    spec: ServerSpec
    make_broker: MakeBroker
    #: Each slot has one of its own; None: all are this process's user.
    users: AgentUsers | AgentHost | None = None
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext

    def fits(self, spec: ServerSpec) -> bool:
        """Whether a slot of this plan can serve what `spec` asks for; its models are looked at by the pool."""
        mine, asked = self.spec, spec
        return all(
            getattr(mine, name) == getattr(asked, name)
            for name in ("sandboxed", "read_only", "connect_ports", "max_processes", "max_memory_bytes", "env", "tools")
        )


async def open_slot(
    plan: WarmServerConfig, spec: ServerSpec, clock: Clock, *, shared: Path | None = None, user: Owner | None = None
) -> WarmServer:
    """Start a server of `spec` (its directory, home, user and broker are replaced), and boot its empty directory.

    A `shared` directory is used as it is, and not booted; `user` then is who it belongs to now. It goes with the slot.

    Raises:
        AgentFailed: it did not start or boot (AgentNotReady: in time); nothing is left of it.
    """
    root = plan.folder / uuid.uuid4().hex
    directory, home = shared or root / "workspace", root / "home"
    broker: ModelProxy | None = None
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
            root.chmod(0o711)  # to what is inside and its user's own
        broker = await plan.make_broker()
        if shared is None:
            # OpenCode asks once whether a directory is a repository; all that come here are.
            await in_thread(lambda _: _lay_out_git(directory))
            if user is not None:
                await user.hand_over(directory)
        own = replace(
            spec, directory=directory, home=home, user=user, broker_url=broker.base_url, broker_token=broker.token
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
        return WarmServer(server, broker, root, clock.monotonic(), user=user)
    except BaseException as error:
        # A task of its own: who is cancelled once more meanwhile leaves nothing behind either.
        await asyncio.shield(asyncio.ensure_future(_undo(server, broker, root, user)))
        if isinstance(error, HostGone):
            raise AgentNotReady(Reason.AGENT_ERROR, str(error)) from None
        if isinstance(error, NoUser):
            raise AgentFailed(Reason.AGENT_ERROR, str(error)) from None
        raise


async def _undo(server: AgentServer | None, broker: ModelProxy | None, root: Path, user: Owner | None) -> None:
    if server is not None:
        await server.stop(0.0)
    if broker is not None:
        await broker.close()
    await _put_away_files(root, user)


async def _put_away_files(root: Path, user: Owner | None) -> None:
    if not isinstance(user, HostUser):
        await discard_tree(root)
    if user is not None:
        await user.release()


async def _boot(server: AgentServer, clock: Clock) -> None:
    """Send the throw-away prompt and forget it."""

    async def unheard(draft: Draft) -> None:
        """Nobody listens."""

    agent = Agent(server, PromptSpec(server.spec.models[0], title="boot"), clock)
    try:
        async with asyncio.timeout(BOOT_SECONDS):
            await agent.run("ready?", unheard)
            await server.client.delete_session(agent.session_id)
    except TimeoutError:
        raise server.not_ready(f"OpenCode did not boot its directory within {BOOT_SECONDS:g} s") from None
    except OpenCodeError as error:
        raise server.not_ready(str(error)) from error


def _lay_out_git(directory: Path) -> None:
    # What `git init` makes and OpenCode looks for; a process for it would cost more than the files.
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
    """Keeps one slot ready while nothing runs, and opens one on demand when it does not fit.

    Models are fixed when a server starts. It begins with those of the plan and adds each that is asked for, so that the
    next slot knows it too.
    """

    def __init__(
        self, plan: WarmServerConfig, clock: Clock, *, wanted: bool, free: Callable[[], int] = available_memory
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._wanted = wanted
        self._free = free
        self._models: list[AgentModel] = list(plan.spec.models)
        self._slot: WarmServer | None = None
        #: The models of the slot that is ready or is being opened.
        self._known: frozenset[AgentModel] = frozenset()
        self._keeping: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._opened = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether it could be taken now."""
        return self._slot is not None

    def start(self, delay: float = 0.0) -> None:
        """Begin to keep one ready after `delay` seconds, in the background, unless it does already."""
        if self._wanted and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(delay))

    async def user_of(self, shared: Path) -> Owner | None:
        """The user that an execution in a shared folder has, with the folder's files; None: this process's own.

        Raises:
            AgentFailed: there is none now.
        """
        if self._plan.users is None:
            return None
        try:
            return await self._plan.users.take_shared(shared, self._plan.folder / uuid.uuid4().hex)
        except NoUser as error:
            raise AgentFailed(Reason.AGENT_ERROR, str(error)) from None

    async def acquire(self, spec: ServerSpec, *, shared: Path | None = None, user: Owner | None = None) -> WarmServer:
        """A slot that serves `spec` (directory, home and broker of it are ignored): the warm one, or one opened now.

        `shared` is a directory to be used in place: it is never empty at boot, so its own OpenCode plugins are loaded
        (inside the sandbox).

        Raises:
            AgentFailed: OpenCode cannot be started.
        """
        slot = await self.take(spec) if shared is None else None
        return slot if slot is not None else await open_slot(self._plan, spec, self._clock, shared=shared, user=user)

    async def take(self, spec: ServerSpec) -> WarmServer | None:
        """The warm slot if it serves `spec`; one that is just being opened is waited for. Whoever gets it closes it,
        and says `start` when another may take its place."""
        asked = {_plain(model) for model in spec.models}
        self._models = [*asked.difference(self._models), *self._models][:_KNOWN_MODELS]
        fits = self._plan.fits(spec) and asked <= self._known
        if fits:
            await self._settled.wait()
        elif self._slot is not None:
            return None  # it stays for the next
        slot, self._slot = self._slot, None
        try:
            await self._stop()
            if slot is not None:
                slot.warm = await self._answers(slot)
        finally:
            if slot is not None and not slot.warm:
                # A task of its own: who is cancelled meanwhile leaves nothing of it behind.
                await asyncio.shield(asyncio.ensure_future(slot.close()))
        return slot if slot is not None and slot.warm else None

    async def wait_ready(self) -> None:
        """Until one is ready."""
        await self._opened.wait()

    async def close(self) -> None:
        """End the one that nobody took."""
        await self._stop()

    async def _stop(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.shield(asyncio.gather(keeping, return_exceptions=True))
        self._known = frozenset()

    async def _keep(self, delay: float) -> None:
        await self._clock.sleep(delay)
        backoff = 1.0
        while (
            self._keeping is asyncio.current_task()
        ):  # a cancellation can be swallowed (`ocf.functions.core.cancellation`)
            if self._free() < MIN_FREE_BYTES:
                await self._clock.sleep(_WATCH_SECONDS)
                continue
            try:
                slot = await self._open()
            except (AgentFailed, OSError) as error:
                log.warning("warm slot not opened", action="slots.failed", reason=str(error), retry_seconds=backoff)
                await self._clock.sleep(backoff)
                backoff = min(_MAX_BACKOFF, backoff * 2)
                continue
            backoff = 1.0
            await self._offer(slot)

    async def _offer(self, slot: WarmServer) -> None:
        """Let it be taken for as long as it is good."""
        offered = self._keeping is asyncio.current_task()
        try:
            if offered:
                self._slot = slot
                self._opened.set()
                log.info("warm slot ready", action="slots.ready")
                log.info("warm slot discarded", action="slots.discarded", reason=await self._spent(slot))
        finally:
            self._opened.clear()
            if not offered or self._slot is slot:  # and nobody took it
                self._slot = None
                await asyncio.shield(asyncio.ensure_future(slot.close()))

    async def _open(self) -> WarmServer:
        spec = replace(self._plan.spec, models=tuple(self._models))
        self._known = frozenset(spec.models)
        self._settled.clear()
        try:
            return await open_slot(self._plan, spec, self._clock)
        finally:
            self._settled.set()

    async def _spent(self, slot: WarmServer) -> str:
        """Why nobody is to get it any more, as soon as that is so; running work needs the memory more."""
        dead = asyncio.ensure_future(slot.server.process.exited())
        try:
            while not dead.done():
                if self._free() < MIN_FREE_BYTES:
                    return "memory"
                if self._clock.monotonic() - slot.opened_at > MAX_AGE:
                    return "age"
                await asyncio.wait({dead}, timeout=_WATCH_SECONDS)
            return f"it ended with {dead.result()}"
        finally:
            dead.cancel()

    async def _answers(self, slot: WarmServer) -> bool:
        try:
            return bool(await slot.server.client.version())
        except OpenCodeError as error:
            log.warning("warm slot does not answer", action="slots.silent", reason=str(error))
            return False


def _plain(model: AgentModel) -> AgentModel:
    """The model without what the broker sets per call."""
    return replace(model, temperature=None, max_tokens=None)
