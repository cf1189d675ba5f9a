"""A steady rate and random faults, and then as it was: memory, descriptors, tasks, consumers, subjects."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Collection
from typing import Any

import httpx2

from faults.fault_pairs import ALL, Pair
from faults.inject import Injector
from faults.run import Bench, Options, bench, one, say, verdict
from faults.settle import settle
from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.session_record import Session
from ocf.functions.dispatcher.routes import ROUTES

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
    """Sessions are destroyed, other executions deleted, as an operator would, and all are gone when this returns."""
    ledger = made.load.ledger
    turns: set[str] = set()
    async for entry in NatsBucket(made.bus, subjects.SESSIONS_BUCKET).entries():
        project, session = entry.key.split(".")
        of_session = {f"{project}/{execution}" for execution in Session.read(entry.value).executions}
        ledger.asked_to_destroy.add(f"{project}/{session}")
        ledger.asked_to_delete |= of_session
        await made.system.client(made.bus, project, made.store).sessions.destroy(session)
        ledger.destroyed.add(f"{project}/{session}")
        ledger.deleted |= of_session
        turns |= of_session
    async for entry in NatsBucket(made.bus, subjects.EXECUTIONS_BUCKET).entries("*.*"):
        project, execution = entry.key.split(".")
        if (key := f"{project}/{execution}") not in turns:
            ledger.asked_to_delete.add(key)
            await made.system.client(made.bus, project, made.store).delete(execution)
            ledger.deleted.add(key)
    left = await settle(made.bus, ledger)
    if left:
        say(f"not deleted: {left[:5]}")


async def _delete_again(made: Bench) -> None:
    """A command without effect: the dispatcher's pool closes expired connections when it is asked for one."""
    if made.load.ledger.deleted:
        project, execution = min(made.load.ledger.deleted).split("/")
        await made.system.client(made.bus, project, made.store).delete(execution)
        await settle(made.bus, made.load.ledger)


async def look(made: Bench) -> dict[str, dict[str, float]]:
    """Every process's memory, descriptors, threads and tasks; consumers and subjects of every stream."""
    await asyncio.sleep(12.0)  # idle connections have expired by then
    await _delete_again(made)
    seen: dict[str, dict[str, float]] = {}
    async with httpx2.AsyncClient(timeout=5) as http:
        for name, part in made.system.parts.items():
            seen[name] = dict(part.usage())
            if name in made.system.functions:
                found = _TASKS.search((await http.get(made.system.url(name) + "/metrics")).text)
                if found:
                    seen[name]["tasks"] = float(found[1])
    for stream in (subjects.COMMANDS, subjects.EVENTS, subjects.OUTPUT, subjects.DLQ):
        seen[stream] = await _stream(made, stream)
    for bucket in (subjects.EXECUTIONS_BUCKET, subjects.SESSIONS_BUCKET):
        seen[bucket] = await _stream(made, f"KV_{bucket}")
    return seen


async def _stream(made: Bench, stream: str) -> dict[str, float]:
    """Consumers but for those of projects, which go when they are idle, and subjects but for those that stay on purpose
    (`staying`)."""
    ask = json.dumps({"subjects_filter": ">"}).encode()
    reply = await made.bus.nc.request(f"$JS.API.STREAM.INFO.{stream}", ask, timeout=10)
    state = json.loads(reply.data)["state"]
    names = [name for name in state.get("subjects") or {} if not staying(name, made.load.ledger.poison)]
    consumers = [each for each in await made.bus.consumers(stream) if not any(row.owner(each.name) for row in ROUTES)]
    return {"consumers": float(len(consumers)), "subjects": float(len(names))}


def staying(subject: str, poison: Collection[str] = ()) -> bool:
    """One `cleaned` per execution, one `destroyed` per session, dead letters, schedules, and the poison itself."""
    return (
        subject.endswith((".cleaned", ".destroyed"))
        or subject.startswith(("ocf.dlq.", "ocf.schedule."))
        or f".{subjects.SYSTEM_PROJECT}." in subject
        or subject in poison
    )


def compare(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Each value twice, and whether the second is within tolerance of the first: more is a leak, less is none.

    One that is missing at the end (None) is not within it: nobody knows what it was.
    """
    rows = []
    for name, values in before.items():
        for what, value in values.items():
            table = _STORES if name in ("s3",) or name.startswith("nats") else TOLERANCE
            share, more = table.get(what, (0.0, 0.0))
            most = value * (1 + share) + more
            now = after.get(name, {}).get(what)
            within = now is not None and now <= most
            rows.append({"what": f"{name} {what}", "before": value, "after": now, "most": most, "within": within})
    return rows
