"""A real Gitea of a test's own: `make gitea` builds it from its Go module."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.git_http import run_git

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".tools/gitea"
PROGRAM = HOME / "gitea"
_CONFIG = """\
APP_NAME = test
RUN_MODE = prod
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
WORK_PATH = {work}
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = http://127.0.0.1:{port}/
STATIC_ROOT_PATH = {home}
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
PATH = {work}/gitea.db
[security]
INSTALL_LOCK = true
SECRET_KEY = {key}
PASSWORD_HASH_ALGO = pbkdf2$1$50
[log]
LEVEL = Warn
[cron]
ENABLED = false
[actions]
ENABLED = false
[webhook]
ALLOWED_HOST_LIST = loopback
"""


@dataclass
class Gitea:
    """A running Gitea with the repository `bot/app`. `token` is that of its owner, an administrator."""

    url: str
    token: str

    @property
    def repository(self) -> str:
        """The URL of the repository."""
        return f"{self.url}/bot/app.git"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v1"

    def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        """One call of its API, apart from the clients under test."""
        headers = {"Authorization": f"token {token or self.token}"}
        answer = httpx2.request(method, self.api_url + path, json=body, headers=headers, timeout=30)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


@contextmanager
def running_gitea(folder: Path, files: Mapping[str, str]) -> Iterator[Gitea]:
    """Start Gitea in `folder` with one repository, whose branch `main` has `files`."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "app.ini"
    config.write_text(_CONFIG.format(work=folder, port=port, home=HOME, key=secrets.token_hex(16)))
    gitea = [str(PROGRAM), "--config", str(config), "--work-path", str(folder)]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "USER": "root"}
    subprocess.run([*gitea, "migrate"], env=env, check=True, capture_output=True)
    user = ["--username", "bot", "--password", secrets.token_hex(12), "--email", "bot@example.com", "--admin"]
    made = subprocess.run(
        [*gitea, "admin", "user", "create", *user, "--must-change-password=false", "--access-token"],
        env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    token = made.stdout.split("Access token was successfully created... ")[1].split()[0]
    with (folder / "gitea.log").open("wb") as log:
        process = subprocess.Popen([*gitea, "web"], env=env, stdout=log, stderr=log)
    try:
        served = Gitea(f"http://127.0.0.1:{port}", token)
        _wait(served.url, process, folder / "gitea.log")
        served.call("POST", "/user/repos", {"name": "app", "default_branch": "main"})
        seed = folder / "seed"
        seed.mkdir()
        run_git("init", "--quiet", cwd=seed)
        for path, text in files.items():
            (seed / path).parent.mkdir(parents=True, exist_ok=True)
            (seed / path).write_text(text)
        run_git("add", "--all", cwd=seed)
        run_git("commit", "--quiet", "--message=first", cwd=seed)
        login = served.repository.replace("http://", f"http://bot:{token}@")
        run_git("push", "--quiet", login, "main", cwd=seed)
        # The push is known to the API a moment later.
        _until(lambda: not served.call("GET", "/repos/bot/app")["empty"], "the push is not there")
        yield served
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.1)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx2.get(f"{url}/api/healthz", timeout=2).is_success
        except httpx2.TransportError:
            return False

    _until(up, "Gitea did not start")
