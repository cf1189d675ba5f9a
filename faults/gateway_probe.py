"""Asks the gateway about its history while a fault lasts, as any client may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx2

from faults.system import System

_EVERY = 0.5
#: Longer than the gateway waits for its database.
_PATIENCE = 15.0


@dataclass
class Said:
    """Numbers of answers that say that the database is away; the most facts that were said to be missing."""

    away: int = 0
    behind: int = 0
    #: Lists that neither came nor said why.
    odd: int = 0


@asynccontextmanager
async def listening(system: System) -> AsyncIterator[Said]:
    """Ask again and again while the context lasts."""
    said = Said()
    task = asyncio.create_task(_ask(system, said))
    try:
        yield said
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _ask(system: System, said: Said) -> None:
    async with client(system) as http:
        while True:
            with suppress(httpx2.HTTPError):  # the gateway is the victim
                await _once(http, said)
            await asyncio.sleep(_EVERY)


async def _once(http: httpx2.AsyncClient, said: Said) -> None:
    check = (await http.get("/ready")).json()["checks"]["history"]
    said.away += "facts are not in it yet" in check["detail"]
    listed = await http.get("/tasks", params={"limit": 1})
    if listed.status_code == 200:
        said.behind = max(said.behind, listed.json()["behind"] or 0)
    elif listed.status_code != 503 or "database" not in listed.json()["detail"]:
        said.odd += 1


async def caught_up(system: System) -> list[str]:
    """Return what the history still lacks after the faults, by the gateway's answers."""
    async with client(system) as http:
        check = (await http.get("/ready")).json()["checks"]["history"]
        behind = (await http.get("/tasks", params={"limit": 1})).json().get("behind")
    return [] if check["ok"] and behind == 0 else [f"the gateway says of its history: {check}, {behind} behind"]


def client(system: System) -> httpx2.AsyncClient:
    """A caller of every project."""
    headers = {"authorization": f"Bearer {system.gateway_token}"}
    return httpx2.AsyncClient(base_url=system.url("gateway"), headers=headers, timeout=_PATIENCE)
