"""From a poll to a pull request and a comment: the real OpenCode in a real clone, without a webhook."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ocf.functions.models.offline_model import OfflineModel
from tests.support.forge import TOKEN, stand_in
from tests.support.gitea import PROGRAM, Gitea, running_gitea
from tests.support.offline import OPENCODE, ROOT, offline_spec
from tests.support.publishing import FILES
from tests.support.stack import Project, running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
]


@dataclass(frozen=True)
class Site:
    """A forge as these tests use it: `ann` may push there, and `label` labels an issue in her name."""

    url: str
    api_url: str
    token: str
    repository: str
    open_issue: Callable[[str], int]
    label: Callable[[int], None]
    pulls: Callable[[], list[dict[str, Any]]]
    comments: Callable[[int], list[str]]
    put_away: Callable[[bool], None] | None = None


@asynccontextmanager
async def stand_in_site(folder: Path) -> AsyncIterator[Site]:
    with stand_in(folder, FILES) as forge:
        forge.roles = {"ann": "write"}

        def put_away(away: bool) -> None:
            forge.before = (lambda *_: 503) if away else (lambda *_: None)

        yield Site(
            forge.url,
            forge.api_url,
            TOKEN,
            "team/app",
            lambda title: forge.open_issue(title, "ann"),
            lambda number: forge.label(number, "agent", "ann"),
            lambda: forge.pulls,
            lambda number: [note["body"] for note in forge.notes if note["issue"] == number],
            put_away,
        )


def gitea_site(gitea: Gitea) -> Site:
    user = {"username": "ann", "email": "ann@example.com", "password": "a-Password-1", "must_change_password": False}
    gitea.call("POST", "/admin/users", user)
    gitea.call("PUT", "/repos/bot/app/collaborators/ann", {"permission": "write"})
    scopes = {"name": "t", "scopes": ["write:repository", "write:issue", "read:user"]}
    made = httpx2.post(f"{gitea.api_url}/users/ann/tokens", json=scopes, auth=("ann", "a-Password-1")).json()
    labelled = gitea.call("POST", "/repos/bot/app/labels", {"name": "agent", "color": "#00aabb"})

    def act(path: str, body: dict[str, Any]) -> Any:
        return gitea.call("POST", f"/repos/bot/app/issues{path}", body, made["sha1"])

    return Site(
        gitea.repository,
        gitea.api_url,
        gitea.token,
        "bot/app",
        lambda title: int(act("", {"title": title})["number"]),
        lambda number: act(f"/{number}/labels", {"labels": [labelled["id"]]}),
        lambda: gitea.call("GET", "/repos/bot/app/pulls?state=all"),
        lambda number: [one["body"] for one in gitea.call("GET", f"/repos/bot/app/issues/{number}/comments")],
    )


def rule(site: Site) -> dict[str, Any]:
    return {
        "name": "labelled",
        "on": {"type": "com.gitea.issues.label_updated", "where": 'event.data.label.name == "agent"'},
        "poll": {
            **{"forge": "gitea", "api_url": site.api_url, "repository": site.repository, "what": "issues"},
            **{"every": "10s", "credential": "bot"},
        },
        "task": {
            "prompt": "run-write: {{ event.data.issue.title }}",
            "workspace": {"source": "git", "url": site.url, "credential": "bot"},
            "result": {"branch": "agent/issue-{{ event.data.issue.number }}"},
        },
        "reply": "comment",
    }


async def scene(site: Site, project: Project, client: httpx2.AsyncClient) -> None:
    """An old labelled issue starts nothing; a new label is a pull request and a comment, once."""
    ids = {"project_id": project.name}

    async def away() -> bool:
        (one,) = (await client.get("/triggers", params=ids)).json()["triggers"]
        return "503" in one["polled"]["problem"]

    async def tasks() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await client.get("/tasks", params=ids)).json()["items"]
        return found

    site.label(site.open_issue("an old one"))
    body = {"name": "bot", "forge": "gitea", "api_url": site.api_url, "token": site.token}
    assert (await client.post("/credentials", json=body | ids)).status_code == 201
    broken = rule(site) | {"name": "broken", "poll": rule(site)["poll"] | {"repository": "no/where"}}
    answer = await client.post("/triggers", json=broken | ids)
    assert answer.status_code == 201, answer.text
    assert (await client.post("/triggers", json=rule(site) | ids)).status_code == 201

    async def both_polled() -> bool:
        found = {one["name"]: one["polled"] for one in (await client.get("/triggers", params=ids)).json()["triggers"]}
        return all(found.values()) and "404" in found["broken"]["problem"] and not found["labelled"]["problem"]

    await until(both_polled, timeout=60, what="the first polls")
    assert (await client.delete("/triggers/broken", params=ids)).status_code == 202
    if site.put_away is not None:
        site.put_away(True)
        await until(away, timeout=60, what="the forge is away")
    number = site.open_issue("It fails")
    site.label(number)
    if site.put_away is not None:
        site.put_away(False)
    await until(tasks, timeout=60, what="the task")
    (task,) = await tasks()
    record = await project.ended(task["execution_id"], timeout=300)
    assert (record.state, record.branch) == ("completed", f"agent/issue-{number}"), record

    async def commented() -> bool:
        return len(site.comments(number)) == 1

    await until(commented, timeout=60, what="the comment")
    (pull,) = site.pulls()
    assert pull["head"]["ref"] == f"agent/issue-{number}"
    assert pull["html_url"] in site.comments(number)[0]
    polls = (await client.get("/triggers", params=ids)).json()["triggers"][0]["polled"]["polled_at"]

    async def polled_again() -> bool:
        return bool((await client.get("/triggers", params=ids)).json()["triggers"][0]["polled"]["polled_at"] > polls)

    await until(polled_again, timeout=60, what="a further poll, which reads our own comment")
    assert [one["execution_id"] for one in await tasks()] == [task["execution_id"]]
    assert (await client.delete("/triggers/labelled", params=ids)).status_code == 202


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[tuple[Project, httpx2.AsyncClient]]:
    cases = [ROOT / "tests/support/task-field-run-cases.json"]
    async with OfflineModel(offline_spec(cases)) as model:
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted", "OCF_MODEL_ENDPOINT": model.base_url}
        with running_stack(tmp_path, **environ) as stack:
            async with (
                stack.project() as project,
                httpx2.AsyncClient(base_url=stack.answer["gateway"], timeout=30) as client,
            ):
                yield project, client


async def test_a_polled_label_becomes_one_pull_request_and_one_comment(tmp_path: Path) -> None:
    """With the stand-in forge, which is away for a while; a repository that does not exist stops no other."""
    async with stand_in_site(tmp_path / "forge") as site, running(tmp_path) as (project, client):
        await scene(site, project, client)


@pytest.mark.skipif(not PROGRAM.exists(), reason="needs gitea: make gitea")
async def test_a_polled_label_of_gitea_becomes_one_pull_request_and_one_comment(tmp_path: Path) -> None:
    """With a real Gitea: its lists, timelines, permissions, git over HTTP, pull requests and comments."""
    with running_gitea(tmp_path / "gitea", FILES) as gitea:
        async with running(tmp_path) as (project, client):
            await scene(gitea_site(gitea), project, client)
