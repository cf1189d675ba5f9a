"""The wall clock of an execute function jumps in mid-run; libfaketime turns it, the servers around it are real."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ocf.events import subjects
from ocf.events.adapters.s3 import S3Config
from ocf.events.command_payloads import Submit
from ocf.events.command_publisher import NATS_SUBJECT
from ocf.events.envelope import decode, new_event
from ocf.events.event_types import TYPES
from ocf.events.execution_record import Record
from ocf.events.lifecycle import State
from ocf.events.output import Chunk, ChunkType
from ocf.functions.runtime.bootstrap import Dependencies, build
from ocf.functions.settings.settings import Settings
from tests.support.agents import SCRIPTED
from tests.support.handlers import submit
from tests.support.nats import NatsServer
from tests.support.stack import ROOT, gapless, until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
PROJECT = "clock-jumps"
WITHIN = 60.0
TALK = '[[steps]] [{"text": "one word after another ", "delay": 0.2, "times": 10}, {"text": "THE END"}]'
ENDLESS = '[[steps]] [{"text": "one word"}, {"sleep": 600}]'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime"),
]


@dataclass
class Jump:
    """An execution in a process of its own (as JobSink runs it), whose clock is turned by `seconds` at its first word;
    at once when `early`. Ten minutes is much: every S3 refuses a request whose clock is off by more than fifteen."""

    seconds: int
    prompt: str = TALK
    timeout_seconds: int = 60
    early: bool = False


def environment(nats: NatsServer, s3: S3Config, top: Path) -> dict[str, str]:
    return {
        "NATS_URL": nats.url,
        "NATS_CREDS": str(nats.creds),
        "S3_ENDPOINT_URL": s3.endpoint_url or "",
        "S3_BUCKET": s3.bucket,
        "AWS_ACCESS_KEY_ID": s3.access_key or "",
        "AWS_SECRET_ACCESS_KEY": s3.secret_key or "",
        "OPENCODE_BIN": str(SCRIPTED),
        "OCF_MODEL": "openai/none",
        "OCF_MODEL_ENDPOINT": "http://127.0.0.1:9/v1",
        "STATE_DIR": str(top),
        "SANDBOX": "preferred",
    }


async def submitted(deps: Dependencies, jump: Jump) -> tuple[str, str]:
    """An execution whose command waits in the stream; its id, and what JobSink would put into its file."""
    execution = str(uuid.uuid4())
    limits = {"timeout_seconds": jump.timeout_seconds, "silence_seconds": 30}
    body = {"prompt": jump.prompt, "execution_id": execution, "project_id": PROJECT, "limits": limits}
    kind = "dev.ocf.task.submit.v1"
    event = new_event(kind, Submit.model_validate(body), source="/test", time=datetime.now(UTC))
    await submit(deps, event.with_extensions(**{NATS_SUBJECT: TYPES[kind].subject(PROJECT, execution)}))
    message = await deps.bus.last(subjects.COMMANDS, subjects.command("execute", PROJECT, execution))
    assert message is not None
    return execution, json.dumps(decode(message.headers, message.data).structured())


async def chunks(deps: Dependencies, execution: str) -> list[Chunk]:
    subject = subjects.output(PROJECT, execution)
    return [Chunk.model_validate_json(m.data) async for m in deps.bus.history(subjects.OUTPUT, subject)]


async def through(deps: Dependencies, jump: Jump, env: dict[str, str], top: Path) -> tuple[Record, list[Chunk]]:
    """Run it to its end; its record, and what it said."""
    top.mkdir()
    execution, event = await submitted(deps, jump)
    told, clock = top / "event", top / "clock"
    told.write_text(event)
    clock.write_text(f"{jump.seconds if jump.early else 0:+d}s\n")
    wrong = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    own = {"K_EVENT_PATH": str(told), "STATE_DIR": str(top / "state"), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with (top / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ocf.functions.execute.job"),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **env, **wrong, **own},
            stdout=log,
            stderr=log,
        )
    try:

        async def talks() -> bool:
            assert process.returncode is None, (top / "log").read_text()[-3000:]
            return any("word" in chunk.data for chunk in await chunks(deps, execution))

        try:
            await until(talks, timeout=120, what=f"the first word with {jump}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(top / 'log').read_text()[-3000:]}") from None
        clock.write_text(f"{jump.seconds:+d}s\n")
        assert await asyncio.wait_for(process.wait(), WITHIN) == 0, (top / "log").read_text()[-3000:]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    record = await deps.records.get(PROJECT, execution)
    assert record is not None
    return record, await chunks(deps, execution)


async def test_a_clock_that_jumps_ends_nothing(nats_server: NatsServer, s3_server: S3Config, tmp_path: Path) -> None:
    """By minutes either way, in mid-run or from the start: the execution goes on to its end in
    its first attempt within a minute, and what it leaves is stored. Limits count the seconds that have passed."""
    jumps = [
        Jump(600),
        Jump(-600),
        Jump(800, early=True),
        Jump(-600, ENDLESS, timeout_seconds=20),
    ]
    env = environment(nats_server, s3_server, tmp_path / "state")
    async with build(Settings.model_validate(env), "test") as deps:
        ran = [through(deps, jump, env, tmp_path / str(number)) for number, jump in enumerate(jumps)]
        for jump, (record, said) in zip(jumps, await asyncio.gather(*ran), strict=True):
            wanted: Any = State.COMPLETED if jump.prompt == TALK else State.TIMED_OUT
            assert (record.state, len(record.attempts)) == (wanted, 1), (jump, record.reason, record.message)
            assert record.ended_at is not None
            off = (record.ended_at - datetime.now(UTC)).total_seconds()
            assert abs(off - jump.seconds) < 120, f"the clock of {jump} was off by {off} s"
            assert gapless(said)
            assert [chunk.data for chunk in said if chunk.type is ChunkType.GAP] == [], jump
            names = {info.key.rsplit("/", 1)[-1] async for info in deps.store.list(f"{PROJECT}/{record.execution_id}/")}
            assert {"workspace.patch", "workspace.tar.zst"} <= names, jump
