"""Whatever fails, in whatever order: one branch with one commit, one pull request, one comment."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocf.functions.publishing.branch import ResultRejected
from tests.support.forge import StandIn, stand_in
from tests.support.git_http import run_git
from tests.support.publishing import FILES, Publishing, publishing

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Try:
    """One try to publish, and what goes wrong at the call of that number: of the API, or `push` of git."""

    archived: bool
    fault: str
    call: int
    status: int


TRIES = st.builds(
    Try,
    archived=st.booleans(),
    fault=st.sampled_from(["none", "before", "after", "before push", "after push", "killed", "killed at push"]),
    call=st.integers(0, 3),
    status=st.sampled_from([500, 502, 403, 429, 422, 0]),
)


async def attempt(run: Publishing, forge: StandIn, one: Try) -> None:
    """Publish with that fault. `killed`: the worker is gone at that call, before or after it had an effect."""
    seen = 0
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(run.publish_archived() if one.archived else run.publish())

    def at(fault: str, status: int | None) -> Callable[..., int | None]:
        def count(*_: object) -> int | None:
            nonlocal seen
            seen += 1
            if one.fault != fault or seen - 1 != one.call:
                return None
            if fault.startswith("killed"):
                loop.call_soon_threadsafe(working.cancel)
            return status

        return count

    forge.before = at("before" if one.fault != "killed" else "killed", one.status)
    forge.after = at("after", one.status or 502)
    forge.git.before_push = at("before push", one.status or 500)
    forge.git.after_push = at("after push" if one.fault != "killed at push" else "killed at push", 500)
    with suppress(ResultRejected, asyncio.CancelledError):
        await working
    forge.before = forge.after = lambda *_: None
    forge.git.before_push = forge.git.after_push = lambda: None


async def scene(tries: list[Try], folder: Path) -> None:
    with stand_in(folder / "forge", FILES) as forge:
        run = await publishing(forge, folder / "run")
        run.write("src/app.py", "print('two')\n")
        run.write("new.txt", "new\n")
        await run.archive()
        for one in tries:
            await attempt(run, forge, one)
            assert len(forge.pulls) <= 1
        published = await run.publish_archived()
        (pull,) = forge.pulls
        assert published.pull_request is not None
        assert published.pull_request.number == pull["number"]
        assert forge.commits("ocf/fix") == [published.commit, forge.head("main")]
        wanted = FILES | {"src/app.py": "print('two')\n", "new.txt": "new\n"}
        assert forge.tree("ocf/fix") == {path: f"100644 {text}" for path, text in wanted.items()}
        refs = run_git("for-each-ref", "--format=%(refname)", cwd=forge.root / "team/app.git").split()
        assert refs == ["refs/heads/main", "refs/heads/ocf/fix"]


@settings(max_examples=25)
@given(st.lists(TRIES, min_size=1, max_size=4))
def test_any_order_of_faults_makes_one_of_each(tries: list[Try]) -> None:
    """Refusals, lost answers, broken connections, a worker that is gone at any call: none doubled, none lost."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scene(tries, Path(folder)))
