"""A steady rate and random faults, and then as it was: memory, descriptors, tasks, consumers, subjects."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from typing import Any

import httpx

from events import subjects
from events.bucket_nats import NatsBucket
from faults.inject import Injector
from faults.matrix import ALL, Pair
from faults.run import Bench, Options, bench, one, say, verdict
from faults.settle import settle

#: Before the first look every process has done everything once: its imports, pools and caches are there.
_WARM_UP = 45.0
#: What may differ at the end: a share of what it was, and this much on top (bytes; descriptors; tasks).
TOLERANCE = {"rss": (0.25, 24 * 1024**2), "fds": (0.0, 12.0), "tasks": (0.0, 6.0), "threads": (0.0, 12.0)}
#: Stores keep what executions left in memory (indexes, caches, Go's heap), which a deletion gives back late or never.
_STORES = {"rss": (1.0, 192 * 1024**2), "fds": (0.5, 64.0), "threads": (0.5, 12.0)}
_TASKS = re.compile(r"^ocf_asyncio_tasks ([\d.]+)", re.MULTILINE)
#: What a fault costs beside its own time; the last one must not begin after the end.
_CALM = 5.0


async def soak(minutes: float, options: Options) -> dict[str, Any]:
    """Faults of all kinds for `minutes`; then everything is deleted, and the second look must equal the first."""
    chance = random.Random(options.seed)
    async with bench(options) as made:
        made.load.begin()
        made.load.project = "warm"
        await asyncio.sleep(_WARM_UP)
        await made.load.pause()
        await _delete_all(made)
        before = await look(made)
        say(f"seed {options.seed}: soaking for {minutes:g} minutes")
        made.load.begin()
        injector = Injector(made.system, chance, options.stop_seconds)
        done: list[dict[str, Any]] = []
        until = time.monotonic() + minutes * 60
        while time.monotonic() < until:
            pair: Pair = chance.choice(ALL)
            done.append(await one(made, injector, pair, f"{len(done) + 1}", f"soak-{len(done) + 1}"))
            await asyncio.sleep(_CALM)
        result = await verdict(made, done, options)
        await _delete_all(made)
        after = await look(made)
    compared = compare(before, after)
    said = [f"{row['what']}: {row['before']} before, {row['after']} after" for row in compared if not row["within"]]
    result["unsettled"] = [*result["unsettled"], *said]
    return {**result, "soak": compared, "good": result["good"] and not said}


async def _delete_all(made: Bench) -> None:
    """Every execution is deleted, as an operator would, and gone when this returns."""
    bucket = NatsBucket(made.bus, subjects.EXECUTIONS_BUCKET)
    async for entry in bucket.entries("*.*"):
        project, execution = entry.key.split(".")[:2]
        client = made.system.client(made.bus, project, made.store)
        await client.delete(execution)
        made.load.ledger.deleted.add(f"{project}/{execution}")
    left = await settle(made.bus, made.load.ledger)
    if left:
        say(f"not deleted: {left[:5]}")


async def look(made: Bench) -> dict[str, dict[str, float]]:
    """Every process's memory, descriptors, threads and tasks; consumers and subjects of every stream."""
    await asyncio.sleep(12.0)  # idle connections of clients and pools are closed by then
    seen: dict[str, dict[str, float]] = {}
    async with httpx.AsyncClient(timeout=5) as http:
        for name, part in made.system.parts.items():
            seen[name] = dict(part.usage())
            if name in made.system.functions:
                found = _TASKS.search((await http.get(made.system.url(name) + "/metrics")).text)
                if found:
                    seen[name]["tasks"] = float(found[1])
    for stream in (subjects.COMMANDS, subjects.EVENTS, subjects.OUTPUT, subjects.DLQ):
        seen[stream] = await _stream(made, stream)
    seen[subjects.EXECUTIONS_BUCKET] = await _stream(made, f"KV_{subjects.EXECUTIONS_BUCKET}")
    return seen


async def _stream(made: Bench, stream: str) -> dict[str, float]:
    """Consumers, and subjects but for what stays on purpose: one `cleaned` per execution, dead letters, schedules."""
    ask = json.dumps({"subjects_filter": ">"}).encode()
    reply = await made.bus.nc.request(f"$JS.API.STREAM.INFO.{stream}", ask, timeout=10)
    state = json.loads(reply.data)["state"]
    names = [
        name
        for name in state.get("subjects") or {}
        if not name.endswith(".cleaned") and not name.startswith(("ocf.dlq.", "ocf.schedule."))
        and f".{subjects.SYSTEM_PROJECT}." not in name
    ]  # fmt: skip
    return {"consumers": float(state["consumer_count"]), "subjects": float(len(names))}


def compare(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Each value twice, and whether the second is within tolerance of the first: more is a leak, less is none."""
    rows = []
    for name, values in before.items():
        for what, value in values.items():
            table = _STORES if name in ("s3",) or name.startswith("nats") else TOLERANCE
            share, more = table.get(what, (0.0, 0.0))
            most = value * (1 + share) + more
            now = after[name].get(what, 0.0)
            rows.append({"what": f"{name} {what}", "before": value, "after": now, "most": most, "within": now <= most})
    return rows
