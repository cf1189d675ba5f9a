"""The real OpenCode behind the model proxy, with the offline scripted model as its provider."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ocf.events.command_payloads import Limits, ModelConfigData
from ocf.events.lifecycle import Reason
from ocf.functions.core.system_clock import SystemClock
from ocf.functions.execute.agent.config import CATALOG
from ocf.functions.execute.model_proxy import Hooks, ModelProxy, ModelProxyFailure, RetryPolicy, Upstream
from ocf.functions.execute.model_proxy.api_formats import CANNED_DELTAS, CANNED_WORD
from ocf.functions.models.model_target import ModelTarget
from ocf.functions.models.offline_model import OfflineModel, OfflineModelFailed
from ocf.functions.models.resolve import ModelSettings, resolve
from tests.support.faulty_model import Act, cut, faulty_model, status
from tests.support.offline import DEMO_PROMPT, DEMO_REPO, OPENCODE, offline_spec, opencode_env

KEY = "sk-planted-0123456789-abcdefghijkl"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
]


@pytest.fixture
async def model_proxy() -> AsyncIterator[ModelProxy]:
    """A model proxy without a target, with quick retries."""
    upstream = Upstream(SystemClock(), retry=RetryPolicy(tries=2, base=0.01))
    started = await ModelProxy(upstream, SystemClock()).start()
    yield started
    await started.close()
    await upstream.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A copy of the demo repository."""
    return Path(shutil.copytree(DEMO_REPO, tmp_path / "workspace"))


async def run_opencode(
    workspace: Path,
    model_proxy: ModelProxy,
    prompt: str,
    kind: str = "openai",
    until: Callable[[], bool] = lambda: False,
) -> str:
    """`opencode run PROMPT`; ends it as soon as `until()`. What it said."""
    home = workspace.parent / "home"
    home.mkdir()
    env = opencode_env(home, model_proxy.base_url, model_proxy.token, "scripted", kind)
    (home / CATALOG).write_text("{}")
    env["OPENCODE_MODELS_PATH"] = str(home / CATALOG)
    process = await asyncio.create_subprocess_exec(
        str(OPENCODE), "run", "--format", "json", prompt, cwd=workspace, env=env, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = asyncio.create_task(process.communicate())
    try:
        while not said.done() and not until():
            await asyncio.wait({said}, timeout=0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return (await said)[0].decode(errors="replace")


async def unittests(workspace: Path) -> int:
    """The exit code of the repository's own tests."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-B", "-m", "unittest", cwd=workspace, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_the_demo_task_ends_with_passing_tests(workspace: Path, model_proxy: ModelProxy, kind: str) -> None:
    """Real tools, real edit, in both wire forms; model_config is read back from the model's request journal."""
    assert await unittests(workspace) == 1
    config = ModelConfigData(
        provider="offline", model="scripted", model_version="7", temperature=0.125, max_tokens=4321,
        enabled_tools=["bash", "read", "edit", "todowrite"],
    )  # fmt: skip
    async with OfflineModel(offline_spec()) as model:
        target = resolve(config, ModelSettings(offline_url=model.base_url))
        target = replace(target, kind=kind, api_key=SecretStr(KEY))  # type: ignore[arg-type]
        model_proxy.assign(target, Limits())
        said = await run_opencode(workspace, model_proxy, DEMO_PROMPT, kind)
        journal = await model.journal()
    assert "offline scripted model" in said
    assert await unittests(workspace) == 0
    assert model_proxy.failure is None
    assert model_proxy.usage.requests >= 8
    assert model_proxy.usage.total_tokens > 0
    for text in (said, *(path.read_text(errors="replace") for path in workspace.parent.rglob("*") if path.is_file())):
        assert KEY not in text
    for body in (entry["body"] for entry in journal):
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("scripted-7", 0.125, 4321)
        names = {tool["function"]["name"] for tool in body.get("tools") or []}
        assert names <= {"bash", "read", "edit", "todowrite"}
    assert any(entry["body"].get("tools") for entry in journal)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_throw_away_prompt_is_answered_by_the_broker(
    workspace: Path, model_proxy: ModelProxy, kind: str
) -> None:
    """A warm slot boots without a model: OpenCode takes the canned word for a complete answer, at no cost."""
    said = await run_opencode(workspace, model_proxy, "boot", kind)
    assert CANNED_WORD * CANNED_DELTAS in said
    assert model_proxy.usage.requests == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("act", "reason"), [
    (cut("half of an ans"), Reason.MODEL_ERROR), (status(401), Reason.MODEL_AUTH),
], ids=["cut", "auth"])  # fmt: skip
async def test_a_failing_provider_is_decided_by_the_broker(
    workspace: Path, model_proxy: ModelProxy, act: Act, reason: Reason
) -> None:
    """OpenCode would retry for ever; the model proxy says when it is over, and calls who listens."""
    failures: list[ModelProxyFailure] = []
    async with faulty_model(act) as model:
        target = ModelTarget("local", "scripted", "openai", model.base_url, SecretStr(KEY))
        model_proxy.assign(target, Limits(), Hooks(on_failure=failures.append))
        said = await run_opencode(workspace, model_proxy, "hello", until=lambda: bool(failures))
    assert [failure.reason for failure in failures] == [reason]
    assert KEY not in said


async def test_the_offline_model_starts_on_its_own_port_and_leaves_nothing() -> None:
    """Two at once do not meet; after stop the process is gone; the journal tells what a model would have been sent."""
    async with OfflineModel(offline_spec()) as one, OfflineModel(offline_spec()) as two:
        assert one.port != two.port
        pids: list[Any] = [one.pid, two.pid]
        assert await one.journal() == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_an_offline_model_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Missing node, missing fixtures, a fixture file that is none: an error with the last lines, no hang."""
    with pytest.raises(OfflineModelFailed, match="cannot be started"):
        await OfflineModel(replace(offline_spec(), node=tmp_path / "node")).start()
    with pytest.raises(OfflineModelFailed, match="no fixtures"):
        await OfflineModel(offline_spec([tmp_path])).start()
    (tmp_path / "broken.json").write_text("nonsense")
    with pytest.raises(OfflineModelFailed, match="did not start"):
        await OfflineModel(offline_spec([tmp_path])).start()
