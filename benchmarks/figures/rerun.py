"""Drawn runs of the real OpenCode, each run again: how many end with the same diff, and what differs.

`OCF_BENCH_SEED` is the seed. Without `--quick` it is a hundred runs, two at a time, which takes half an hour.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.drawn_runs import Drawn, draw, repository
from benchmarks.harness import Options, Row, Target
from ocf.functions.core.execution_comparison import WORKSPACE, compare_patches
from tests.support.offline import OPENCODE
from tests.support.stack import running_stack, until
from tests.support.step_model import step_model

SEED = int(os.environ.get("OCF_BENCH_SEED", "20"))
RUNS, AT_ONCE = 100, 2
#: Seconds of one run until its archive, on a busy machine.
_PATIENCE = 300.0


@dataclass
class Outcome:
    """A drawn run and its rerun. `wrong` says why the pair is not the same; `reported` are the rerun's divergences."""

    drawn: Drawn
    calls: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)
    reported: list[dict[str, Any]] = field(default_factory=list)
    wrong: str = ""

    def line(self) -> str:
        """Return it for people."""
        took = f"{self.seconds[0]:.1f} s, rerun {self.seconds[1]:.1f} s"
        return f"  {self.drawn.number} {self.drawn.kind}: {self.calls} calls, {took} {self.wrong or 'same'} " + " | ".join(
            f"call {one['call']} {one['part']}: {one.get('text')}" for one in self.reported
        )


class Gateway:
    """What the figures ask of a stack, over REST."""

    def __init__(self, http: httpx.AsyncClient, project: str) -> None:
        self._http, self._project = http, project

    async def ended(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Submit a task; return its status once its archive is complete."""
        query = {} if "project_id" in body else {"project_id": self._project}
        answer = await self._http.post(path, params=query, json=body)
        if answer.status_code != httpx.codes.ACCEPTED:
            raise RuntimeError(f"{path}: {answer.text}")
        execution = answer.json()["execution_id"]

        async def look() -> Any:  # noqa: ANN401 - JSON
            found = (await self._get(execution, "status")).json()
            return found if found["archived"] else None

        return dict(await until(look, timeout=_PATIENCE, what=f"the archive of {execution}"))

    async def diff(self, execution: str) -> str:
        """Return its patch; where it ran is no difference."""
        return WORKSPACE.sub(".", (await self._get(execution, "diff")).text)

    async def _get(self, execution: str, what: str) -> httpx.Response:
        return await self._http.get(f"/tasks/{execution}/{what}", params={"project_id": self._project})


async def pair(gateway: Gateway, project: str, drawn: Drawn) -> Outcome:
    """Run a drawn run, and run it again."""
    found = Outcome(drawn)
    body = {"prompt": drawn.prompt, "recording": "full", "project_id": project, **drawn.fields}
    try:
        was = await gateway.ended("/tasks/execute", body)
        now = await gateway.ended(f"/tasks/{was['execution_id']}/rerun", {})
        diffs = [await gateway.diff(one["execution_id"]) for one in (was, now)]
    except (AssertionError, RuntimeError, httpx.HTTPError) as error:
        found.wrong = str(error)
        return found
    rerun = now.get("rerun") or {}
    found.calls, found.reported = rerun.get("calls", 0), rerun.get("divergences", [])
    found.seconds = (was["duration_ms"] / 1000, now["duration_ms"] / 1000)
    ends = [(one["status"], one.get("reason"), one.get("message")) for one in (was, now)]
    if ends[0] != ends[1]:
        found.wrong = f"ended as {ends[1]}, not as {ends[0]}"
    elif diffs[0] != diffs[1]:
        found.wrong = f"another diff: {[(one.path, one.lines[:4]) for one in compare_patches(*diffs)[0][:3]]}"
    return found


async def drawn_pairs(count: int) -> list[Outcome]:
    """Run the first `count` runs of the seed and their reruns on a stack of their own."""
    async with AsyncExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ocf-bench-")))
        model = await stack.enter_async_context(step_model())
        up = stack.enter_context(
            running_stack(
                top,
                OPENCODE_BIN=str(OPENCODE),
                OCF_MODEL="local/scripted",
                OCF_MODEL_ENDPOINT=model.base_url,
                WARM_SLOTS=str(AT_ONCE),
            )
        )
        sources = top / "sources"
        await asyncio.to_thread(repository, sources)
        project = await stack.enter_async_context(up.project())
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=up.answer["gateway"], trust_env=False, timeout=60)
        )
        gateway, free = Gateway(http, project.name), asyncio.Semaphore(AT_ONCE)

        async def one(drawn: Drawn) -> Outcome:
            async with free:
                found = await pair(gateway, project.name, drawn)
            sys.stderr.write(found.line() + "\n")
            return found

        return list(await asyncio.gather(*(one(each) for each in draw(SEED, count, sources))))
