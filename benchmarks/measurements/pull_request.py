"""End of the agent to the open pull request, against a bare `git push` and the API call: a forge on this machine."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.measurement import Options, Row, Target
from tests.support.forge import TOKEN, stand_in
from tests.support.git_http import run_git
from tests.support.gitea import PROGRAM, running_gitea
from tests.support.publishing import Publishing, publishing

_FILES, _CHANGED = 2_000, 20


@contextmanager
def forge(folder: Path, files: dict[str, str]) -> Iterator[tuple[Any, str, str, str]]:
    """A forge, its repository's URL and name, and a token: Gitea where it is built, else the stand-in of the tests."""
    if PROGRAM.exists():
        with running_gitea(folder / "gitea", files) as gitea:
            yield gitea, gitea.repository, "bot/app", gitea.token
        return
    with stand_in(folder / "forge", files) as simple:
        yield simple, simple.url, "team/app", TOKEN


async def ours(run: Publishing) -> float:
    """Seconds for what the worker does: patch, archive, branch, pull request."""
    started = time.perf_counter()
    await run.archive()
    published = await run.publish()
    took = time.perf_counter() - started
    assert published.pull_request is not None
    return took


async def bare(clone: Path, api_url: str, name: str, branch: str, token: str) -> float:
    """Seconds of a push of a commit that is there already, and of the call."""
    headers = {"Authorization": f"Bearer {token}"}
    body = {"head": branch, "base": "main", "title": "bare", "body": ""}
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
        started = time.perf_counter()
        await asyncio.to_thread(run_git, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}", cwd=clone)
        answer = await client.post(f"{api_url}/repos/{name}/pulls", json=body)
        took = time.perf_counter() - started
    assert answer.status_code == 201, answer.text
    return took


async def measure(options: Options) -> list[Row]:
    """Pairs, alternating; every sample has a branch of its own."""
    files = {f"src/part{number % 50}/file{number}.txt": f"{number}\n" * 40 for number in range(_FILES)}
    full, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        with forge(top, files) as (at, url, name, token):
            login = url.replace("://", f"://x:{token}@")
            for number in range(options.of(10)):
                run = await publishing(at, top / f"run{number}", url=url, token=token)
                run_git("clone", "--quiet", "--depth=1", login, f"clone{number}", cwd=top)
                clone = top / f"clone{number}"
                for changed in range(_CHANGED):
                    path = f"src/part{changed}/file{changed}.txt"
                    run.write(path, f"ours {number}\n")
                    (clone / path).write_text(f"bare {number}\n")
                run_git("commit", "--quiet", "--all", "--message=bare", cwd=clone)
                full.append(await ours(run.asking(branch=f"agent/{number}")))
                plain.append(await bare(clone, at.api_url, name, f"bare/{number}", token))
        kind = "Gitea" if PROGRAM.exists() else "a stand-in"
    note = f"{_FILES} files, {_CHANGED} changed, {kind}; upload to S3 not included"
    more = [mine - theirs for mine, theirs in zip(full, plain, strict=True)]
    rows = [Row("result: agent's end to pull request", "s", full, plain, "git push, API call", None, note)]
    return [*rows, Row("result: more than the bare push and call", "s", more, [], "", Target("p50", 1.5), note)]
