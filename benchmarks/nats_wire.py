"""A NATS subscriber that costs next to nothing: two hundred of them must not be what is measured.

It speaks the client protocol itself (docs.nats.io, "NATS Protocol") and looks at nothing of a message but the mark
that the publisher put into it: `@` + perf_counter_ns + `@`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import nkeys

_MARK = re.compile(rb"@(\d{10,20})@")
_CREDS = re.compile(r"-----BEGIN [A-Z ]+-----\n(\S+)\n")


class Viewer(asyncio.Protocol):
    """One connection that listens to one subject. `delays` are milliseconds from the mark to its arrival."""

    def __init__(self, creds: Path, subject: str) -> None:
        self._jwt, self._seed = _CREDS.findall(creds.read_text())
        self._subject = subject
        self._tail = b""
        self._listening = asyncio.get_running_loop().create_future()
        self.delays: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop has classes of its own

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter_ns()
        data = self._tail + data
        end = 0
        for found in _MARK.finditer(data):
            self.delays.append((now - int(found[1])) / 1e6)
            end = found.end()
        self._tail = data[max(end, len(data) - 40) :]
        if not self._listening.done():
            self._greet(data)
        elif data.startswith(b"PING") or b"\r\nPING\r\n" in data:
            self._transport.write(b"PONG\r\n")

    def _greet(self, data: bytes) -> None:
        if data.startswith(b"INFO "):
            nonce = json.loads(data[5 : data.index(b"\r\n")])["nonce"]
            signature = nkeys.from_seed(bytearray(self._seed.encode())).sign(nonce.encode())
            signed = base64.urlsafe_b64encode(signature).decode().rstrip("=")
            said = {"verbose": False, "pedantic": False, "headers": True, "jwt": self._jwt, "sig": signed}
            hello = f"CONNECT {json.dumps(said)}\r\nSUB {self._subject} 1\r\nPING\r\n"
            self._transport.write(hello.encode())
        elif b"PONG" in data:
            self._listening.set_result(None)
        elif b"-ERR" in data:
            self._listening.set_exception(RuntimeError(data.decode()))

    async def listening(self) -> None:
        """Once the server knows what it wants."""
        await asyncio.wait_for(self._listening, 10)

    def close(self) -> None:
        """Go."""
        self._transport.close()


async def connected(port: int, creds: Path, subject: str) -> Viewer:
    """A viewer that listens."""
    loop = asyncio.get_running_loop()
    _, viewer = await loop.create_connection(lambda: Viewer(creds, subject), "127.0.0.1", port)
    await viewer.listening()
    return viewer
