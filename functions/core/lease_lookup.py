"""Check of an execution's lease, which exists while a worker owns the execution."""

from __future__ import annotations

from ocf.events.execution_ref import ExecutionRef
from ocf.events.ports import Bucket

#: Seconds until a second check. After an outage of NATS all leases have expired, and a live worker re-creates its own
#: within this time. A caller that checks only once would take a running execution for a lost one.
RECHECK_SECONDS = 7.0


async def is_leased(executions: Bucket, ref: ExecutionRef) -> bool:
    """Return whether the execution has a lease."""
    return await executions.get(ref.lease_key) is not None
