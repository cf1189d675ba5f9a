"""A small forge: git over HTTP and the part of Gitea's API that the clients use, with faults on demand.

What it answers has the fields of Gitea's own swagger document; `test_gitea.py` runs the same clients against Gitea.
Below /api/v3 it is a GitHub Enterprise Server with check runs, whose App 12 is installed as 34.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jwt

from tests.support.git_http import GitServer, git_server, run_git
from tests.support.github_checks import Checks

TOKEN = "a-forge-token-0123456789"
REPOSITORY = "team/app"


@dataclass
class StandIn:
    """State of the forge. A fault is called with method and path; it returns a status, or None to go on."""

    root: Path
    git: GitServer = field(default_factory=GitServer)
    issues: list[dict[str, Any]] = field(default_factory=list)
    timelines: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    checks: Checks = field(default_factory=Checks)
    #: Public key of the App.
    app_key: str = ""
    labels: dict[int, list[str]] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    #: Before a call is carried out; and after, when the answer is lost.
    before: Callable[[str, str], int | None] = lambda *_: None
    after: Callable[[str, str], int | None] = lambda *_: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """URL of the repository."""
        return f"{self.git.url}/{REPOSITORY}.git"

    @property
    def api_url(self) -> str:
        return f"{self.git.url}/api/v1"

    def tree(self, branch: str) -> dict[str, str]:
        """Mode and text of each file of a branch."""
        bare = self.root / f"{REPOSITORY}.git"
        listed = run_git("ls-tree", "-r", "-z", branch, cwd=bare).split("\0")
        found = {}
        for entry in filter(None, listed):
            about, _, path = entry.partition("\t")
            mode, kind, sha = about.split()
            found[path] = f"{mode} {run_git('cat-file', 'blob', sha, cwd=bare) if kind == 'blob' else sha}"
        return found

    def head(self, branch: str) -> str | None:
        """The commit of a branch."""
        bare = self.root / f"{REPOSITORY}.git"
        return run_git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}", cwd=bare).strip() or None

    def commits(self, branch: str) -> list[str]:
        """The commits of a branch, newest first."""
        return run_git("rev-list", branch, cwd=self.root / f"{REPOSITORY}.git").split()

    def open_issue(self, title: str, user: str) -> int:
        """A user opens an issue; its number."""
        number = len(self.issues) + 1
        page = f"{self.git.url}/{REPOSITORY}/issues/{number}"
        made = {"id": 900 + number, "number": number, "title": title, "html_url": page, "labels": []}
        self.issues.append({**made, "user": {"login": user}, "created_at": _now(), "updated_at": _now()})
        return number

    def label(self, number: int, name: str, user: str) -> None:
        """A user labels an issue."""
        entry = {"type": "label", "body": "1", "label": {"name": name}, "user": {"login": user}, "created_at": _now()}
        self.timelines.setdefault(number, []).append(entry)
        self.issues[number - 1]["labels"].append({"name": name})
        self.issues[number - 1]["updated_at"] = _now()

    def say(self, number: int, text: str, user: str) -> dict[str, Any]:
        """A user comments on an issue or pull request."""
        page = f"{self.git.url}/{REPOSITORY}/issues/{number}"
        made = {"id": len(self.notes) + 1, "issue": number, "body": text, "issue_url": page, "user": {"login": user}}
        made["html_url"] = f"{page}#issuecomment-{made['id']}"
        self.notes.append({**made, "created_at": _now(), "updated_at": _now()})
        return self.notes[-1]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """One call of the API."""
        with self.lock:
            parts = urlsplit(path)
            name = re.sub(r"^/api/v[13]", "", parts.path)  # v3: GitHub Enterprise Server
            self.calls.append(f"{method} {name}")
            if name == "/app/installations/34/access_tokens":
                sent, timeless = (
                    headers["authorization"].removeprefix("Bearer "),
                    {"verify_exp": False, "verify_iat": False},
                )
                signed = jwt.decode(sent, self.app_key, ["RS256"], timeless)
                return (201, json.dumps({"token": TOKEN}).encode()) if signed["iss"] == "12" else (401, b"{}")
            if headers.get("authorization") != f"Bearer {TOKEN}":
                return 401, b'{"message":"token is required"}'
            if (status := self.before(method, name)) is not None:
                return status, b'{"message":"as the test wishes"}'
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            status, value = self._routed(method, name, query, json.loads(body) if body else {})
            if (lost := self.after(method, name)) is not None:
                return lost, b""
            return status, json.dumps(value).encode()

    def _routed(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        repository = f"/repos/{REPOSITORY}"
        if path == "/user":
            return 200, {"login": "ocf-bot"}
        if not path.startswith(repository):
            return 404, {"message": "not found"}
        checked = self.checks.answer(method, path.removeprefix(repository), query, body)
        if checked is not None:
            return checked
        match [method, *path.removeprefix(repository).strip("/").split("/")]:
            case ["GET", "collaborators", user, "permission"]:
                role = self.roles.get(unquote(user))
                return (200, {"permission": role, "role_name": role}) if role else (404, {"message": "unknown"})
            case ["GET", "pulls"]:
                return 200, self._page(self.pulls, query)
            case ["POST", "pulls"]:
                return self._open(body)
            case ["PATCH", "pulls", number]:
                self.pulls[int(number) - 1].update(body)
                return 201, self.pulls[int(number) - 1]
            case ["POST", "issues", number, "labels"]:
                self.labels.setdefault(int(number), []).extend(body["labels"])
                return 200, []
            case ["POST", "pulls", _, "requested_reviewers"]:
                return 201, []
            case ["GET", "issues", number, "comments"]:
                return 200, self._page([note for note in self.notes if note["issue"] == int(number)], query)
            case ["POST", "issues", number, "comments"]:
                return 201, self.say(int(number), body["body"], "ocf-bot")
            case ["GET", ""]:
                page = self.url.removesuffix(".git")
                return 200, {"full_name": REPOSITORY, "clone_url": self.url, "html_url": page}
            case ["GET", "issues", number, "timeline"]:
                return 200, self._page(self.timelines.get(int(number), []), query)
            case ["GET", "issues", number] if number.isdecimal():
                return 200, next(one for one in (*self.issues, *self.pulls) if one["number"] == int(number))
            case ["POST", "statuses", commit] if re.fullmatch("[0-9a-f]{40}", commit):
                self.statuses.append({**body, "commit": commit})
                return 201, body
            case ["GET", "issues", *rest]:
                return 200, self._page((self.notes if rest else self.issues)[::-1], query)
        return 404, {"message": f"no {method} {path}"}

    def _page(self, items: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        size = min(50, int(query.get("limit", "30")))
        first = (int(query.get("page", "1")) - 1) * size
        return items[first : first + size]

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        head = self.head(body["head"])
        if head is None:
            return 404, {"message": "the branch does not exist"}
        if any(one["head"]["ref"] == body["head"] and one["state"] == "open" for one in self.pulls):
            return 409, {"message": "pull request already exists for these targets"}
        number = len(self.pulls) + 1
        repo = {"full_name": REPOSITORY}
        made = {
            "number": number,
            "html_url": f"{self.git.url}/{REPOSITORY}/pulls/{number}",
            "state": "open",
            "title": body["title"],
            "body": body["body"],
            "head": {"ref": body["head"], "sha": head, "repo": repo},
            "base": {"ref": body["base"], "repo": repo},
            "updated_at": _now(),
        }
        self.pulls.append(made)
        return 201, made


def _now() -> str:
    return datetime.now(UTC).isoformat()


@contextmanager
def stand_in(root: Path, files: Mapping[str, str]) -> Iterator[StandIn]:
    """A forge with one repository, `team/app`, whose branch `main` has `files`."""
    bare = root / f"{REPOSITORY}.git"
    bare.mkdir(parents=True)
    run_git("init", "--quiet", "--bare", cwd=bare)
    work = root / "seed"
    work.mkdir()
    run_git("init", "--quiet", cwd=work)
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_bytes(text.encode())
    run_git("add", "--all", cwd=work)
    run_git("commit", "--quiet", "--message=first", cwd=work)
    run_git("push", "--quiet", str(bare), "main", cwd=work)
    with git_server(root, TOKEN) as git:
        forge = StandIn(root, git)
        git.api = forge.answer
        yield forge
