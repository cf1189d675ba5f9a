"""The client without asyncio: an interrupt of the caller stays one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from ocf.events.client import loop_thread
from ocf.events.client.loop_thread import LoopThread


class Gateway:
    """A gateway whose stream says one word, then waits; it takes a moment to close its connection."""

    def __init__(self, *_: object, **__: object) -> None:
        self.closed = False

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        """It has nothing to close."""

    async def watch(self) -> AsyncGenerator[str, None]:
        """The stream."""
        try:
            yield "word"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            self.closed = True


class Client(LoopThread):
    """The client, with that gateway."""

    def watch(self) -> Iterator[str]:
        """The stream."""
        stream: Any = self._gateway
        return self._iterate(stream.watch())


def test_an_interrupt_while_a_stream_is_read_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is closed first. `except KeyboardInterrupt` of a caller may cancel the execution."""
    monkeypatch.setattr(loop_thread, "AsyncGateway", Gateway)
    with Client("http://h") as client:
        words = client.watch()
        assert next(words) == "word"
        result = Future.result
        interrupted: list[bool] = []

        def interrupt(future: Any, timeout: float | None = None) -> Any:
            if not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            return result(future, timeout)

        monkeypatch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(words)
        gateway: Any = client._gateway
        assert gateway.closed
