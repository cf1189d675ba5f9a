"""How the functions scale: from zero, one by one, and fifty executions at once."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter

import httpx2
import pytest

from ocf.events.output import ChunkType
from tests.support.cluster import NAMESPACE, NEEDS_CLUSTER, Cluster, at_zero, kubectl, pod_of, pods, scaled, until

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(2400)]
#: The gateway's service has another host from outside; the others are asked at their cluster-local address.
FUNCTIONS = ("submit", "execute", "cancel", "cleanup", "archive", "session", "history", "trigger", "result")
#: Runs of a warm pod.
WARM = 8
FIFTY = int(os.environ.get("OCF_E2E_EXECUTIONS", "50"))


async def test_each_function_starts_from_zero_and_is_fast_when_warm(
    here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request to each function without a pod is held until there is one; the next takes milliseconds."""
    await until("no pod of a function", at_zero, 240)
    said = []
    async with httpx2.AsyncClient(timeout=120, trust_env=False) as http:
        for function in FUNCTIONS:

            async def none(function: str = function) -> bool:
                return not await pods(function)

            await until(f"no pod of {function}", none, 120)
            taken = []
            for _ in range(6):
                started = time.monotonic()
                answer = await http.get(f"http://{function}.{NAMESPACE}.svc.cluster.local/ready")
                taken.append(time.monotonic() - started)
                assert answer.status_code == 200, answer.text
            said.append((function, taken[0], sorted(taken[1:])[2]))
    with capsys.disabled():
        for function, cold, warm in said:
            print(f"\n    {function}: cold {cold:.1f} s, warm {warm * 1000:.0f} ms", end="")
    assert all(warm < cold for _, cold, warm in said)


async def test_a_warm_pod_answers_soon(here: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """With a pod of submit and one of execute that stay (`min-scale`) and a server that has booted, a run's first chunk
    and first word are there within seconds; what both containers hold of memory is said."""
    first, word = [], []
    async with scaled("submit", 1), scaled("execute", 1):
        for number in range(WARM):
            [pod] = await pods("execute", ending=False)

            async def warm(pod: str = pod, times: int = number) -> bool:
                return (await kubectl("logs", pod, "-c", "execute")).count("slots.ready") > times

            await until("a warm server", warm, 180)
            if not number:
                idle = await memory(pod)
            started = time.monotonic()
            execution = await here.client.submit(prompt="Say hello")
            heard: dict[bool, float] = {}
            async for chunk in here.client.watch(execution):
                heard.setdefault(chunk.type is ChunkType.TEXT, time.monotonic() - started)
            first.append(min(heard.values()))
            word.append(heard[True])
            assert (await pod_of(await here.ended(execution))) == pod
        used = await memory(pod)
    with capsys.disabled():
        for what, seconds in (("chunk", first), ("word", word)):
            said = " ".join(f"{each:.2f}" for each in sorted(seconds))
            print(f"\n    warm pod, first {what}: median {statistics.median(seconds):.2f} s of {said}", end="")
        print(f"\n    memory in MiB, now (peak): idle {idle}; after {WARM} runs {used}")
    assert statistics.median(word) < 5.0


async def memory(pod: str) -> dict[str, str]:
    """What each container's control group holds that does not go away, and its peak, in MiB."""
    code = (
        "import pathlib as p; c = p.Path('/sys/fs/cgroup'); c = c / 'memory' if (c / 'memory').is_dir() else c; "
        "s = dict(l.split() for l in (c / 'memory.stat').read_text().splitlines()); "
        "f = c / 'memory.peak'; f = f if f.exists() else c / 'memory.max_usage_in_bytes'; "
        "print(int(s.get('rss') or s['anon']) >> 20, '(%d)' % (int(f.read_text()) >> 20))"
    )
    names = ("execute", "agent")
    return {name: (await kubectl("exec", pod, "-c", name, "--", "python", "-c", code)).strip() for name in names}


async def test_fifty_at_once_spread_over_several_pods_and_none_is_lost(
    here: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty submitted together: more than one pod takes them, each one at a time; each completes once, in one attempt,
    and is archived; then the functions are back at zero."""
    started = time.monotonic()
    executions = [await here.client.submit(prompt="Say hello") for _ in range(FIFTY)]
    records = await asyncio.gather(*(here.ended(execution, timeout=1800) for execution in executions))
    took = time.monotonic() - started
    assert Counter(record.state for record in records) == {"completed": FIFTY}
    assert {len(record.attempts) for record in records} == {1}
    spread = Counter(record.attempts[0].worker for record in records)
    assert len(spread) > 1
    for execution in executions:
        assert await here.terminal_facts(execution) == ["completed"]
        await here.archived(execution, timeout=300)
    zero = await until("no pod of a function", at_zero, 300)
    with capsys.disabled():
        print(f"\n    {FIFTY} executions: {took:.0f} s, pods {sorted(spread.values())}, at zero after {zero:.0f} s")
