"""The pool of warm servers: one is ready while nothing runs, and one is opened on demand when it does not fit."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from ocf.events.lifecycle import Reason
from ocf.events.ports import Clock
from ocf.functions.execute.agent.available_memory import available_memory
from ocf.functions.execute.agent.config import ServerSpec
from ocf.functions.execute.agent.opencode_api import OpenCodeError
from ocf.functions.execute.agent.opencode_model import AgentModel
from ocf.functions.execute.agent.warm_server import WarmServer, WarmServerConfig, open_warm_server
from ocf.functions.execute.sandbox import idle_priority
from ocf.functions.execute.sandbox.agent_host_client import Owner
from ocf.functions.execute.sandbox.process import AgentFailed
from ocf.functions.execute.sandbox.users import NoUser

log = structlog.get_logger()

#: OpenCode unloads a directory after 60 minutes without use and would boot it again, with the workspace in it.
MAX_AGE = 1800.0
MIN_FREE_BYTES = 1024**3
_WATCH_SECONDS = 5.0
_RAISE_SECONDS = 0.5
_MAX_BACKOFF = 60.0
_KNOWN_MODELS = 20


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
        #: Whether a run waits for the server that is being opened.
        self._demanded = False
        self._opened = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Return whether a server could be taken now."""
        return self._warm_server is not None

    def start(self) -> None:
        """Start keeping a server ready, in the background, unless that runs already."""
        if self._wanted and self._task is None:
            self._task = asyncio.create_task(self._keep_ready())

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
        if shared is not None and not self._not_opening.is_set():
            # The spare boot holds this process's only turn to boot, and would get it after this run.
            try:
                await self._stop()
            except BaseException:
                if user is not None:  # no server has it yet
                    await asyncio.shield(asyncio.ensure_future(user.release()))
                raise
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
        if not asked.issubset(self._models):
            # A server has one entry for each name: with another entry it is another model.
            names = {(one.provider, one.name) for one in asked}
            others = [one for one in self._models if (one.provider, one.name) not in names]
            self._models = [*asked, *others][:_KNOWN_MODELS]
        fits = self._plan.fits(spec) and asked <= self._known
        if fits:
            await self._join_opening()
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

    async def _join_opening(self) -> None:
        """Wait for the server that is being opened, if one is, and let it open as fast as one on demand."""
        if not self._not_opening.is_set():
            self._demanded = True
            self._plan.demand()
        while not self._not_opening.is_set():
            # All that this process has started belongs to that server. Again, because it may only just start.
            idle_priority.raise_tree(os.getpid())
            with suppress(TimeoutError):
                async with asyncio.timeout(_RAISE_SECONDS):
                    await self._not_opening.wait()

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

    async def _keep_ready(self) -> None:
        backoff = 1.0
        while (
            self._task is asyncio.current_task()
        ):  # a cancellation can be swallowed (`ocf.functions.core.asyncio_tasks`)
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
        self._demanded = False
        try:
            return await open_warm_server(self._plan, spec, self._clock, spare=True, demanded=lambda: self._demanded)
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
