"""Reruns of the real OpenCode: of a run whose time was the model's, and of a hundred drawn ones.

`OCF_BENCH_SEED` is the seed. A hundred pairs take half an hour on two quiet cores. The file
`.bench/drawn-SEED.jsonl` keeps the outcomes. A pair in it is not run again. Remove the file to run all pairs again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.measurement import Options, Row, Target
from benchmarks.random_runs import Drawn, draw, repository
from ocf.functions.core.execution_comparison import WORKSPACE, compare_patches
from tests.support.offline import OPENCODE
from tests.support.stack import running_stack, until
from tests.support.step_model import prompt, step_model

SEED = int(os.environ.get("OCF_BENCH_SEED", "20"))
RUNS, AT_ONCE = 100, 2
ROOT = Path(__file__).resolve().parents[2]
#: Seconds of one run until its archive, on a busy machine.
_PATIENCE = 1200.0
#: The long run: answers, pieces of each, and seconds between two pieces. Ten minutes in all.
_ANSWERS, _PIECES, _PACE = 20, 46, 0.5


@dataclass
class Outcome:
    """A drawn run and its rerun. `wrong` says why the pair is not the same; `reported` are the rerun's divergences."""

    number: int
    kind: str
    calls: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)
    reported: list[dict[str, Any]] = field(default_factory=list)
    wrong: str = ""

    def line(self) -> str:
        """Return it for people."""
        took = f"{self.seconds[0]:.1f} s, rerun {self.seconds[1]:.1f} s"
        told = [f"call {one['call']} {one['part']}: {one.get('text')}" for one in self.reported]
        return f"  {self.number} {self.kind}: {self.calls} calls, {took}: {self.wrong or 'same'} {' | '.join(told)}"


