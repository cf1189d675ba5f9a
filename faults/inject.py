"""How each fault is done to each victim. `hurt` is the whole of it: the fault, its time, its end, and being back."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2

from faults.component import Part
from faults.fault_pairs import Pair
from faults.system import EVENT_FUNCTIONS, EXECUTES, MONITOR, System

_FAKETIME = "faketime/libfaketimeMT.so.1"
_SKEWS = (-600, -90, 90, 600)
_HISTORY_USERS = ("history", "gateway")
_S3_USERS = ("submit", "cleanup", "session", "archive", *EXECUTES, "gateway")
_SECONDS = {
    "kill9": 2.0,
    "lost": 3.0,
    "stop": 30.0,
    "cut": 15.0,
    "full": 10.0,
    "slow": 12.0,
    "creds": 8.0,
    "skew": 10.0,
}
_WRITES = 8


@dataclass(frozen=True)
class Hurt:
    """What was done, for the report. `how` is what chance chose, `back` the seconds until the victim was ready."""

    how: str
    seconds: float
    back: float


def faketime() -> Path | None:
    """libfaketime (Debian: faketime), which makes one process's clock wrong."""
    found = list(Path("/usr/lib").glob(f"*/{_FAKETIME}"))
    return found[0] if found else None


class Injector:
    """Hurts parts of a system. `stop_seconds` shortens SIGSTOP."""

    def __init__(self, system: System, chance: random.Random, stop_seconds: float = 30.0) -> None:
        self._system = system
        self._chance = chance
        self._seconds = {**_SECONDS, "stop": stop_seconds}

    async def hurt(self, pair: Pair) -> Hurt:
        """Do it, wait, undo it, wait until the victim is ready again.

        Raises:
            NotReady: it does not come back.
        """
        part = self._part(pair.victim)
        doing: dict[str, Callable[[Part], Awaitable[tuple[str, float]]]] = {
            "kill9": self._kill,
            "lost": self._lost,
            "stop": self._stop,
            "restart": self._restart,
            "cut": self._cut,
            "full": self._full,
            "slow": self._slow,
            "creds": self._creds,
            "skew": self._skew,
        }
        loop = asyncio.get_running_loop()
        began = loop.time()
        how, healed = await doing[pair.fault](part)
        back = max(0.0, loop.time() - healed)
        return Hurt(how, round(healed - began, 1), round(back, 1))

    def _part(self, victim: str) -> Part:
        name = {"execute": self._chance.choice(EXECUTES), "nats": self._chance.choice(self._system.nodes)}
        return self._system.parts[name.get(victim, victim)]

    async def _for(self, fault: str) -> float:
        """The fault lasts; when it ended."""
        await asyncio.sleep(self._seconds[fault])
        return asyncio.get_running_loop().time()

    async def _kill(self, part: Part) -> tuple[str, float]:
        await part.stop(signal.SIGKILL)
        healed = await self._for("kill9")
        await part.start()
        return part.name, healed

    async def _lost(self, part: Part) -> tuple[str, float]:
        self._system.net.cut(part.name)
        try:
            await part.stop(signal.SIGKILL)
            # A dead machine sends no farewell, not even the one its kernel would send now.
            healed = await self._for("lost")
        finally:
            self._system.net.mend(part.name)
        await part.start()
        return part.name, healed

    async def _stop(self, part: Part) -> tuple[str, float]:
        part.signal(signal.SIGSTOP)
        try:
            healed = await self._for("stop")
        finally:
            part.signal(signal.SIGCONT)
        await part.is_ready()
        return part.name, healed

    async def _restart(self, part: Part) -> tuple[str, float]:
        took = await part.stop()
        healed = asyncio.get_running_loop().time()
        await part.start()
        return f"{part.name}, ended after {took:.1f} s", healed

    async def _cut(self, part: Part) -> tuple[str, float]:
        self._system.net.cut(part.name)
        try:
            healed = await self._for("cut")
        finally:
            self._system.net.mend(part.name)
        await part.is_ready()
        return part.name, healed

    async def _full(self, part: Part) -> tuple[str, float]:
        part.disk.fill()
        try:
            healed = await self._for("full")
        finally:
            part.disk.empty()
        # Both: docs/how-to/respond-to-alerts.md, "A full disk".
        if part.name in self._system.nodes and not await _healthy(self._system.url(part.name, MONITOR) + "/healthz"):
            await _again(part)  # what its liveness probe does
            return f"{part.name}, not healthy with room again: restarted", healed
        if part.name == "s3":
            await _again(part)  # it says that it is well, and refuses what belongs to the table it could not write
            return f"{part.name}, restarted with room again", healed
        await part.is_ready()
        return part.name, healed

    async def _slow(self, part: Part) -> tuple[str, float]:
        part.disk.slow(part.pid, _WRITES)
        try:
            healed = await self._for("slow")
        finally:
            part.disk.fast()
        await part.is_ready()
        return part.name, healed

    async def _creds(self, part: Part) -> tuple[str, float]:
        how, wrong = self._wrong(part)
        async with wrong:
            await part.stop()
            await part.start(wait=False)
            healed = await self._for("creds")
        await part.stop()
        await part.start()
        return how, healed

    def _wrong(self, part: Part) -> tuple[str, AbstractAsyncContextManager[None]]:
        """What is wrong now: a context that puts it right again."""
        system = self._system
        if part.name in system.nodes:
            return "the server trusts another operator", _changed(
                lambda: system.configure(nats=system.wrong), system.configure
            )
        if part.name == "s3":
            return "the store knows another key", _changed(lambda: system.configure(s3=system.wrong), system.configure)
        if part.name == "model":

            def key(value: str) -> Callable[[], None]:
                return lambda: setattr(system, "model_key", value)

            return "the provider knows another key", _changed(key("another-key"), key(system.model_key))
        if part.name == "database":
            wrong, right = (partial(system.database.know, right=right) for right in (False, True))
            return "the functions' role has another password", _changed(wrong, right)
        choices = {"NATS credentials": ("NATS_CREDS", str(system.wrong_creds))}
        if part.name in _S3_USERS:
            choices["S3 secret"] = ("AWS_SECRET_ACCESS_KEY", "wrong")
        if part.name in _HISTORY_USERS:
            choices["database password"] = ("DATABASE_URL", system.database.wrong_url)
        if part.name in (*EVENT_FUNCTIONS, *EXECUTES, "dispatcher"):
            choices["dispatch token"] = ("DISPATCH_TOKEN", "wrong")
        what = self._chance.choice(sorted(choices))
        variable, value = choices[what]
        return f"{part.name}: {what}", _changed(
            lambda: part.overrides.update({variable: value}), lambda: part.overrides.pop(variable, None)
        )

    async def _skew(self, part: Part) -> tuple[str, float]:
        """A server written in Go asks the kernel itself: there, everybody else's clock is wrong by as much."""
        seconds = self._chance.choice(_SKEWS)
        if part.name in self._system.nodes:
            return await self._skewed([self._system.parts[name] for name in self._system.functions], -seconds)
        if part.name == "s3":
            return await self._skewed([self._system.parts[name] for name in _S3_USERS], -seconds)
        return await self._skewed([part], seconds)

    async def _skewed(self, parts: list[Part], seconds: int) -> tuple[str, float]:
        library = faketime()
        if library is None:
            raise FileNotFoundError("libfaketime is not installed (Debian: apt-get install faketime)")
        wrong = {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        for part in parts:
            part.overrides.update(wrong)
        try:
            # Not waited for: S3 refuses whoever is ten minutes off, and says so in the readiness of all who need it.
            await asyncio.gather(*(_again(part, wait=False) for part in parts))
            healed = await self._for("skew")
        finally:
            for part in parts:
                for name in wrong:
                    part.overrides.pop(name, None)
        await asyncio.gather(*(_again(part) for part in parts))
        who = parts[0].name if len(parts) == 1 else "everybody else"
        return f"{who} {seconds:+d} s", healed


async def _healthy(url: str, tries: int = 10) -> bool:
    async with httpx2.AsyncClient(timeout=2.0) as http:
        for _ in range(tries):
            with suppress(httpx2.HTTPError):
                if (await http.get(url)).status_code == 200:
                    return True
            await asyncio.sleep(0.5)
    return False


async def _again(part: Part, *, wait: bool = True) -> None:
    await part.stop()
    await part.start(wait=wait)


@asynccontextmanager
async def _changed(change: Callable[[], object], back: Callable[[], object]) -> AsyncIterator[None]:
    change()
    try:
        yield
    finally:
        back()
