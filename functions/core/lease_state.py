"""Whether a worker has an execution: it has its lease."""

from __future__ import annotations

from ocf.events.execution_record import Record
from ocf.events.refs import ExecutionRef
from ocf.functions.runtime.bootstrap import Parts

#: Seconds. A worker that lives has renewed its lease after them, also when NATS has just come back: all leases have run
#: out then, and whoever looks only once takes a healthy run for a lost one.
SECOND_LOOK = 7.0


async def owned(parts: Parts, record: Record) -> bool:
    """Whether its lease is there."""
    return await parts.executions.get(ExecutionRef(record.project_id, record.execution_id).lease_key) is not None
