"""Route of the comparison of two executions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter

from ocf.events.base_model import ExecutionId
from ocf.events.errors import InvalidEvent, NotYetKnown
from ocf.events.execution_record import Record
from ocf.events.terminal_facts import duration_ms
from ocf.functions.core.execution_comparison import (
    PATCH_BYTES,
    Compared,
    Comparison,
    Steps,
    compare_patches,
    compare_steps,
)
from ocf.functions.gateway.context import Caller, Execution, ExecutionHandle, Gateway, Gw
from ocf.functions.gateway.output_reader import lines
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute

router = APIRouter(tags=["tasks"], route_class=StrictRoute)

#: Lines that are read before other calls get a turn.
_TURN = 256


@router.get("/tasks/{execution_id}/compare/{other}", response_model=Comparison)
async def compare(gateway: Gw, caller: Caller, found: Execution, other: ExecutionId) -> Comparison:
    """Compare two ended executions of a project: plan, tool calls, output, files, tokens, cost, time.

    What each did is shown from the first difference on. 409 while one of them has not ended.
    """
    against = await gateway.find(caller, other, found.project)
    records = [_ended(found), _ended(against)]
    outputs = [Steps(_chunks(gateway, one)) for one in (found, against)]
    try:
        steps = await compare_steps(*outputs)
    except (InvalidEvent, KeyError, TypeError, AttributeError, ValueError):
        raise Problem(502, "damaged-archive", "an archived output has a line that is not a chunk") from None
    patches = [await _patch(gateway, one, record) for one, record in zip((found, against), records, strict=True)]
    files, more = await asyncio.to_thread(compare_patches, *(patch for patch, _ in patches))
    differs = [
        *(["end"] if _end(records[0]) != _end(records[1]) else []),
        *steps.differs,
        *(["files"] if files else []),
    ]
    sides = [
        _side(record, output, missing)
        for record, output, (_, missing) in zip(records, outputs, patches, strict=True)
    ]  # fmt: skip
    return Comparison.model_validate(
        {
            "same": not differs,
            "differs": differs,
            "common_steps": steps.common,
            "a": sides[0],
            "b": sides[1],
            "rows": steps.rows,
            "steps_left_out": steps.left_out,
            "files": files,
            "files_left_out": more,
        }
    )


def _ended(found: ExecutionHandle) -> Record:
    """Return the record of an ended execution. Raises Problem (409) for another one."""
    if found.record is None or not found.record.terminal:
        what = f"execution {found.execution} is {found.state}; it can be compared once it has ended"
        raise Problem(409, "still-running", what, headers={"Retry-After": "2"})
    return found.record


async def _chunks(gateway: Gateway, found: ExecutionHandle) -> AsyncIterator[bytes]:
    number = 0
    async for line in lines(gateway, found):
        number += 1
        if number % _TURN == 0:
            await asyncio.sleep(0)
        yield line.data


async def _patch(gateway: Gateway, found: ExecutionHandle, record: Record) -> tuple[str, list[str]]:
    """Return the patch, up to the limit, and what is missing of it."""
    patch = b""
    try:
        async for piece in gateway.deps.store.stream(f"{found.prefix}/workspace.patch"):
            patch += piece
            if len(patch) > PATCH_BYTES:
                return patch[:PATCH_BYTES].decode("utf-8", "replace"), [f"the patch after {PATCH_BYTES} bytes"]
    except NotYetKnown:
        return "", ["the patch"] if record.diff.files else []
    return patch.decode("utf-8", "replace"), []


def _end(record: Record) -> tuple[object, ...]:
    return record.state, record.reason, record.output


def _side(record: Record, steps: Steps, missing: list[str]) -> Compared:
    ended = record.ended_at if record.started_at else None
    gone = ["the output"] if record.last_sequence and not steps.total else []
    return Compared(
        execution_id=record.execution_id,
        status=record.state,
        reason=record.reason,
        model=record.model,
        duration_ms=duration_ms(record, ended, record.waited_ms) if ended is not None else None,
        usage=record.usage,
        steps=steps.total,
        tool_calls=steps.tool_calls,
        calls=steps.calls,
        missing=[*gone, *(["the end of the output"] if steps.truncated else []), *missing],
    )
