"""`WS /tasks/{id}/stream?from=SEQ`: history, then live, each chunk once, in order, with every gap stated.

Messages are chunks, `{"seq","type","data","timestamp",...}`. The gateway's own messages have the sequence of the
previous chunk: `heartbeat` after a silence, `gap` when the reader is cut off, `end` (data: the final state) before the
regular close. Close codes: 1000 the execution has ended; 4401 the token has expired; 4408 the reader was too slow, the
reason names the sequence to resume `from`; 1013 the bus does not answer; 1011 the output cannot be read (a damaged
archive). Before the stream starts, errors are HTTP problem documents.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from ocf.events import subjects
from ocf.events.base_model import ExecutionId
from ocf.events.envelope import timestamp
from ocf.events.errors import OcfError, Retry
from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Message
from ocf.events.reorder import GapTimer, Line, line_in, seek
from ocf.functions.gateway.auth import Principal
from ocf.functions.gateway.context import AskedProject, ExecutionHandle, Gateway, gateway_of
from ocf.functions.gateway.output_reader import lines, reorderer, streamed
from ocf.functions.gateway.problems import Problem, problem_of
from ocf.functions.gateway.request_body import check_query

router = APIRouter()

PROTOCOL = "ocf.v1"
_BEARER = "bearer."
_YIELD_EVERY = 32
_QUERY = frozenset({"from", "project_id"})
EXPIRED, TOO_SLOW, TRY_LATER, FAILED = 4401, 4408, 1013, 1011
#: Seconds for the closing message to be sent; longer for a slow reader.
_CLOSE_SECONDS, _CLOSE_SECONDS_SLOW = 1.0, 30.0


class Cut(Exception):
    """The stream ends early: the close code and the reason for the reader."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@router.websocket("/tasks/{execution_id}/stream")
async def stream(
    socket: WebSocket,
    execution_id: ExecutionId,
    project_id: AskedProject,
    from_: Annotated[int, Query(alias="from", ge=1)] = 1,
) -> None:
    """Send history, then live output. Browsers cannot set headers; they send the token as subprotocol `bearer.JWT`."""
    gateway = await gateway_of(socket)
    try:
        check_query(socket.query_params, _QUERY)
        caller = await _admit(socket, gateway)
        found = await gateway.find(caller, execution_id, project_id)
    except Problem as problem:
        await socket.send_denial_response(problem.response(socket.url.path))
        return
    except OcfError as error:
        await socket.send_denial_response(problem_of(error).response(socket.url.path))
        return
    offered = socket.scope.get("subprotocols") or []
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    with gateway.metrics.streams.track_inprogress():
        await _serve(Viewer(socket, gateway, found, from_ - 1, caller))


async def _admit(socket: WebSocket, gateway: Gateway) -> Principal:
    tokens = [one.removeprefix(_BEARER) for one in socket.scope.get("subprotocols") or [] if one.startswith(_BEARER)]
    authorization = socket.headers.get("authorization") or (f"Bearer {tokens[0]}" if tokens else None)
    return await gateway.admit(authorization, socket.client.host if socket.client else "unknown")


