"""Somebody else's HTTP server: keeps what is posted to it, answers as told, and can go away and come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Posted:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What came; `status` by path is what it answers (204 unless told)."""

    port: int
    posted: list[Posted] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)

    def at(self, path: str) -> list[Posted]:
        """What came to that path."""
        return [request for request in self.posted if request.path == path]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Until the block ends; before and after, connections are refused."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                named = {name.lower(): value for name, value in self.headers.items()}
                receiver.posted.append(Posted(self.path, named, body))
                self.send_response(receiver.status.get(self.path, 204))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Tests read `posted`."""

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()
