"""Waiting until a system has nothing left to do, and what is left of it then beside streams, buckets and S3."""

from __future__ import annotations

import asyncio
import os
import time

import psutil

from faults.check import Ledger
from faults.component import OWN
from faults.system import System
from ocf.events import subjects
from ocf.events.adapters.nats.bucket import NatsBucket
from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.errors import Unavailable
from ocf.events.execution_record import Record
from ocf.events.session_record import Session
from ocf.functions.dispatcher.routes import ROUTES

#: After the last fault: a lease (10 s), a redelivery (30 s), sweeps (every 15 s), and the further attempts themselves.
PATIENCE = 240.0
#: Longer than any backlog takes that the bounded load can leave: what still moves then moves in a circle.
_LONGEST = 1200.0


async def settle(bus: NatsBus, ledger: Ledger, patience: float = PATIENCE) -> list[str]:
    """Wait until nothing is under way, or until `patience` seconds pass in which nothing more comes to its end.

    Returns:
        What is still under way (empty: the system has settled).
    """
    begun = time.monotonic()
    until, before = begun + patience, set[str]()
    while True:
        try:
            left = await _under_way(bus, ledger)
        except Unavailable as error:
            left = [f"NATS: {error}"]
        now, names = time.monotonic(), {line.partition(": ")[0] for line in left}
        if not left or now > until:
            return left
        if before - names:
            until = min(now + patience, begun + _LONGEST)
        before = names
        await asyncio.sleep(1.0)


async def _under_way(bus: NatsBus, ledger: Ledger) -> list[str]:
    left: list[str] = []
    async for entry in NatsBucket(bus, subjects.EXECUTIONS_BUCKET).entries():
        project, execution, *lease = entry.key.split(".")
        name = f"{project}/{execution}"
        if lease:
            left.append(f"{name}: leased")
            continue
        record = Record.model_validate_json(entry.value)
        if not record.terminal or record.outbox:
            left.append(f"{name}: {record.state.value}, outbox {len(record.outbox)}")
        elif not record.archived and record.state.value != "rejected":
            left.append(f"{name}: not archived")
        elif name in ledger.deleted:
            left.append(f"{name}: not deleted")
    async for entry in NatsBucket(bus, subjects.SESSIONS_BUCKET).entries():
        session = Session.read(entry.value)
        name = entry.key.replace(".", "/")
        if session.queue or name in ledger.destroyed:
            left.append(f"session {name}: {session.state}, {len(session.queue)} in its queue")
    for row in ROUTES:
        states = [each for each in await bus.consumers(row.stream) if each.name == row.consumer or row.owner(each.name)]
        if not states:
            raise Unavailable(f"consumer {row.consumer}: there is none")
        for name, backlog in ((each.name, each.backlog) for each in states):
            if backlog.waiting or backlog.unsettled:
                left.append(f"consumer {name}: {backlog.waiting} waiting, {backlog.unsettled} in flight")
    return left


def strangers(system: System) -> list[str]:
    """Processes of this run's namespace that are no part of the system: agents, supervisors, helpers."""
    ours = {1, os.getpid()} | {part.process.pid for part in system.parts.values() if part.process is not None}
    found = []
    for process in psutil.process_iter(["pid", "ppid", "name", "cmdline", "status"]):
        if process.info["pid"] in ours or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if process.info["name"] in OWN and process.info["ppid"] in ours:
            continue
        command = " ".join(process.info["cmdline"] or [])
        if command:
            found.append(f"{process.info['pid']}: {command[:200]}")
    return found


async def leftovers(system: System, patience: float = 15.0) -> list[str]:
    """Processes and files that are left; what is just being put away is waited for."""
    until = time.monotonic() + patience
    while True:
        found = [f"process {each}" for each in strangers(system)] + [f"file {each}" for each in system.clutter()]
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(0.5)