class Gateway:
    """Calls of the REST API that the figures use."""

    def __init__(self, http: httpx2.AsyncClient, project: str) -> None:
        self._http, self._project = http, project

    async def ended(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Submit a task; return its status once its archive is complete."""
        query = {} if "project_id" in body else {"project_id": self._project}
        answer = await self._http.post(path, params=query, json=body)
        if answer.status_code != httpx2.codes.ACCEPTED:
            raise RuntimeError(f"{path}: {answer.text}")
        execution = answer.json()["execution_id"]

        async def look() -> Any:  # noqa: ANN401 - JSON
            found = (await self._get(execution, "status")).json()
            return found if found["archived"] else None

        return dict(await until(look, timeout=_PATIENCE, what=f"the archive of {execution}"))

    async def diff(self, execution: str) -> str:
        """Return its patch; where it ran is no difference."""
        return WORKSPACE.sub(".", (await self._get(execution, "diff")).text)

    async def _get(self, execution: str, what: str) -> httpx2.Response:
        return await self._http.get(f"/tasks/{execution}/{what}", params={"project_id": self._project})


async def pair(gateway: Gateway, project: str, drawn: Drawn) -> Outcome:
    """Run a drawn run, and run it again."""
    found = Outcome(drawn.number, drawn.kind)
    body = {"prompt": drawn.prompt, "recording": "full", "project_id": project, **drawn.fields}
    try:
        was = await gateway.ended("/tasks/execute", body)
        now = await gateway.ended(f"/tasks/{was['execution_id']}/rerun", {})
        diffs = [await gateway.diff(one["execution_id"]) for one in (was, now)]
    except (AssertionError, RuntimeError, httpx2.HTTPError) as error:
        found.wrong = str(error)
        return found
    rerun = now.get("rerun") or {}
    found.calls, found.reported = rerun.get("calls", 0), rerun.get("divergences", [])
    found.seconds = (was["duration_ms"] / 1000, now["duration_ms"] / 1000)
    ends = [(one["status"], one.get("reason")) for one in (was, now)]
    if ends[0] != ends[1]:
        found.wrong = f"ended as {ends[1]}, not as {ends[0]}"
    elif diffs[0] != diffs[1]:
        found.wrong = f"another diff: {[(one.path, one.lines[:4]) for one in compare_patches(*diffs)[0][:3]]}"
    return found


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Gateway, str, Path]]:
    """Yield the gateway of a stack with the step model, a project of it, and its folder of sources."""
    async with AsyncExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocf-bench-")))
        model = await stack.enter_async_context(step_model())
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted", "OCF_MODEL_ENDPOINT": model.base_url}
        up = stack.enter_context(running_stack(top, **environ, WARM_SLOTS=str(AT_ONCE)))
        project = await stack.enter_async_context(up.project())
        http = httpx2.AsyncClient(base_url=up.answer["gateway"], trust_env=False, timeout=60)
        yield Gateway(await stack.enter_async_context(http), project.name), project.name, top / "sources"


async def drawn_pairs(count: int, kept: Path) -> list[Outcome]:
    """Run the first `count` runs of the seed and their reruns; `kept` has the outcomes, and gets the new ones."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    found = {one.number: one for one in (Outcome(**json.loads(line)) for line in lines)}
    async with serving() as (gateway, project, sources):
        await asyncio.to_thread(repository, sources)
        free = asyncio.Semaphore(AT_ONCE)

        async def one(drawn: Drawn) -> None:
            async with free:
                outcome = await pair(gateway, project, drawn)
            found[drawn.number] = outcome
            sys.stderr.write(outcome.line() + "\n")
            with kept.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")

        await asyncio.gather(*(one(each) for each in draw(SEED, count, sources) if each.number not in found))
    return [found[number] for number in sorted(found) if number < count]


async def measure(options: Options) -> list[Row]:
    """Run the long run and the drawn ones, each with its rerun."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    kept = ROOT / f".bench/drawn-{SEED}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    long = await _long(0.01 if options.quick else _PACE)
    return [long, *_rows(await drawn_pairs(AT_ONCE if options.quick else RUNS, kept))]


async def _long(pace: float) -> Row:
    said = {"say": "word " * _PIECES, "pace": pace}  # five characters are a piece
    args = [{"command": f"echo step {number:02} >> steps.txt", "description": "d"} for number in range(_ANSWERS - 1)]
    asked = prompt(*({**said, "tool": "bash", "args": one} for one in args), said)
    async with serving() as (gateway, project, _):
        found = await pair(gateway, project, Drawn(0, "long", asked))
    if found.wrong:
        raise RuntimeError(found.wrong)
    figure = "rerun of a run of ten minutes whose time was the model's"
    note = f"{found.calls} calls; the run itself was really run, with {pace:g} s between two pieces of an answer"
    return Row(figure, "s", [found.seconds[1]], [found.seconds[0]], "the run", Target("max", 60), note)


def _rows(outcomes: list[Outcome]) -> list[Row]:
    same = [one for one in outcomes if not one.wrong]
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in outcomes).most_common())
    told = [f"{len(outcomes)} runs of the seed {SEED}: {kinds}"]
    told += [f"run {one.number} ({one.kind}): {one.wrong}" for one in outcomes if one.wrong]
    share = 100 * len(same) / len(outcomes)
    reported = [float(len(one.reported)) for one in outcomes]
    parts = Counter(f"{one.kind}, {each['part'].split(' ')[0]}" for one in outcomes for each in one.reported)
    note = f"runs with any: {sum(map(bool, reported))}; by kind and part: {dict(parts)}"
    return [
        Row("drawn runs whose rerun ends the same way with the same diff", "%", [share],
            target=Target("p50", 98, at_least=True), note="; ".join(told)),
        Row("drawn runs: divergences that a rerun reports", "divergences", reported, note=note),
        Row("drawn runs: time of the rerun", "s", [one.seconds[1] for one in same],
            [one.seconds[0] for one in same], "the run, whose model answers at once"),
    ]  # fmt: skip
