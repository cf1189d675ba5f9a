"""Attacks of one tenant beside four honest runs of the real OpenCode that are already speaking.

The model is a server of this process. To an honest run it says a word every 100 ms and notes when; to a hostile one it
gives a command for OpenCode's shell tool. Latency is from the model's word to the viewer's chunk. The same runs beside
plain processes that only use a processor show what any load costs them.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from faults.hostile_load import KINDS
from ocf.events import subjects
from ocf.events.output import Chunk, ChunkType
from tests.support.faulty_model import CHUNKED, Exchange, FaultyModel, delta
from tests.support.offline import OPENCODE
from tests.support.redteam import BOMBS
from tests.support.stack import Project, Stack, running_stack, until

HONEST = 4
HOGS = 4
_PAUSE = 0.1
_WORD = re.compile(r"w(\d+)-(\d+) ")
_HOG = "while True: pass"


@dataclass
class Talk:
    """Words of the honest runs: when the model sent each, and when a viewer had it."""

    sent: dict[tuple[int, int], float] = field(default_factory=dict)
    seen: dict[tuple[int, int], float] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def act(self, exchange: Exchange) -> None:
        """Answer a request of either kind."""
        asked = json.dumps(exchange.body.get("messages", []))
        await exchange.head(200, "text/event-stream", CHUNKED)
        if (honest := re.search(r"honest (\d+)", asked)) and exchange.body.get("tools"):
            number = 0
            while not self.ended.is_set():
                self.sent[int(honest[1]), number] = time.perf_counter()
                await exchange.event(delta(f"w{honest[1]}-{number} "))
                number += 1
                await asyncio.sleep(_PAUSE)
        elif (hostile := re.search(r"attack (\d+)", asked)) and '"role": "tool"' not in asked:
            await exchange.event(_shell(attacks()[int(hostile[1])]))
        else:
            await exchange.event(delta("done"))
        finish = "tool_calls" if '"role": "tool"' not in asked and "attack" in asked else "stop"
        await exchange.event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        await exchange.event("[DONE]")
        await exchange.end()

    def phase(self, begin: float, end: float) -> tuple[list[float], float]:
        """Milliseconds from model to viewer of the words sent in that time, and the longest silence of a run in it."""
        took = [1000 * (self.seen[key] - at) for key, at in self.sent.items() if begin <= at < end and key in self.seen]
        silences = []
        for run in range(HONEST):
            times = sorted({at for key, at in self.seen.items() if key[0] == run and begin <= at < end})
            silences += [after - before for before, after in zip([begin, *times], [*times, end], strict=True)]
        return took, max(silences)


def attacks() -> list[str]:
    """Return the commands: the bombs of the red team, and what the fault suite's hostile tenant runs."""
    tenant = [steps[0]["run"] for _, steps, _ in KINDS if "run" in steps[0]]
    return [*(bomb.attempt.shell for bomb in BOMBS), *tenant]


def _shell(command: str) -> dict[str, object]:
    arguments = json.dumps({"command": command, "description": "work"})
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "bash", "arguments": arguments}}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}


async def measure(options: Options) -> list[Row]:
    """Quiet, beside hogs, beside the attacks: one run of the system, the same honest runs."""
    seconds, commands = (3.0, attacks()[:1]) if options.quick else (20.0, attacks())
    talk = Talk()
    model = FaultyModel([talk.act])
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocf-bench-")))
        server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
        stack.push_async_callback(_close, server)
        model.port = server.sockets[0].getsockname()[1]
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted", "OCF_MODEL_ENDPOINT": model.base_url}
        system = stack.enter_context(running_stack(folder, MAX_CONCURRENT_TASKS=str(HONEST + 1), **environ))
        honest = await stack.enter_async_context(system.project())
        runs = [await honest.submit(prompt=f"honest {number}") for number in range(HONEST)]
        viewers = [asyncio.create_task(_view(honest, run, talk)) for run in runs]
        await until(_speaking(talk), timeout=180, what="all honest runs speak")
        quiet = await _phase(talk, asyncio.sleep(seconds))
        hogs = await _phase(talk, _hogs(seconds))
        attacked = await _phase(talk, _attack(system, stack, commands))
        talk.ended.set()
        await asyncio.sleep(1)
        states = [(await honest.ended(run, timeout=120)).state.value for run in runs]
        for viewer in viewers:
            viewer.cancel()
    limit = max(3.0, 1.5 * hogs[1])
    return [
        Row(f"honest chunk beside {len(commands)} attacks, model to viewer", "ms", attacked[0], quiet[0], "quiet",
            Target("p95 ratio", 2.0), f"{HONEST} runs of OpenCode speak, a word each 100 ms"),
        Row("the same beside processor hogs", "ms", hogs[0], quiet[0], "quiet", note=f"{HOGS} processes"),
        Row("longest silence of an honest run beside attacks", "s", [attacked[1]], [hogs[1]], "beside hogs",
            Target("max", limit), f"3 s, or 1.5 times that beside hogs; quiet: {quiet[1]:.2f} s"),
        Row("honest runs that did not complete", "runs", [float(sum(each != "completed" for each in states))], [], "",
            Target("max", 0.0)),
    ]  # fmt: skip


async def _phase(talk: Talk, work: Awaitable[None]) -> tuple[list[float], float]:
    begin = time.perf_counter()
    await work
    end = time.perf_counter()
    await asyncio.sleep(3)
    return talk.phase(begin, end)


def _speaking(talk: Talk) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return len({run for run, number in talk.seen if number > 20}) == HONEST

    return look


async def _view(project: Project, execution: str, talk: Talk) -> None:
    text = ""
    async for chunk in _live(project, execution):
        if chunk.type is ChunkType.TEXT:
            text += chunk.data
            for found in _WORD.finditer(text):
                talk.seen[int(found[1]), int(found[2])] = time.perf_counter()
            text = text[text.rfind(" ") + 1 :]


async def _live(project: Project, execution: str) -> AsyncIterator[Chunk]:
    async with project.bus.listen(subjects.live(project.name, execution)) as messages:
        async for message in messages:
            yield Chunk.model_validate_json(message.data)


async def _attack(system: Stack, stack: AsyncExitStack, commands: list[str]) -> None:
    """One hostile execution after the other, of another project, each for at most 20 seconds."""
    hostile = await stack.enter_async_context(system.project())
    limits = {"max_processes": 64, "max_memory_bytes": 1536 * 1024**2, "max_workspace_bytes": 100_000_000}
    for number in range(len(commands)):
        execution = await hostile.submit(prompt=f"attack {number}", limits={**limits, "timeout_seconds": 30})
        await hostile.ended(execution, timeout=120)


async def _hogs(seconds: float) -> None:
    hogs = [subprocess.Popen([sys.executable, "-c", _HOG]) for _ in range(HOGS)]  # noqa: ASYNC220
    try:
        await asyncio.sleep(seconds)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


async def _close(server: asyncio.Server) -> None:
    server.close()
