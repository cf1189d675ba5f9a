"""Whether a worker holds an execution: its lease is there."""

from __future__ import annotations

from ocf.events.ports import Bucket
from ocf.events.refs import ExecutionRef

#: Seconds. After an outage of NATS all leases have expired, and a live worker renews its own within this time. A caller
#: that looks only once takes a healthy run for a lost one.
RECHECK_SECONDS = 7.0


async def is_leased(executions: Bucket, ref: ExecutionRef) -> bool:
    """Return whether the lease of this execution is there."""
    return await executions.get(ref.lease_key) is not None