async def _serve(viewer: Viewer) -> None:
    """Send until the execution ends, the reader leaves, or is cut off."""
    sending = asyncio.ensure_future(viewer.run())
    leaving = asyncio.ensure_future(_wait_disconnected(viewer.socket))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            return
        await sending
        await viewer.close(1000, "")
    except WebSocketDisconnect:
        return
    except Cut as cut:
        await viewer.close(cut.code, str(cut))
    except Retry as error:
        await viewer.close(TRY_LATER, f"{error}; resume from={viewer.last + 1}")
    except (Problem, OcfError) as error:
        await viewer.close(FAILED, str(error))
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _wait_disconnected(socket: WebSocket) -> None:
    """Return when the reader has disconnected; its messages are ignored."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        continue


class Viewer:
    """One reader of one execution. `last` is the sequence of the last chunk sent."""

    def __init__(
        self, socket: WebSocket, gateway: Gateway, found: ExecutionHandle, last: int, caller: Principal
    ) -> None:
        self.socket = socket
        self.last = last
        self._gateway = gateway
        self._found = found
        self._caller = caller
        self._order = reorderer(gateway, last + 1)
        self._gap_timer = GapTimer()
        self._at = 0  # stream sequence up to which everything was read or sent
        self._live: deque[Line] = deque()
        self._live_bytes = 0
        self._wake = asyncio.Event()
        self._fact_received = False  # a fact arrived: the record, which is written first, has its state

    async def run(self) -> None:
        """Send everything after `last`, until the execution has ended.

        Raises:
            Cut: the reader is too slow, or its token has expired.
            Unavailable: the bus does not answer.
        """
        project, execution = self._found.project, self._found.execution
        live, facts = subjects.live(project, execution), subjects.fact(project, execution, "*")
        async with self._gateway.deps.bus.listen(live, facts) as messages:
            # Subscribed first: messages that arrive while history is read wait in `_live`.
            listening = asyncio.ensure_future(self._listen(messages, live))
            try:
                await self._refresh_record()
                self._at = await self._place()
                await self._replay(lines(self._gateway, self._found, self._order.next))
                while not self._done():
                    await self._next()
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
        await self._send_message("end", self._found.state)

    async def _listen(self, messages: AsyncIterator[Message], live: str) -> None:
        async for message in messages:
            if message.subject == live:
                if (line := line_in(message)) is not None:
                    self._keep(line)
            else:
                self._fact_received = True
            self._wake.set()

    def _keep(self, line: Line) -> None:
        """Buffer a live line. Above a limit the oldest are dropped, and read from the stream again."""
        settings = self._gateway.settings
        self._live.append(line)
        self._live_bytes += len(line.data)
        while len(self._live) > settings.backlog or self._live_bytes > settings.backlog_bytes:
            self._pop()

    def _pop(self) -> Line:
        line = self._live.popleft()
        self._live_bytes -= len(line.data)
        return line

    def _done(self) -> bool:
        record = self._found.record
        return record is not None and record.terminal and not self._live and self.last >= record.last_sequence

    async def _next(self) -> None:
        """Send what has arrived; else wait, and after a silence check that nothing was missed."""
        self._wake.clear()
        while self._live:
            await self._send(self._order.feed(self._pop()))
        if len(self._order):
            await self._fill_gap()
        if self._fact_received:
            self._fact_received = False
            await self._refresh_record()
        if self._found.ended and not self._done():
            # The fact overtook the last chunks, or they were published while the connection was down.
            await self._replay(lines(self._gateway, self._found, self._order.next))
            return
        if self._done() or self._wake.is_set():
            return
        try:
            async with asyncio.timeout(self._timeout()):
                await self._wake.wait()
        except TimeoutError:
            self._check_token()
            if not len(self._order):
                await self._heartbeat()

    def _left(self) -> float | None:
        """Return the seconds until the caller's token expires; None when it does not."""
        expires = self._caller.expires_at
        return None if expires is None else expires - self._gateway.deps.clock.now().timestamp()

    def _timeout(self) -> float:
        """Return the seconds until the next action that no message triggers."""
        left, timeout = self._left(), self._gateway.settings.heartbeat
        if len(self._order):
            timeout = min(timeout, self._gap_timer.wait(self._order.next, asyncio.get_running_loop().time()))
        return timeout if left is None else max(0.0, min(timeout, left))

    async def _heartbeat(self) -> None:
        await self._fill()
        await self._refresh_record()
        await self._send_message("heartbeat")

    def _check_token(self) -> None:
        left = self._left()
        if left is not None and left <= 0:
            raise Cut(EXPIRED, f"the token has expired; resume from={self.last + 1}")

    async def _refresh_record(self) -> None:
        """Read the record: facts may have been published before the subscription, or during an outage.

        That of an execution which ended some time ago is in the archive; it does not change any more.
        """
        project, execution = self._found.project, self._found.execution
        record = await self._gateway.record(project, execution)
        if record is None:
            if await self._gateway.removed(project, execution):
                raise Cut(1000, "the execution was removed")
            if self._found.record is None or self._found.ended:
                return  # not recorded yet, or evicted
            record = await self._gateway.ended.record(ExecutionRef(project, execution))
            if record is None:
                raise Cut(1000, "the execution was removed")
        self._found = ExecutionHandle(project, execution, record)

    async def _fill(self, after: int | None = None) -> None:
        """Read from the stream what did not arrive live, after the last read position or after `after`."""
        async for line in streamed(self._gateway.deps.bus, self._found, after=self._at if after is None else after):
            self._at = max(self._at, line.at)
            await self._send(self._order.feed(line))

    async def _place(self) -> int:
        return await seek(self._gateway.deps.bus, self._found.project, self._found.execution, self._order.next)

    async def _fill_gap(self) -> None:
        """Look for a missing chunk now and then; state a gap after four reads (`ocf.events.reorder.GapTimer`)."""
        now = asyncio.get_running_loop().time
        if self._gap_timer.wait(self._order.next, now()):
            return
        await self._fill()
        missing = self._order.next if len(self._order) else None
        if not self._gap_timer.read(missing, now()) and not self._order.full:
            return
        # A worker's reconnect can swap two chunks: the missing one may lie before those sent.
        await self._fill(await self._place())
        if missing == self._order.next:
            await self._send(self._order.skip())

    async def _replay(self, source: AsyncIterator[Line]) -> None:
        async for line in source:
            await self._send(self._order.feed(line))

    async def _send(self, ready: list[Line]) -> None:
        for line in ready:
            self._check_token()
            await self._text(line.data.decode())
            if line.seq % _YIELD_EVERY == 0:
                await asyncio.sleep(0)  # sending to a fast reader does not yield: serve others in between
            self.last = line.last
            self._at = max(self._at, line.at)

    async def _send_message(self, kind: str, data: str = "") -> None:
        await self._text(self._message(kind, data))

    def _message(self, kind: str, data: str) -> str:
        at = timestamp(self._gateway.deps.clock.now())
        return json.dumps({"seq": self.last, "type": kind, "data": data, "timestamp": at})

    async def _text(self, text: str) -> None:
        limit = self._gateway.settings.slow_reader
        try:
            async with asyncio.timeout(limit):
                await self.socket.send_text(text)
        except TimeoutError:
            self._gateway.metrics.slow.inc()
            raise Cut(TOO_SLOW, f"nothing was read for {limit:g} s; resume from={self.last + 1}") from None

    async def close(self, code: int, reason: str) -> None:
        """Send the reason and close; a slow reader finds both later."""
        if self.socket.application_state is not WebSocketState.CONNECTED:
            return
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(_CLOSE_SECONDS_SLOW if code == TOO_SLOW else _CLOSE_SECONDS):
                if code == TOO_SLOW:
                    await self.socket.send_text(self._message("gap", reason))
                await self.socket.close(code, reason[:120])
