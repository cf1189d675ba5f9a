"""An image of 5 MB: submit over the gateway to the model's request, against the same prompt without it, in turn.

The real OpenCode on a warm server. The time includes the upload, both commands on the bus and the model proxy.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import sys
import tempfile
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.measurement import Options, Row, Target
from benchmarks.scripted_model import ScriptedModel
from benchmarks.stack_memory import warm
from tests.support.offline import OPENCODE
from tests.support.stack import Project, running_stack

#: Width and height: 5 MB of random pixels.
_SIDE = 1290


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def image() -> dict[str, str]:
    """A PNG (RFC 2083) that no compression makes smaller."""
    rows = b"".join(b"\0" + os.urandom(3 * _SIDE) for _ in range(_SIDE))
    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    parts = _part(b"IHDR", head), _part(b"IDAT", zlib.compress(rows, 0)), _part(b"IEND", b"")
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()
    return {"name": "shot.png", "media_type": "image/png", "data": data}


async def asked(client: httpx2.AsyncClient, project: Project, model: ScriptedModel, **task: Any) -> float:
    """Seconds from the submit to the model's first request; returns after the end of the run."""
    name = uuid.uuid4().hex[:8]
    body = {"prompt": f"RUN: {name} WORDS: 1 1", "project_id": project.name, **task}
    started = time.time()
    answer = (await client.post("/tasks/execute", json=body, timeout=60)).raise_for_status()
    record = await project.ended(answer.json()["execution_id"], 120)
    if record.state != "completed":
        raise RuntimeError(f"the run ended as {record.state}: {record.message}")
    return model.requests[name][0] - started


async def measure(options: Options) -> list[Row]:
    """Pairs; the first one is not kept."""
    if not OPENCODE.exists():
        raise RuntimeError("OpenCode is not installed: make install")
    found: dict[str, list[float]] = {"with": [], "without": []}
    with (
        ScriptedModel() as model,
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as top,
        running_stack(Path(top), **model.environment()) as stack,
    ):
        async with stack.project() as project, httpx2.AsyncClient(base_url=stack.answer["gateway"]) as client:
            for turn in range(options.of(10) + 1):
                for name, task in (("with", {"attachments": [image()]}), ("without", {})):
                    await warm(stack, 1, timeout=300)
                    # The boot of the next server is over, too.
                    await asyncio.sleep(1)
                    seconds = await asked(client, project, model, **task)
                    sys.stderr.write(f"  {name} {seconds:.2f} s, load {os.getloadavg()[0]:.1f}\n")
                    if turn:
                        found[name].append(seconds)
    name, without = "submit to model request, an image of 5 MB attached", "the same prompt without it"
    return [Row(name, "s", found["with"], found["without"], without, Target("ratio", 1.3))]
