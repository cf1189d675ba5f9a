"""What was recorded is what was seen: from the stream, from the archive, and as commands for a debugger."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from ocf.events import subjects
from ocf.events.envelope import of_line
from ocf.stack.ports import free_port
from tests.support.receiver import Receiver
from tests.support.stack import OCF, ROOT, Project, until

pytestmark = pytest.mark.slow

STEPS = [
    {"text": "Grüße, 世界 🚀\n", "chunk": 3, "delay": 0.02},
    {"run": "for i in 1 2 3; do echo line $i; done; seq 2000"},
    {"write": {"path": "f.txt", "content": "x\n"}},
    {"usage": {"input": 5, "output": 7, "cost": 0.01}},
    {"text": "done"},
]


async def ocf(project: Project, *arguments: str, fails: bool = False) -> bytes:
    """What `ocf ARGUMENTS` writes."""
    process = await asyncio.create_subprocess_exec(
        OCF, *arguments, "--data-dir", str(project.stack.data_dir), "--project", project.name,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode != 0) is fails, errors.decode() + out.decode()
    return out


async def recorded(project: Project, **query: str) -> bytes:
    """The NDJSON of the output as the gateway gives it."""
    async with httpx2.AsyncClient(base_url=project.stack.answer["gateway"], trust_env=False, timeout=20) as http:
        answer = await http.get(f"/tasks/{query.pop('id')}/output", params={"project_id": project.name, **query})
    assert answer.is_success
    return answer.content


async def watched(project: Project) -> tuple[str, str, bytes, bytes]:
    """An archived run: its id, the digest of what a live NATS subscriber got, and what two `ocf watch` wrote."""
    execution = await project.submit([{"sleep": 0.5}, *STEPS])
    lines: list[bytes] = []
    async with project.bus.listen(subjects.live(project.name, execution)) as live:
        watching = asyncio.gather(ocf(project, "watch", execution, "--json"), ocf(project, "watch", execution))
        record = await project.archived(execution)
        async with asyncio.timeout(20):
            async for message in live:
                lines.append(message.data)
                if json.loads(message.data)["seq"] == record.last_sequence:
                    break
    assert json.loads(lines[0])["seq"] == 1, "it listened before the run began"
    machine, person = await watching
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    return execution, digest, machine, person


async def test_a_replay_gives_the_bytes_that_the_live_stream_gave(project: Project) -> None:
    """By digest: the live subscriber's bytes, the stream's, and, once the stream has forgotten, the archive's; the
    command line renders the same text from each."""
    execution, digest, machine, person = await watched(project)
    for where in ("stream", "archive"):
        if where == "archive":
            assert await project.bus.purge(subjects.OUTPUT, subjects.output(project.name, execution)) > 0
        assert hashlib.sha256(await recorded(project, id=execution)).hexdigest() == digest, where
        played = await ocf(project, "replay", execution, "--json")
        # What watches also gets the final status, as the last line.
        assert played.splitlines() == machine.splitlines()[:-1], where
        shown = await ocf(project, "replay", execution, "--speed", "0")
        assert shown.splitlines() == person.splitlines()[1:], where
        assert "Grüße, 世界 🚀".encode() in shown


async def between_lines(project: Project, execution: str, *arguments: str) -> float:
    """Seconds from the first line of a replay to its last: how long the command takes to start does not count."""
    process = await asyncio.create_subprocess_exec(
        OCF, "replay", execution, *arguments, "--data-dir", str(project.stack.data_dir), "--project", project.name,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60):
        seen = [time.monotonic() async for _ in process.stdout]
        assert await process.wait() == 0
    return seen[-1] - seen[0]


async def test_a_replay_keeps_the_pace_it_is_asked_for(project: Project) -> None:
    """As it was, ten times faster, or all at once."""
    execution = await project.submit([{"text": "a\n"}, {"sleep": 5}, {"text": "b\n"}])
    await project.ended(execution)
    took = {
        speed: await between_lines(project, execution, "--speed", speed, "--max-pause", "60")
        for speed in ("1", "10", "0")
    }
    assert took["1"] > 4.5
    assert took["10"] < took["1"] - 2
    assert took["0"] < took["1"] - 2


async def test_every_event_is_shown_with_its_time_and_cause(project: Project) -> None:
    """Each names what it belongs to; the chain of causes leads back to the submit. The archive says the same."""
    execution = await project.submit(STEPS)
    await project.archived(execution)
    before = (await ocf(project, "replay", execution, "--events", "--json")).splitlines()
    events = [json.loads(line) for line in before]
    by_id = {event["id"]: event for event in events}
    submit = next(event for event in events if event["type"] == "dev.ocf.task.submit.v1")
    for event in events:
        assert event["correlationid"] == execution
        seen = event
        while "causationid" in seen:
            seen = by_id[seen["causationid"]]
        assert seen["id"] == submit["id"], event["type"]
    shown = (await ocf(project, "replay", execution, "--events")).decode()
    assert "because of task.submit" in shown
    # What the archive had when it was made: all but its own fact.
    for stream in (subjects.COMMANDS, subjects.EVENTS):
        await project.bus.purge(stream, f"ocf.*.*.{project.name}.{execution}")
        await project.bus.purge(stream, f"ocf.evt.{project.name}.{execution}.*")
    after = (await ocf(project, "replay", execution, "--events", "--json")).splitlines()
    assert after == [line for line in before if b"task.archived" not in line]


@contextmanager
def dry_function(target: str, folder: Path, agent: Path) -> Iterator[str]:
    """`DRY_RUN=1 FUNCTION_TARGET=... python -m ocf.functions.runtime.serve`; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "DRY_RUN": "1",
        "FUNCTION_TARGET": target, "PORT": str(port), "STATE_DIR": str(folder / "state"),
        "OPENCODE_BIN": str(agent / "opencode"), "OCF_MODEL": "openai/none", "SANDBOX": "preferred",
        "OCF_MODEL_ENDPOINT": "http://127.0.0.1:9/v1",
        # Nothing answers there: whatever it touched would fail.
        "NATS_URL": "nats://127.0.0.1:9",
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ocf.functions.runtime.serve"], env=environ, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


