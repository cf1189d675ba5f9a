"""A parent and its workers: who takes a delivery, and that nobody notices what becomes of the others."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.processes import alive, command_line
from tests.support.stack import Stack, running_stack, until
from tests.support.workers import Parent, post, running_parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
KEY = "sk-only-for-workers-0123456789"


async def test_each_delivery_has_a_process_of_its_own_and_the_sixth_waits(tmp_path: Path) -> None:
    """Five at once, then 429 with Retry-After, whatever the body; when one has ended the next is taken."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="5") as parent:
        async with parent.http() as http:
            five = [asyncio.create_task(post(http, seconds=3)) for _ in range(5)]
            await until(lambda: _counted(http, 5), what="five at work")
            large = await http.post("/", content=b"x" * 2_000_000)
            assert (large.status_code, large.headers["retry-after"]) == (429, "1")
            assert (await http.get("/health")).json() == {"status": "ok"}
            answers = [answer.json() for answer in await asyncio.gather(*five)]
            assert len({answer["pid"] for answer in answers}) == 5
            assert len({answer["state_dir"] for answer in answers}) == 5
            assert (await post(http)).status_code == 200
            # One is kept, the rest are let go.
            await until(lambda: _count(parent, 1), what="surplus gone")


async def _taken(http: httpx2.AsyncClient) -> bool:
    return (await post(http)).status_code == 200


async def _count(parent: Parent, number: int) -> bool:
    return len(parent.workers()) == number


def test_a_process_that_ends_while_it_is_looked_at_is_no_error() -> None:
    """Listed first, gone afterwards: as when surplus workers are let go."""
    with subprocess.Popen(["true"]) as ends:
        found = psutil.Process(ends.pid)
    assert (alive(found), command_line(found)) == (False, "")


async def test_a_killed_worker_is_nobody_elses_matter(tmp_path: Path) -> None:
    """Its delivery gets no answer; the others get theirs, and there is a worker for the next."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="3") as parent:
        async with parent.http() as http:
            others = [asyncio.create_task(post(http, seconds=2)) for _ in range(2)]
            with pytest.raises(httpx2.TransportError):
                await post(http, die=1)
            assert [answer.result().status_code for answer in (await asyncio.wait(others))[0]] == [200, 200]
            await until(lambda: _taken(http), what="the next")


@pytest.mark.parametrize("how", ["spin", "stop"])
async def test_a_worker_that_hangs_is_ended_and_its_neighbour_goes_on(tmp_path: Path, how: str) -> None:
    """Its event loop does not answer: an endless computation, or a stopped process. Its delivery breaks off after the
    time for that; meanwhile others are taken and answered."""
    with running_parent(tmp_path, hang=2, MAX_CONCURRENT_TASKS="2") as parent:
        async with parent.http() as http:
            neighbour = asyncio.create_task(post(http, seconds=6))
            await until(lambda: _counted(http, 1), what="a worker at work")
            before = {worker.pid for worker in parent.workers()}
            stuck = asyncio.create_task(post(http, **({"spin": 3600} if how == "spin" else {"seconds": 3600})))
            await until(lambda: _counted(http, 2), what="another worker")
            if how == "stop":
                (hanging,) = [worker for worker in parent.workers() if worker.pid not in before]
                hanging.suspend()
            with pytest.raises(httpx2.TransportError):
                await stuck
            assert not neighbour.done()
            await until(lambda: _taken(http), what="the next")
            assert (await neighbour).status_code == 200
        assert "hanging worker killed" in parent.log.read_text()


async def test_work_that_outlasts_its_connection_keeps_its_worker(tmp_path: Path) -> None:
    """The dispatcher restarts: the run goes on, and nothing else is given to its worker before it has ended."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="2") as parent:
        async with parent.http() as http:
            with pytest.raises(httpx2.ReadTimeout):
                await http.post("/", content=json.dumps({"seconds": 4}), timeout=0.5)
            running = asyncio.create_task(post(http, seconds=2))
            await until(lambda: _counted(http, 2), what="both at work")
            assert (await post(http)).status_code == 429
            assert (await running).status_code == 200
            await until(lambda: _count(parent, 1), what="surplus gone")


async def test_told_to_go_it_lets_work_end(tmp_path: Path) -> None:
    """SIGTERM: nothing new, what runs is answered, and no process is left."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="2") as parent:
        async with parent.http() as http:
            running = asyncio.create_task(post(http, seconds=1.5))
            await until(lambda: _counted(http, 1), what="at work")
            workers = parent.workers()
            parent.process.send_signal(signal.SIGTERM)
            assert (await running).status_code == 200
            with pytest.raises(httpx2.TransportError):
                await post(http)
        assert parent.process.wait(10) == 0
        assert not any(worker.is_running() for worker in workers)


async def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """Killed, it can tell nobody; the kernel does."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="2") as parent:
        async with parent.http() as http:
            running = asyncio.create_task(post(http, seconds=60))
            await until(lambda: _counted(http, 1), what="at work")
            workers = parent.workers()
            parent.process.kill()
            with pytest.raises(httpx2.TransportError):
                await running
        await until(lambda: _none(workers), what="no worker")


async def _none(workers: list[psutil.Process]) -> bool:
    return not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


