"""Secret routes and their recording: exchanges are recorded, and in a rerun answered without any origin."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable

from ocf.events.redaction import MASK
from ocf.functions.execute.model_proxy.api_formats import error_body
from ocf.functions.execute.model_proxy.call_recording import RecordedReply
from ocf.functions.execute.model_proxy.http_server import Reply, Request
from ocf.functions.execute.model_proxy.played_call import Player
from ocf.functions.recording.canonical import PartTable
from ocf.functions.recording.line_types import Exchange
from ocf.functions.recording.model_call_recorder import Recorder
from ocf.functions.recording.playback import Answer

#: Why a request of a rerun that has no recorded answer is refused.
REFUSED = "the recording has no answer to this request, and a rerun reaches no network"
_BODILESS = (204, 304)
#: Exchanges that were open when the original ended, or whose client hung up.
_OPEN = ("refused", "gone")
_MASK = MASK.encode()


class RouteRecorder:
    """Records the exchanges of one attempt."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._number = 0

    async def record(
        self, route: str, path: str, request: Request, reply: Reply, work: Callable[[Reply], Awaitable[bool]]
    ) -> None:
        """Record what `work` answers to a request; it returns whether the answer is whole."""
        self._number += 1
        recorder, tape, number = self._recorder, self._recorder.exchange_tape(), self._number
        line = await _line(recorder.table, number, route, path, request)
        recorded = RecordedReply(reply, tape)
        outcome = "refused"
        try:
            outcome = "ok" if await work(recorded) else "cut"
        finally:
            outcome = "gone" if outcome == "refused" and reply.gone else outcome
            tape.redacted = _MASK in tape.answer
            recorder.end_exchange(tape, line.model_copy(update={"outcome": outcome}))


class RoutePlayer:
    """Answers the requests of a rerun from the recording of its original."""

    def __init__(self, player: Player) -> None:
        self._player = player

    async def play(self, route: str, path: str, request: Request, reply: Reply) -> bool:
        """Answer a request; return whether the answer is whole."""
        playback = self._player.playback
        asked = await _line(playback.table, 0, route, path, request)
        given = playback.exchange(route, asked.method, asked.target, asked.hash)
        if isinstance(given, Answer):
            self._player.on_end(given)
        if not isinstance(given, Exchange) or (given.status is None and given.outcome not in _OPEN):
            await reply.whole(502, error_body(REFUSED, "ocf_secret"))
            return True
        if given.status is not None:
            data = _body(given, asked.rpc_id)
            whole = given.outcome == "ok" and given.status not in _BODILESS and request.method != "HEAD"
            streams = given.content_type.startswith("text/event-stream")
            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.headers]
            await reply.start(given.status, given.content_type, len(data) if whole and not streams else None, headers)
            await reply.send(data)
        if given.outcome in _OPEN:
            await asyncio.Event().wait()  # until the agent hangs up, as it did then
        if given.outcome == "ok":
            await reply.end()
        else:
            reply.abort()
        return given.outcome == "ok"


async def _line(table: PartTable, number: int, route: str, path: str, request: Request) -> Exchange:
    target = (path or "/") + (f"?{request.query}" if request.query else "")
    body = bytes(request.body)
    # An agent's body may take long to parse.
    digest, rpc_id = await asyncio.to_thread(lambda: (table.digest("exchange", body), _rpc_id(body)))
    return Exchange(
        number=number,
        route=route,
        method=request.method,
        target=table.redacted(target.encode("latin-1", "replace")).decode("latin-1"),
        hash=digest,
        rpc_id=rpc_id,
    )


def _rpc_id(body: bytes) -> str | int | None:
    """Return the id of a JSON-RPC request; None of anything else."""
    try:
        value = json.loads(body) if b'"jsonrpc"' in body and len(body) <= 2**20 else None
    except (ValueError, RecursionError):
        return None
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None


def _body(given: Exchange, rpc_id: str | int | None) -> bytes:
    """Return the answer; that of a JSON-RPC request has the id of the request."""
    try:
        data = base64.b64decode(given.answer) if given.base64 else given.answer.encode("utf-8", "replace")
    except binascii.Error:
        data = b""
    if given.rpc_id is None or rpc_id is None or given.rpc_id == rpc_id:
        return data
    was, now = json.dumps(given.rpc_id).encode(), json.dumps(rpc_id).encode()
    return re.sub(rb'("id"\s*:\s*)' + re.escape(was) + rb"(?=\s*[,}])", lambda found: found[1] + now, data)