async def test_commands_are_posted_to_a_function_that_touches_nothing(project: Project, tmp_path: Path) -> None:
    """A recorded run, cancelled in the middle, runs again to the same end in a process without NATS and S3."""
    execution = await project.submit([{"text": "going\n"}, {"sleep": 60}])
    await project.running(execution, "going")
    await project.client.cancel(execution, why="seen enough")
    await project.archived(execution)
    facts, objects = await project.facts(execution), await project.objects(execution)
    with dry_function("execute", tmp_path, project.stack.agent) as url:
        answers = await ocf(project, "replay", execution, "--to", url, "--json")
    said = [json.loads(line) for line in answers.splitlines()]
    assert {one["type"] for one in said} == {f"dev.ocf.task.{what}.v1" for what in ("submit", "execute", "cancel")}
    assert {one["status"] for one in said} == {200}
    log = (tmp_path / "log").read_text()
    assert "execution.ended" in log
    assert "cancelled" in log
    assert (await project.facts(execution), await project.objects(execution)) == (facts, objects)


async def test_a_posted_command_is_the_one_that_was_published(project: Project) -> None:
    """Byte for byte, however its publisher spelled its JSON."""
    execution = await project.submit("x")
    await project.archived(execution)
    odd = b'{ "execution_id":"%b",\n "project_id" : "%b", "why":"\\u00fc" }' % (
        execution.encode(),
        project.name.encode(),
    )
    headers = {"ce-specversion": "1.0", "ce-id": "odd-1", "ce-source": "/t", "ce-type": "dev.ocf.task.cancel.v1"}
    await project.bus.publish(subjects.command("cancel", project.name, execution), odd, headers)
    await until(lambda: _has(project, execution, odd), what="the odd command")
    receiver = Receiver(free_port())
    with receiver.listening():
        await ocf(project, "replay", execution, "--to", f"http://127.0.0.1:{receiver.port}/", "--only", "cancel")
    [posted] = receiver.posted
    assert (posted.body, posted.headers["ce-id"]) == (odd, "odd-1")


async def _has(project: Project, execution: str, data: bytes) -> bool:
    lines = (await ocf(project, "replay", execution, "--events", "--json")).splitlines()
    return any(of_line(line).data == data for line in lines)