async def test_silent_connection_takes_no_worker_and_half_a_request_times_out(tmp_path: Path) -> None:
    """Hundreds of connections that say nothing are kept from nobody, and neither is a byte of a request."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="2") as parent:
        async with parent.http() as http:
            silent = []
            for number in range(600):
                one = socket.create_connection(("127.0.0.1", parent.port))
                one.send(b"POST"[: number % 4])
                silent.append(one)
            assert (await http.get("/health")).status_code == 200
            assert (await post(http)).status_code == 200
            for one in silent:
                one.close()


async def test_no_more_boot_at_once_than_there_are_processors(tmp_path: Path) -> None:
    """Over all workers so many boot at once as there are processors (two at least)."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="8") as parent:
        async with parent.http() as http:
            answers = [one.json() for one in await asyncio.gather(*(post(http, boot=0.4) for _ in range(8)))]
    most = max(2, len(os.sched_getaffinity(0)))
    for answer in answers:
        beside = [one for one in answers if one["turn"] <= answer["turn"] < one["ended"]]
        assert len(beside) <= most


async def test_any_worker_says_what_all_have_counted(tmp_path: Path) -> None:
    """Also what those have counted that died or left."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="3") as parent:
        async with parent.http() as http:
            await asyncio.gather(*(post(http, seconds=0.5) for _ in range(3)))
            await until(lambda: _counted(http, 3), what="three")
            await until(lambda: _count(parent, 1), what="two gone")
            for worker in parent.workers():
                worker.kill()
            await until(lambda: _counted(http, 3), what="three, after a new process")
            await post(http)
            await until(lambda: _counted(http, 4), what="four")


async def _counted(http: httpx2.AsyncClient, number: int) -> bool:
    try:
        text = (await http.get("/metrics")).text
    except httpx2.TransportError:
        return False  # asked a worker that was ended meanwhile
    return f"ocf_output_bytes_total {number:.1f}" in text.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_the_parent_holds_no_key_whoever_started_it(tmp_path: Path) -> None:
    """Started with keys in its environment it begins anew without: none is in its memory, its workers have them."""
    memory = pytest.importorskip("tests.integration.test_stack_life").memory
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="2", OPENAI_API_KEY=KEY) as parent:
        async with parent.http() as http:
            assert (await post(http)).status_code == 200
            (worker,) = parent.workers()
            assert KEY.encode() in memory(worker.pid)
            assert KEY.encode() not in memory(parent.process.pid)


async def test_delivery_that_cannot_start_is_answered_with_its_status(tmp_path: Path) -> None:
    """The first worker ends at once, for a wrong setting or without NATS: so does the parent, with its status."""
    with running_parent(tmp_path, MAX_CONCURRENT_TASKS="2", OCF_MODEL_ENDPOINT="http://broken/") as parent:
        assert await asyncio.to_thread(parent.process.wait, 30) == 3


async def test_one_of_three_executions_loses_its_worker(tmp_path: Path) -> None:
    """SIGKILL of one worker while all three speak: that one is `worker_lost`, the others complete in their first
    attempt and are never silent; SIGSTOP of one leaves the others' chunks flowing just so."""
    talk = [{"text": "the quick brown fox ", "delay": 0.1, "times": 80}]
    with running_stack(tmp_path, MAX_CONCURRENT_TASKS="3") as stack:
        async with stack.project() as one, stack.project() as other:
            lost = await one.submit([{"text": "still here ", "delay": 0.1, "times": 3000}])
            kept = [(project, await project.submit(talk)) for project in (one, other)]
            await one.running(lost, "here")
            for project, execution in kept:
                await project.running(execution, "quick")
            record = await one.client.status(lost)
            victim = int(record.attempts[-1].worker.rsplit("-", 1)[-1])
            assert victim in {worker.pid for worker in stack.workers()}
            os.kill(victim, signal.SIGSTOP)
            for project, execution in kept:
                said = len(await project.chunks(execution))
                await until(lambda p=project, e=execution, n=said: _more(p, e, n), timeout=5, what="more chunks")
            os.kill(victim, signal.SIGKILL)
            for project, execution in kept:
                ended = await project.ended(execution, 60)
                assert (ended.state, len(ended.attempts)) == ("completed", 1), ended
                chunks = [chunk.timestamp for chunk in await project.chunks(execution) if chunk.type == "text"]
                longest = max((b - a).total_seconds() for a, b in itertools.pairwise(chunks))
                assert longest < 3, longest
            ended = await one.ended(lost, 75)
            assert (ended.state, ended.reason) == ("failed", "worker_lost"), ended


async def _more(project: object, execution: str, number: int) -> bool:
    return len(await project.chunks(execution)) > number + 3  # type: ignore[attr-defined]


async def test_the_same_id_in_two_projects_runs_twice_at_once(tmp_path: Path) -> None:
    """Neither joins, blocks or ends the other, and each has its own files."""
    with running_stack(tmp_path, MAX_CONCURRENT_TASKS="2") as stack:
        await _twice(stack)


async def _twice(stack: Stack) -> None:
    async with stack.project() as one, stack.project() as other:
        steps = [{"write": {"path": "notes.md", "content": "mine"}}, {"text": "word ", "delay": 0.1, "times": 30}]
        first = await one.submit(steps)
        assert await other.submit(steps, execution_id=first) == first
        for project in (one, other):
            await project.running(first, "word")
        for project in (one, other):
            ended = await project.ended(first, 60)
            assert (ended.state, len(ended.attempts)) == ("completed", 1), ended
            assert "workspace.patch" in await project.objects(first)
