"""A backend in Go: the released CloudEvents SDK publishes submits, and reads facts and output.

It stands for every SDK that speaks the NATS binding 1.0.2: a structured event is JSON without any header, and a binary
event has its content type in `ce-datacontenttype`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from ocf.events import subjects
from tests.support.stack import Project, Stack, gapless

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/go"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("go") is None, reason="needs go"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def backend() -> Path:
    """The Go program, built once for its sources."""
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")))
    program = ROOT / f".tools/go/cloudevents-{digest.hexdigest()[:16]}"
    if not program.exists():
        made = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["go", "build", "-o", made, "."], cwd=SOURCE, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
        made.rename(program)
    return program


def run(backend: Path, stack: Stack, *args: str, project: str, execution: str) -> str:
    """What the program prints."""
    nats = (stack.answer["nats"], stack.answer["nats_creds"])
    done = subprocess.run([backend, *args, *nats, project, execution], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_a_submit_of_the_go_sdk_runs_and_is_read_by_it(
    backend: Path, stack: Stack, project: Project, mode: str
) -> None:
    """Its submit completes; it understands each fact and chunk that comes of it, with its content type."""
    execution = str(uuid.uuid4())
    run(backend, stack, "submit", mode, project=project.name, execution=execution)
    kept = await project.bus.last(subjects.COMMANDS, subjects.command("submit", project.name, execution))
    assert kept is not None
    names = {name.lower() for name in kept.headers}
    assert "content-type" not in names
    assert ("ce-datacontenttype" in names) == (mode == "binary")
    record = await project.archived(execution)
    assert (record.state, record.title) == ("completed", f"from Go, {mode}: ä 😀")
    assert record.traceparent is not None
    assert record.traceparent.split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    printed = run(backend, stack, "read", project=project.name, execution=execution).splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in printed]
    kinds = [event["type"].removeprefix("dev.ocf.task.").removesuffix(".v1") for event in events]
    assert [kind for kind in kinds if kind != "output"] == ["accepted", "started", "completed", "archived"]
    assert {event["datacontenttype"] for event in events} == {"application/json"}
    assert {event["subject"] for event in events} == {execution}
    output = [event for event in events if event["type"].endswith(".output.v1")]
    assert [int(event["extensions"]["sequence"]) for event in output] == list(range(1, record.last_sequence + 1))
    assert [event["data"]["seq"] for event in output] == list(range(1, record.last_sequence + 1))
    assert len({event["id"] for event in events}) == len(events)
    assert gapless(await project.chunks(execution))
