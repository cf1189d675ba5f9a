"""A storm of messages that cannot be read, beside real submits: how soon each is settled, and what it costs the others.

The submit function and its dispatcher are processes of their own, as in the cluster, and write their logs to files. The
storm comes from a process of its own, too: what it costs to publish is not the system's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.gateway import Caller
from benchmarks.measurement import Options, Row, Target, thinned
from benchmarks.measurements.submit import submit_env
from ocf.events.adapters.nats.bus import NatsBus, connect
from ocf.events.command_payloads import Submit
from ocf.events.envelope import new_event
from ocf.events.execution_ref import ExecutionRef
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.observability import logs
from ocf.functions.runtime.setup import apply
from ocf.stack.ports import allocate
from tests.support.nats import NatsServer, running_nats
from tests.support.poison import WORDS, poisons

TYPE = "dev.ocf.task.submit.v1"
#: Seconds between two real submits, as of somebody who submits one after the other.
_PAUSE = 0.1
_PATIENCE = 120.0
_PROMPT = "words of an honest prompt"


async def measure(options: Options) -> list[Row]:
    """Real submits alone, then beside the storm; what is left of it is waited for."""
    storm, real = (64, 10) if options.quick else (2_000, 400)
    with tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder:
        written = Path(folder) / "logs"
        written.mkdir()
        with running_nats(Path(folder) / "nats", streams=False) as nats:
            bus = await connect(nats.url, creds=nats.creds, name="bench")
            try:
                await apply(bus)
                async with _system(nats, written):
                    await _submits(bus, 10)
                    quiet = await _submits(bus, real)
                    settled, beside = await _during_storm(nats, storm, _submits(bus, real))
            finally:
                await bus.close()
        said = "".join(path.read_text(errors="replace") for path in written.iterdir())
    if "dispatch.dead_letter" not in said:
        raise RuntimeError("the dispatcher's log does not have its dead letters: there is nothing to look through")
    leaks = said.count(WORDS) + said.count(_PROMPT)
    kinds = len(poisons(TYPE, {}))
    return [
        Row(f"poison, publish to dead letter, {storm:,} of {kinds} kinds at once", "s", thinned(settled), [], "",
            Target("max", _PATIENCE), "each is said to be rejected before"),
        Row("real submit beside it, publish to accepted", "ms", thinned(beside), thinned(quiet), "without the storm",
            Target("p95 ratio", 2.0), "of another project, one every 100 ms"),
        Row("places in the logs that hold content", "places", [float(leaks)], [], "", Target("max", 0.0)),
    ]  # fmt: skip


async def _submits(bus: NatsBus, count: int) -> list[float]:
    """Milliseconds of each of `count` submits, from before it is published until its `accepted` fact."""
    begun: dict[str, float] = {}

    async def publish() -> None:
        for _ in range(count):
            ref = ExecutionRef("honest", str(uuid.uuid4()))
            wanted = {"prompt": _PROMPT, "execution_id": ref.execution, "project_id": ref.project}
            event = new_event(TYPE, Submit.model_validate(wanted), source="/bench", time=SystemClock().now())
            begun[ref.execution] = time.perf_counter()
            await bus.publish(ref.command("submit"), event.data, event.headers())
            await asyncio.sleep(_PAUSE)

    return [1000 * each for each in await _answered(bus, "ocf.evt.honest.*.accepted", publish, begun, count)]


async def _during_storm(
    nats: NatsServer, count: int, submits: Awaitable[list[float]]
) -> tuple[list[float], list[float]]:
    """What the storm's process measured, and what `submits` gave beside it."""
    argv = (sys.executable, "-m", "benchmarks.measurements.poison", nats.url, str(nats.creds), str(count))
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("the storm's process has no output")
    await process.stdout.readline()  # it is connected, and begins
    took, rest = await asyncio.gather(submits, process.stdout.read())
    if await process.wait():
        raise RuntimeError("the storm's process failed; it says why above")
    return json.loads(rest), took


async def publish_storm(url: str, creds: Path, count: int) -> None:
    """Publish `count` messages as fast as it goes; print the seconds of each until its dead letter."""
    bus = await connect(url, creds=creds, name="storm")
    try:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdout.write(json.dumps(await _storm(bus, count)))
    finally:
        await bus.close()


async def _storm(bus: NatsBus, count: int) -> list[float]:
    """Seconds of each poison message, from before it is published until its dead letter."""
    begun: dict[str, float] = {}
    kinds = poisons(TYPE, {"execution_id": str(uuid.uuid4()), "project_id": "hostile"})

    async def publish() -> None:
        for number in range(count):
            ref, poison = ExecutionRef("hostile", str(uuid.uuid4())), kinds[number % len(kinds)]
            begun[ref.execution] = time.perf_counter()
            await bus.nc.publish(ref.command("submit"), poison.data, headers=dict(poison.headers))
            await asyncio.sleep(0)

    return await _answered(bus, "ocf.dlq.>", publish, begun, count)


async def _answered(
    bus: NatsBus, subject: str, publish: Callable[[], Awaitable[None]], begun: Mapping[str, float], count: int
) -> list[float]:
    """Seconds of each, from `begun` until a message on `subject` names it, while `publish` runs."""
    took: list[float] = []
    async with bus.listen(subject) as answers, asyncio.timeout(_PATIENCE + count * _PAUSE):
        publishing = asyncio.create_task(publish())
        async for message in answers:
            execution = next(token for token in message.subject.split(".") if token in begun)
            took.append(time.perf_counter() - begun[execution])
            if len(took) == count:
                break
        await publishing
    return took


@asynccontextmanager
async def _system(nats: NatsServer, folder: Path) -> AsyncIterator[None]:
    """The submit function and a dispatcher of its row, until both answer."""
    ports = allocate(("submit", "dispatcher"), {}, {})
    env = {**submit_env(nats, ports["submit"]), "LOG_LEVEL": "info"}
    urls = f"submit=http://127.0.0.1:{ports['submit']}/fn/submit"
    dispatcher = {**env, "PORT": str(ports["dispatcher"]), "DISPATCH_CONSUMERS": "submit", "FUNCTION_URLS": urls}
    with ExitStack() as stack:
        for module, environ in (("ocf.functions.runtime.serve", env), ("ocf.functions.dispatcher.main", dispatcher)):
            log = stack.enter_context((folder / module).open("wb"))
            argv = [sys.executable, "-m", module]
            process = subprocess.Popen(argv, env={**os.environ, **environ}, stdout=log, stderr=log)  # noqa: ASYNC220
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            await _ready(int(environ["PORT"]))
        yield


async def _ready(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
                async with Caller(port) as caller:
                    await caller.call("GET", "/health")
                    return
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    logs.configure("error")  # to stderr: stdout is for what was measured
    asyncio.run(publish_storm(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
