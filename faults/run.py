"""A run: the system up, the load on, one fault after the other, then the checker."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy.exc import SQLAlchemyError

from faults import check, gateway_probe, history_reader, history_rows
from faults.check_run import wrong_of_run
from faults.component import NotReady
from faults.component_disk import unmount
from faults.fault_pairs import Pair
from faults.inject import Hurt, Injector
from faults.load import Load
from faults.settle import leftovers, settle
from faults.system import System, running
from ocf.events.adapters.nats.bus import NatsBus
from ocf.events.adapters.s3 import S3Store
from ocf.events.errors import OcfError

#: Executions of a pair are under way before its fault comes.
_BEFORE = 4.0


@dataclass(frozen=True)
class Options:
    """`seed` decides order, kinds and nodes; `rate` is in executions a second."""

    seed: int
    rate: float = 1.2
    stop_seconds: float = 30.0
    nodes: int = 1
    keep: bool = False


@dataclass
class Bench:
    """A system with its load and the harness's own connections."""

    system: System
    bus: NatsBus
    store: S3Store
    load: Load


@asynccontextmanager
async def bench(options: Options) -> AsyncIterator[Bench]:
    """Everything up, the load not begun."""
    folder = Path(tempfile.mkdtemp(prefix="ocf-faults-"))
    try:
        async with running(folder, options.nodes) as system:
            bus, store = await system.connect(), S3Store(system.s3)
            backend = await system.connect("backend")
            try:
                yield Bench(system, bus, store, Load(system, backend, store, options.rate))
            finally:
                if options.keep:
                    _keep_logs(system)
                await backend.close()
                await bus.close()
                store.close()
    finally:
        unmount(folder)
        shutil.rmtree(folder)


def say(text: str) -> None:
    """For who watches."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def matrix(pairs: Sequence[Pair], options: Options) -> dict[str, Any]:
    """Run `pairs` in order under one load; the result as JSON."""
    chance = random.Random(options.seed)
    say(f"seed {options.seed}: {len(pairs)} pairs")
    async with bench(options) as made:
        injector = Injector(made.system, chance, options.stop_seconds)
        made.load.begin()
        done = []
        for number, pair in enumerate(pairs, 1):
            done.append(await one(made, injector, pair, f"{number}/{len(pairs)}"))
        return await verdict(made, done, options)


async def one(made: Bench, injector: Injector, pair: Pair, where: str, project: str = "") -> dict[str, Any]:
    """One pair: load under its name, the fault, the victim back."""
    made.load.project = project or pair.project
    await asyncio.sleep(_BEFORE)
    began = time.time()
    try:
        async with gateway_probe.listening(made.system) as said:
            hurt, wrong = await injector.hurt(pair), ""
    except (NotReady, OSError, subprocess.SubprocessError) as error:
        hurt, wrong = Hurt("", 0.0, 0.0), f"{type(error).__name__}: {error}"
        await _force(made.system)
    if made.system.nodes[1:]:
        await made.system.whole(made.bus)
    say(f"{where} {pair.name}: {hurt.how}, {hurt.seconds} s, back after {hurt.back} s {wrong[:300]}")
    return {"pair": pair.name, "project": made.load.project, "began": began, "healed": time.time() - hurt.back,
            **asdict(hurt), "gateway": asdict(said), "not_back": wrong}  # fmt: skip


async def _force(system: System) -> None:
    """What did not come back is started anew, so that the run can go on."""
    for part in system.parts.values():
        try:
            await part.is_ready(5.0)
        except NotReady:
            say(f"{part.name} is started anew")
            await part.stop()
            await part.start(wait=False)


async def verdict(made: Bench, done: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """The load ends, everything settles, the checker reads."""
    made.load.project = "calm"
    await made.load.poison()
    await made.load.end()
    say(f"{made.load.count} executions accepted; settling")
    began = time.monotonic()
    unsettled = await settle(made.bus, made.load.ledger)
    settled = round(time.monotonic() - began, 1)
    try:
        told = await history_reader.read(made.bus, made.store)
        told.rows = await history_rows.of_database(made.system.database.url)
        told.rebuilt = await history_rows.rebuilt(made.bus, made.store)
        unsettled += await gateway_probe.caught_up(made.system)
    except (OcfError, SQLAlchemyError, httpx2.HTTPError) as error:  # a server is still hurt: that is a result, too
        told = history_reader.History()
        unsettled.append(f"nothing can be read: {error}")
    for pair in done:
        pair["refused"] = made.load.refused.get(pair["project"], [])
    found = [*check.violations(told, made.load.ledger), *wrong_of_run(told, done)]
    left = await leftovers(made.system)
    for pair in done:
        stories = [story for story in told.stories.values() if story.project == pair["project"]]
        ends = [fact.at for story in stories for fact in story.facts if fact.what in check.TERMINAL]
        pair["executions"] = len(stories)
        pair["outcomes"] = check.outcomes(told, pair["project"])
        del pair["began"], pair["refused"]
        pair["all_ended"] = round(max(0.0, max(ends, default=0.0) - pair.pop("healed")), 1)
        pair["violations"] = [str(each) for each in found if each.project == pair["project"]]
        if pair["not_back"]:
            pair["violations"].append(f"back: {pair['not_back'][:500]}")
    projects = {pair["project"] for pair in done}
    result = {
        "seed": options.seed,
        "nodes": options.nodes,
        "rate": options.rate,
        "executions": made.load.count,
        "dead_letters": len(told.letters),
        "settled_after": settled,
        "pairs": done,
        "elsewhere": [str(each) for each in found if each.project not in projects],
        "unsettled": unsettled,
        "leftovers": left,
        "clients": made.load.failed,
        "restarts": {part.name: part.ends for part in made.system.parts.values() if part.ends},
    }
    return {**result, "good": good(result)}


def good(result: dict[str, Any]) -> bool:
    """Whether every invariant held."""
    wrong = [result[name] for name in ("elsewhere", "unsettled", "leftovers", "clients")]
    return not any(wrong) and not any(pair["violations"] for pair in result["pairs"])


def complaints(result: dict[str, Any]) -> list[str]:
    """Everything that is wrong, one line each, with how to replay it."""
    lines = [f"{pair['pair']}: {each}" for pair in result["pairs"] for each in pair["violations"]]
    lines += [each for name in ("elsewhere", "unsettled", "leftovers", "clients") for each in result[name]]
    bad = sorted({pair["pair"] for pair in result["pairs"] if pair["violations"]})
    return lines + [f"again: make faults SEED={result['seed']} ONLY={name}" for name in bad]


def _keep_logs(system: System) -> None:
    folder = Path(tempfile.gettempdir()) / "ocf-faults-logs"
    folder.mkdir(exist_ok=True)
    for part in system.parts.values():
        (folder / f"{part.name}.log").write_text(part.log())
    say(f"logs: {folder}")
