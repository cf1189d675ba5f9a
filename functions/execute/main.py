"""Entry point of the execute function for functions-framework (`FUNCTION_TARGET=execute`)."""

from __future__ import annotations

from contextlib import AsyncExitStack

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

from ocf.events.envelope import Event
from ocf.events.errors import Unavailable
from ocf.functions.execute.context import WorkerContext, open_context
from ocf.functions.execute.worker import Worker, worker_of
from ocf.functions.runtime.bootstrap import Dependencies
from ocf.functions.runtime.function import Function
from ocf.functions.runtime.health import Check
from ocf.functions.workers import parent_channel


class Execute(Function):
    """The execute function: the worker of this process."""

    def __init__(self) -> None:
        super().__init__(self._execute)
        self._context: WorkerContext | None = None
        self._worker: Worker | None = None
        self._open = AsyncExitStack()

    async def start(self, deps: Dependencies) -> None:
        """Start the worker. Raises SandboxUnavailable: `SANDBOX=required`, and this kernel does not support it."""
        self._context = await self._open.enter_async_context(open_context(deps))
        self._worker = worker_of(self._context)
        parent_channel.register_work(self._worker)
        await super().start(deps)

    async def stop(self, grace: float = 0.0) -> None:
        """Let the current run end, for at most `grace` seconds, then release it.

        No request may hold the run any more: when a node drains, the dispatcher that waited for it goes as well.
        """
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.drained(grace)
            await worker.stop()
        await super().stop(grace)
        await self._open.aclose()

    def leave(self) -> None:
        """Begin to stop: requests may hold the server for as long as the current run."""
        if self._worker is not None:
            self._worker.leave()

    def ready(self) -> dict[str, Check]:
        """Return the checks of the agent, its files and the boundary between executions."""
        context = self._context
        if context is None:
            return {}
        return {
            "opencode": context.opencode_present,
            "workspace": context.workspace_writable,
            "boundary": context.boundary_in_force,
        }

    async def _execute(self, event: Event) -> None:
        if self._worker is None:
            raise Unavailable("this worker is shutting down")
        await self._worker.execute(event)


function = Execute()


@functions_framework.aio.http
async def execute(request: Request) -> Response:
    """Handle the CloudEvent of a request; see `ocf.functions.execute.worker`."""
    return await function.respond(request)
