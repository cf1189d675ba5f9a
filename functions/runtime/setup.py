"""Setup of streams, buckets (`ocf.events.streams`) and the database: `python -m ocf.functions.runtime.setup`.

Idempotent: existing streams are updated in place, and their messages stay.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from nats.aio.client import ServerVersion

from ocf.events import dead_letters, subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.errors import OcfError, Unavailable
from ocf.events.streams import BUCKETS, STREAMS, BucketSpec, StreamSpec
from ocf.functions.core.cleanup_schedules import EVICTION, RETENTION, SWEEP, ensure_schedule
from ocf.functions.core.open_executions import OpenExecutions
from ocf.functions.database import rebuild
from ocf.functions.database.migrate import filled, migrate
from ocf.functions.observability import logs
from ocf.functions.runtime import bootstrap
from ocf.functions.settings.settings import Settings, load_or_exit

_NANOSECONDS = 1_000_000_000
_NOT_FOUND = 10059
_API_TIMEOUT = 10.0
#: The first with cron schedules and their time zones (ADR-51).
_LEAST_VERSION = (2, 14)


def stream_config(spec: StreamSpec, replicas: int) -> dict[str, Any]:
    """Return the server's configuration of a stream (JetStream API, ADR-8, ADR-31, ADR-51)."""
    config: dict[str, Any] = {
        "name": spec.name,
        "description": spec.description,
        "subjects": list(spec.subjects),
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_age": spec.max_age * _NANOSECONDS,
        "max_bytes": spec.max_bytes or -1,
        "max_msg_size": spec.max_msg_size or -1,
        "duplicate_window": spec.duplicate_window * _NANOSECONDS,
        "allow_direct": True,
    }
    if spec.republish is not None:
        source, destination = spec.republish
        config["republish"] = {"src": source, "dest": destination}
    if spec.schedules:
        # Schedules need TTLs, and the server then enables rollups: a fired schedule replaces itself (ADR-51). A client
        # that may publish any command can therefore empty the stream; `nats_auth.PROJECT_BACKEND` may publish none.
        config |= {"allow_msg_schedules": True, "allow_msg_ttl": True, "allow_rollup_hdrs": True}
    return config


def bucket_config(spec: BucketSpec, replicas: int) -> dict[str, Any]:
    """Return the configuration of a key-value bucket's stream (ADR-8), with a TTL per key (ADR-43).

    `subject_delete_marker_ttl` is not set: with it, `get` of an expired key returns a marker and `create` fails.
    """
    return {
        "name": f"KV_{spec.name}",
        "description": spec.description,
        "subjects": [f"$KV.{spec.name}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        # Rollups keep one value per key; for the reason see events/adapters/nats/bucket.py.
        "max_msgs_per_subject": -1,
        "max_msg_size": 1024 * 1024,
        "discard": "new",
        "duplicate_window": 120 * _NANOSECONDS,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        **spec.options,
    }


async def apply(bus: NatsBus, replicas: int = 1, *, output_age: int = 0, output_bytes: int = 0) -> list[str]:
    """Create or update all streams and buckets; return their names.

    Args:
        bus: A connection with administrative permissions.
        replicas: Replicas of each stream and bucket.
        output_age: Minimum age of output in seconds.
        output_bytes: Maximum size of the output of all executions in bytes, beyond which the oldest is removed; 0 means
            unlimited.

    Raises:
        Unavailable: The server refuses or does not answer.
    """
    specs = [
        replace(spec, max_age=max(spec.max_age, output_age), max_bytes=output_bytes)
        if spec.name == subjects.OUTPUT
        else spec
        for spec in STREAMS
    ]
    configs = [stream_config(spec, replicas) for spec in specs]
    configs += [bucket_config(spec, replicas) for spec in BUCKETS]
    new = {config["name"] for config in configs if await _apply(bus, config)}
    records = f"KV_{subjects.EXECUTIONS_BUCKET}" not in new
    await OpenExecutions(NatsBucket(bus, subjects.OPEN_BUCKET)).expect_upgrade(datetime.now(UTC), records=records)
    return [config["name"] for config in configs]


async def _apply(bus: NatsBus, config: dict[str, Any]) -> bool:
    """Update a stream, or create it; return whether it is new."""
    name = config["name"]
    answer = await _call(bus, f"STREAM.UPDATE.{name}", config)
    new: bool = answer.get("error", {}).get("err_code") == _NOT_FOUND
    if new:
        answer = await _call(bus, f"STREAM.CREATE.{name}", config)
    if "error" in answer:
        raise Unavailable(f"stream {name}: {answer['error'].get('description', answer['error'])}")
    return new


async def _call(bus: NatsBus, call: str, config: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = await bus.nc.request(f"$JS.API.{call}", json.dumps(config).encode(), timeout=_API_TIMEOUT)
    except (TimeoutError, OSError) as error:
        raise Unavailable(f"{call}: {error or 'no answer'}") from None
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


def check_version(version: ServerVersion) -> None:
    """Refuse a server without cron schedules.

    Raises:
        Unavailable: The server is too old; names both versions.
    """
    if (version.major, version.minor) < _LEAST_VERSION:
        least = ".".join(map(str, _LEAST_VERSION))
        raise Unavailable(f"nats-server {version.major}.{version.minor} is older than {least}, which schedules need")


async def run(settings: Settings) -> int:
    """Set up the NATS server and the database of `settings`; return the exit status."""
    try:
        unfilled = await asyncio.to_thread(migrate, settings.history_url())
        async with bootstrap.connected(settings, "setup") as bus:
            check_version(bus.nc.connected_server_version)
            longest = max((round(rule.output.total_seconds()) for rule in settings.retention), default=0)
            names = await apply(
                bus, settings.stream_replicas, output_age=longest, output_bytes=settings.output_stream_bytes
            )
            await dead_letters.move_old(bus)
            # For executions of an earlier release, whose schedules would expire; each ends when it finds none.
            for schedule in (SWEEP, EVICTION, RETENTION) if settings.retention else (SWEEP, EVICTION):
                await ensure_schedule(bus, schedule, replace=True)
        if unfilled:  # executions and sessions of an earlier release whose facts have expired
            async with bootstrap.build(settings, "setup") as deps:
                await rebuild.from_records(deps.records, deps.history)
                await rebuild.from_sessions(deps.session_records, deps.history)
            await asyncio.to_thread(filled, settings.history_url())
    except OcfError as error:
        sys.stderr.write(f"ocf: setup: {error}\n")
        return 1
    sys.stdout.write(f"{' '.join(names)}\n")
    return 0


def main() -> None:
    """Run the setup."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    raise SystemExit(asyncio.run(run(settings)))


if __name__ == "__main__":
    main()
