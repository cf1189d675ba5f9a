"""Logs as a collector gets them, and as a person at a terminal does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import httpx2
import structlog
from structlog.testing import capture_logs

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.command_payloads import Cancel
from ocf.events.envelope import new_event
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.observability import logs
from tests.support.clock import ManualClock
from tests.support.parts import PROJECT, bench

ROOT = Path(__file__).parents[2]
SECRET = "sk-a-key-that-nobody-may-read"
TRACE = "0af7651916cd43dd8448eb211c80319c"
EXECUTION = str(uuid.uuid4())

#: A process that logs everything it can: an event handled, dropped, refused and crashed on, a library, a warning.
SPEAKING = f"""
import asyncio, logging, sys, warnings
from ocf.events.errors import Conflict, Drop
from ocf.events.command_payloads import Cancel
from ocf.events.envelope import Event
from ocf.functions.runtime.function import Function
from ocf.functions.observability import logs
from tests.support.parts import bench
from starlette.requests import Request

logs.configure("info")
logs.SECRETS.add({SECRET!r})
headers = {{
    "ce-specversion": "1.0", "ce-id": "1", "ce-type": "dev.ocf.task.cancel.v1", "ce-source": "/test",
    "ce-natssubject": "ocf.cmd.cancel.default.{EXECUTION}", "ce-traceparent": "00-{TRACE}-b7ad6b7169203331-01",
}}
scope = {{"type": "http", "method": "POST", "headers": [(n.encode(), v.encode()) for n, v in headers.items()]}}

async def received(): return {{"type": "http.request", "body": b"{{}}"}}

async def fine(event): ...
async def drop(event): raise Drop("it has ended")
async def refuse(event): raise Conflict("another has it")
async def crash(event):
    try:
        raise KeyError("the words of a prompt")
    except KeyError as error:
        raise ValueError("two\\nlines with the words of a prompt") from error
async def invalid(event): Cancel.model_validate_json('{{"why": ["the words of a prompt"]}}')

async def main():
    for handler in (fine, drop, refuse, crash, invalid):
        function = Function(handler)
        await function.start(bench().deps)
        await function.respond(Request(scope, received))

asyncio.run(main())
try:
    raise OSError("one\\ntwo {SECRET}")
except OSError:
    logging.getLogger("opentelemetry.exporter").exception("not sent: %s", "{SECRET}")
logging.getLogger("httpx2").info("HTTP Request: POST http://somewhere/")
warnings.warn("odd", stacklevel=1)
"""


def spoken(reading: int, writing: int) -> str:
    """What that process says to the other end of a pipe, or of a terminal."""
    code = [sys.executable, "-W", "default", "-c", SPEAKING]
    said = b""
    with subprocess.Popen(code, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=writing) as process:
        os.close(writing)
        with suppress(OSError):  # a terminal that nobody holds any more has no end, but an error (EIO)
            while part := os.read(reading, 65_536):
                said += part
        os.close(reading)
        assert process.wait(60) == 0, said
    return said.decode()


def test_every_line_is_one_json_object_that_says_what_it_is_about() -> None:
    """Ours and those of libraries: an action, a level, a time; of an event also its execution, project and trace. An
    exception is a field of its line: its kind and place, its words only where they are about files or such. No key and
    no input that was wrong is in any of them."""
    lines = [json.loads(line) for line in spoken(*os.pipe()).splitlines()]
    for line in lines:
        assert {"action", "level", "timestamp", "event"} <= line.keys(), line
    ours = [line for line in lines if line["action"].startswith("event.")]
    assert [line["action"] for line in ours] == [
        "event.handled",
        "event.dropped",
        "event.refused",
        "event.failed",
        "event.failed",
    ]
    for line in ours:
        assert (line["execution_id"], line["project_id"], line["trace_id"]) == (EXECUTION, PROJECT, TRACE), line
    assert ours[0]["seconds"] >= 0
    assert "in crash" in ours[3]["exception"]
    assert ours[3]["exception"].split("\nAfter:\n")[0].endswith("ValueError")
    assert ours[3]["exception"].endswith("KeyError")
    theirs = {line["action"]: line for line in lines if line["action"].startswith("log.")}
    assert set(theirs) == {"log.opentelemetry.exporter", "log.py.warnings"}
    assert "OSError: one" in theirs["log.opentelemetry.exporter"]["exception"]
    said = json.dumps(lines)
    assert SECRET not in said
    assert "the words of a prompt" not in said


def test_at_a_terminal_it_is_text() -> None:
    """A line begins with the time and the level, in words; nothing is JSON, and the key is hidden there as well."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", spoken(*os.openpty()))
    first = plain.splitlines()[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ \[info +\] event handled +action=event.handled", first), first
    assert f"execution_id={EXECUTION}" in first
    assert '{"' not in plain
    assert SECRET not in plain


async def test_dispatcher_log_lines_name_execution_and_trace() -> None:
    """Also when the message is no event at all."""
    row = next(row for row in ROUTES if row.consumer == "cancel")
    bus = MemoryBus(ManualClock())
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(503)))
    event = new_event(
        "dev.ocf.task.cancel.v1",
        Cancel(execution_id=EXECUTION, project_id=PROJECT),
        source="/test",
        time=bench().deps.clock.now(),
    ).with_extensions(traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    subject = subjects.command("cancel", PROJECT, EXECUTION)
    await bus.publish(subject, event.data, event.headers())
    await bus.publish(subject, b"rubbish", {})
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as said:
        for delivery in await bus.fetch(row.spec(), 2, 1):
            await Dispatcher(
                row, FunctionTarget(row, "http://function/", None, http), bus=bus, clock=bus.clock
            ).dispatch(delivery)
    retried, dead = said
    assert (retried["action"], dead["action"]) == ("dispatch.retry", "dispatch.dead_letter")
    assert (retried["execution_id"], retried["project_id"], retried["trace_id"]) == (EXECUTION, PROJECT, TRACE)
    assert (dead["execution_id"], dead["project_id"]) == (EXECUTION, PROJECT)


def test_lines_about_a_session_name_the_session() -> None:
    """Its id is not taken for an execution's."""
    about = logs.about(f"ocf.cmd.session.{PROJECT}.{EXECUTION}")
    assert about == {"project_id": PROJECT, "session_id": EXECUTION}
    assert logs.about("not.ours") == {}
