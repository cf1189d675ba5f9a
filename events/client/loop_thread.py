"""An event loop in a thread of its own, for the client without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, Self, TypeVar

from ocf.events.client.gateway_retry import DEFAULT_PATIENCE
from ocf.events.client.tasks import AsyncGateway

T = TypeVar("T")


class LoopThread:
    """Runs the calls of an `AsyncGateway` in a thread, so that it works in scripts, notebooks and thread pools."""

    def __init__(
        self, url: str, *, token: str | None = None, project: str = "default", patience: float = DEFAULT_PATIENCE
    ) -> None:
        self._gateway = AsyncGateway(url, token=token, project=project, patience=patience)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="ocf-client", daemon=True)
        self._thread.start()
        started.wait()
        self._run(self._gateway.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._run(self._gateway.__aexit__())
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop = None

    def _serve(self, started: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            started.set()
            runner.run(self._stop.wait())

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of a call; an interrupt of the caller cancels it."""
        if self._loop is None:
            call.close()
            raise RuntimeError("the client is not connected: use it in a `with` statement")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        step: asyncio.Task[T | None] | None = None

        async def following() -> T | None:
            nonlocal step
            step = asyncio.ensure_future(anext(items, None))
            return await step

        async def close() -> None:
            if step is not None:  # an interrupted one may still close its connection
                await asyncio.wait({step})
            await items.aclose()

        try:
            while (item := self._run(following())) is not None:
                yield item
        finally:
            if self._loop is not None:
                self._run(close())
