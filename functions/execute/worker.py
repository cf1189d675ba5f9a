"""The worker: how many executions run here, which, and what happens when it must stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from events import dataref
from events.envelope import Event, decode, parse
from events.errors import Busy, Drop, NotItsTurn, NotYetKnown, OcfError, Unavailable
from events.models import Cleanup, Execute
from events.ports import Message
from functions import metrics, workspace
from functions.common.commands import command, ids_of
from functions.common.sessions import Sessions
from functions.execute.run import Run, leftovers
from functions.execute.shop import Shop
from functions.execute.verdict import Verdict

log = structlog.get_logger()


class Worker:
    """One per process. `MAX_CONCURRENT_TASKS` at once; beyond that 429, and the dispatcher waits."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def running(self) -> int:
        """Executions that run here now."""
        return len(self._runs)

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._draining

    async def execute(self, event: Event) -> None:
        """Take `dev.ocf.task.execute.v1`; returns when the execution has ended.

        A request that breaks off (the dispatcher restarts) does not end the run; the redelivery joins it.

        Raises:
            Busy: no slot is free.
            NotItsTurn: its project has its share, or its session runs another.
            Conflict: another worker owns it.
            Drop: it has ended.
            Unavailable: this worker is shutting down.
        """
        project, execution = ids_of(event)
        await self._joined(execution)
        if self._draining:
            raise Unavailable("this worker is shutting down")
        await self._must_be_open(project, execution)
        event = await dataref.resolve(event, f"{project}/{execution}", self._shop.parts.store)
        task = command(event, Execute)
        await self._must_be_its_turn(task)
        await self._joined(execution)  # a second delivery of it may have come in between
        self._must_have_room(project)
        if self._draining:  # told so in between: nobody would look for this run any more
            raise Unavailable("this worker is shutting down")
        # No await from here until it is in the list: another request would take the same slot.
        run = Run(self._shop, task, event)
        self._runs[execution] = run
        metrics.running.set(len(self._runs))
        self._tasks[execution] = asyncio.create_task(self._run(run))
        await asyncio.shield(self._tasks[execution])

    async def _joined(self, execution: str) -> None:
        """Where it runs here already, wait for its end. Raises Drop then, or what the run raises: it may have been
        handed on, and then this delivery is the one that brings it to another worker."""
        if execution in self._tasks:
            await asyncio.shield(self._tasks[execution])
            raise Drop(f"execution {execution} has ended")

    async def _must_be_open(self, project: str, execution: str) -> None:
        record = await self._shop.parts.records.get(project, execution)
        if record is None:
            raise Drop(f"execution {execution} was deleted")
        if record.terminal:
            await self._shop.parts.records.publish_outbox(record)
            raise Drop(f"execution {execution} is {record.state.value} already")

    def _must_have_room(self, project: str) -> None:
        settings = self._shop.parts.settings
        quota = settings.max_project_tasks
        # Before the slots: who waits for one of those holds a place in the dispatcher, which others could use.
        if quota and sum(run.task.project_id == project for run in self._runs.values()) >= quota:
            raise NotItsTurn(f"project {project} runs {quota} already (MAX_PROJECT_TASKS)")
        if len(self._runs) >= settings.max_concurrent_tasks:
            raise Busy(f"all {settings.max_concurrent_tasks} slots are taken (MAX_CONCURRENT_TASKS)")

    async def _must_be_its_turn(self, task: Execute) -> None:
        """One execution at a time per session, in the order of their submits."""
        if task.session_id is None:
            return
        parts = self._shop.parts
        sessions = Sessions(parts.sessions, parts.clock)
        try:
            found = await sessions.first(task.project_id, task.session_id, parts.records)
            if task.execution_id not in found.queue and found.state == "open":
                # Somebody looked at the queue before this one's record was there, and took it for deleted.
                found = await sessions.join(task.project_id, task.session_id, task.execution_id)
        except NotYetKnown:
            return  # destroyed: the run says so, and ends
        if found.queue and found.queue[0] != task.execution_id:
            raise NotItsTurn(f"session {task.session_id} runs {found.queue[0]}")

    async def _run(self, run: Run) -> None:
        try:
            await run.run()
        finally:
            del self._runs[run.task.execution_id], self._tasks[run.task.execution_id]
            metrics.running.set(len(self._runs))

    async def tidy(self) -> None:
        """Remove the files of executions that an earlier process of this worker left."""
        for path in leftovers(self._shop.parts.settings.state_dir, set(self._runs)):
            log.info("leftover removed", action="worker.leftover_removed", execution_id=path.name)
            await workspace.discard_tree(path)

    async def hear_cleanups(self, messages: AsyncIterator[Message]) -> None:
        """Remove an execution's files when it is cleaned up, wherever else that is handled."""
        async for message in messages:
            try:
                wish = parse(decode(message.headers, message.data))
            except OcfError:
                log.info("command ignored", action="worker.command_ignored", subject=message.subject)
                continue
            if isinstance(wish, Cleanup) and wish.execution_id not in self._runs:
                path = self._shop.parts.settings.state_dir / wish.execution_id
                await workspace.discard_tree(path)

    def drain(self) -> None:
        """Take nothing new."""
        self._draining = True

    async def drained(self, grace: float) -> None:
        """Take nothing new, and let what runs end by itself, for at most `grace` seconds."""
        self.drain()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=max(0.0, grace))

    async def stop(self) -> None:
        """Hand on what still runs: its processes end, its lease is freed, its command is delivered again."""
        self.drain()
        for run in self._runs.values():
            run.judge.decide(Verdict(None, "this worker is shutting down"))
        if self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)


#: What `hear_cleanups` listens to.
CLEANUPS = "ocf.cmd.cleanup.*.*"
