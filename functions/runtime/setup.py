"""Applies `ocf.events.streams` to a NATS server; safe to repeat: `python -m ocf.functions.runtime.setup`.

A stream that is there is updated in place, its messages stay.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Any

from ocf.events import dead_letters, subjects
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.errors import OcfError, Unavailable
from ocf.events.streams import BUCKETS, STREAMS, BucketSpec, StreamSpec
from ocf.functions.core.retention_schedule import ensure_retention_schedule
from ocf.functions.observability import logs
from ocf.functions.settings.settings import load_or_exit

_NANOSECONDS = 1_000_000_000
_NOT_FOUND = 10059
_API_TIMEOUT = 10.0


def stream_config(spec: StreamSpec, replicas: int) -> dict[str, Any]:
    """The server's configuration of a stream (JetStream API, ADR-8, ADR-31, ADR-51)."""
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
        # Schedules need TTLs, and the server forces rollups on with them: a fired schedule replaces itself (ADR-51).
        # So whoever may publish one command may empty the stream: `nats_jwt.PROJECT_BACKEND` may publish none.
        config |= {"allow_msg_schedules": True, "allow_msg_ttl": True, "allow_rollup_hdrs": True}
    return config


def bucket_config(spec: BucketSpec, replicas: int) -> dict[str, Any]:
    """The stream behind a key-value bucket (ADR-8), with a TTL per key (ADR-43).

    `subject_delete_marker_ttl` stays unset: with it `get` of an expired key finds a marker and `create` fails.
    """
    return {
        "name": f"KV_{spec.name}",
        "description": spec.description,
        "subjects": [f"$KV.{spec.name}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        # One value per key, by a rollup with each (events/adapters/nats/bucket.py says why not by this limit).
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
    """Create or update every stream and bucket; returns their names.

    Args:
        bus: a connection that may do it.
        replicas: copies of each.
        output_age: seconds for which output is kept at least.
        output_bytes: of output, all executions together; when there is more the oldest goes. 0: unlimited.

    Raises:
        Unavailable: the server refuses or does not answer.
    """
    specs = [
        replace(spec, max_age=max(spec.max_age, output_age), max_bytes=output_bytes)
        if spec.name == subjects.OUTPUT
        else spec
        for spec in STREAMS
    ]
    configs = [stream_config(spec, replicas) for spec in specs]
    configs += [bucket_config(spec, replicas) for spec in BUCKETS]
    for config in configs:
        await _apply(bus, config)
    return [config["name"] for config in configs]


async def _apply(bus: NatsBus, config: dict[str, Any]) -> None:
    name = config["name"]
    answer = await _call(bus, f"STREAM.UPDATE.{name}", config)
    if answer.get("error", {}).get("err_code") == _NOT_FOUND:
        answer = await _call(bus, f"STREAM.CREATE.{name}", config)
    if "error" in answer:
        raise Unavailable(f"stream {name}: {answer['error'].get('description', answer['error'])}")


async def _call(bus: NatsBus, call: str, config: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = await bus.nc.request(f"$JS.API.{call}", json.dumps(config).encode(), timeout=_API_TIMEOUT)
    except (TimeoutError, OSError) as error:
        raise Unavailable(f"{call}: {error or 'no answer'}") from None
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


async def run() -> int:
    """Apply to the server of this environment; exit status."""
    settings = load_or_exit()
    logs.configure(settings.log_level)
    try:
        bus = await connect(settings.nats_url, creds=settings.nats_creds, name="setup")
        try:
            longest = max((round(rule.output.total_seconds()) for rule in settings.retention), default=0)
            names = await apply(
                bus, settings.stream_replicas, output_age=longest, output_bytes=settings.output_stream_bytes
            )
            await dead_letters.move_old(bus)
            if settings.retention:
                await ensure_retention_schedule(bus)  # also where nothing is submitted any more
        finally:
            await bus.close()
    except OcfError as error:
        sys.stderr.write(f"ocf: setup: {error}\n")
        return 1
    sys.stdout.write(f"{' '.join(names)}\n")
    return 0


def main() -> None:
    """Run it."""
    raise SystemExit(asyncio.run(run()))


if __name__ == "__main__":
    main()
