"""Git over HTTP for tests: `git http-backend` behind a server that wants a token and keeps what it was sent."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Api = Callable[[str, str, Mapping[str, str], bytes], tuple[int, bytes]]


@dataclass
class GitServer:
    """`url` is the repositories' parent; `logins` are the user:password pairs that came."""

    url: str = ""
    logins: list[str] = field(default_factory=list)
    redirect_to: str | None = None
    #: Answers what is no git: method, path with query, headers, body -> status, content.
    api: Api | None = None
    #: Called before a push is taken, and after; a status is the answer instead.
    before_push: Callable[[], int | None] = lambda: None
    after_push: Callable[[], int | None] = lambda: None


@contextmanager
def git_server(root: Path, token: str | None = None) -> Iterator[GitServer]:
    """Serve the bare repositories below `root`; with a token, only to who brings it."""
    state = GitServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

        def do_PATCH(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def _answer(self, body: bytes) -> None:
            if state.api is not None and self.path.startswith("/api/"):
                status, content = state.api(self.command, self.path, self.headers, body)
                if not status:  # the connection breaks off
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            if state.redirect_to:
                self.send_response(302)
                self.send_header("Location", state.redirect_to + self.path)
                self.end_headers()
                return
            login = self.headers.get("authorization", "")
            if login.startswith("Basic "):
                state.logins.append(base64.b64decode(login[6:]).decode())
            if token and not (state.logins and login and state.logins[-1].endswith(f":{token}")):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            pushes = path.endswith("/git-receive-pack")
            if pushes and (status := state.before_push()) is not None:
                self.send_error(status)
                return
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_1": "http.receivepack",
                "GIT_CONFIG_VALUE_1": "true",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=False)
            if pushes and (status := state.after_push()) is not None:
                self.send_error(status)
                return
            head, _, rest = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_git(*arguments: str, cwd: Path) -> str:
    """git with a configuration of its own, for making test repositories."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_{what}": "t@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    settings = ["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", "-c", "core.protectNTFS=false"]
    done = subprocess.run(["git", *settings, *arguments], cwd=cwd, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="surrogateescape")
