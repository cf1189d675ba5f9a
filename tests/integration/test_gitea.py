"""The clients and the whole of a result against a real Gitea."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from ocf.functions.forges.addresses import forge_address
from ocf.functions.forges.forge import CommitStatus, Proposal
from ocf.functions.forges.http import ForgeRefused, forge_client
from ocf.functions.publishing.branch import ResultRejected
from tests.support.gitea import PROGRAM, Gitea, running_gitea
from tests.support.publishing import FILES, publishing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs gitea: make gitea"),
]


@pytest.fixture(scope="module")
def gitea(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gitea]:
    with running_gitea(tmp_path_factory.mktemp("gitea") / "data", FILES) as served:
        yield served


async def test_the_client_speaks_its_api(gitea: Gitea) -> None:
    """Permissions, pull requests, comments, labels, statuses, lists: what the client sends is taken, what it reads is
    there."""
    user = {"username": "ada", "email": "ada@example.com", "password": "a-Password-1", "must_change_password": False}
    gitea.call("POST", "/admin/users", user)
    since = datetime.now(UTC) - timedelta(minutes=5)
    async with forge_client() as client:
        forge = forge_address("gitea", gitea.api_url).connect(client, gitea.token)
        assert await forge.login() == "bot"
        assert await forge.permission("bot/app", "bot") == "admin"
        assert await forge.permission("bot/app", "nobody-here") == "none"
        assert await forge.permission("bot/app", "ada") == "read"  # the repository is public
        gitea.call("PUT", "/repos/bot/app/collaborators/ada", {"permission": "write"})
        assert await forge.permission("bot/app", "ada") == "write"
        gitea.call("POST", "/repos/bot/app/branches", {"new_branch_name": "client/one", "old_branch_name": "main"})
        content = {"branch": "client/one", "content": "eA==", "message": "x"}
        gitea.call("POST", "/repos/bot/app/contents/x.txt", content)
        assert await forge.pull_requests("bot/app", "client/one", "main") == []
        proposal = Proposal("client/one", "main", "Title", "Body", draft=True)
        opened = await forge.open_pull_request("bot/app", proposal)
        assert await forge.pull_requests("bot/app", "client/one", "main") == [opened]
        await forge.update_pull_request("bot/app", opened.number, None, "Better")
        gitea.call("POST", "/repos/bot/app/labels", {"name": "agent", "color": "#00aabb"})
        await forge.add_labels("bot/app", opened.number, ("agent",))
        await forge.ask_reviewers("bot/app", opened.number, ("ada",))
        found = gitea.call("GET", f"/repos/bot/app/pulls/{opened.number}")
        assert (found["title"], found["body"], found["draft"]) == ("WIP: Title", "Better", True)
        assert [label["name"] for label in found["labels"]] == ["agent"]
        assert [reviewer["login"] for reviewer in found["requested_reviewers"]] == ["ada"]
        url = await forge.comment("bot/app", "pull_request", opened.number, "hello")
        assert await forge.comments("bot/app", "pull_request", opened.number, since) == [("hello", url)]
        pending = CommitStatus("pending", "An agent works", "https://ocf.example/", "default/1")
        await forge.set_status("bot/app", opened.commit, pending)
        status = gitea.call("GET", f"/repos/bot/app/commits/{opened.commit}/status")
        assert (status["state"], status["statuses"][0]["context"]) == ("pending", "ocf")
        issue = gitea.call("POST", "/repos/bot/app/issues", {"title": "It fails"})
        issues = (await forge.listing("bot/app", "issues", since)).items
        assert [one["number"] for one in issues] == [issue["number"]]
        pulls = (await forge.listing("bot/app", "pull_requests", since)).items
        assert opened.number in [one["number"] for one in pulls]
        assert [one["body"] for one in (await forge.listing("bot/app", "comments", since)).items] == ["hello"]
        assert (await forge.listing("bot/app", "issues", datetime.now(UTC) + timedelta(minutes=5))).items == []
        with pytest.raises(ForgeRefused, match="404"):
            await forge.pull_requests("bot/other", "a", "b")


async def test_a_result_is_a_pull_request(gitea: Gitea, tmp_path: Path) -> None:
    """A push over HTTP to a server that takes partial clones, a pull request with the right diff, no second one."""
    run = (await publishing(gitea, tmp_path / "run", url=gitea.repository, token=gitea.token)).asking(
        branch="agent/fix"
    )
    run.write("src/app.py", "print('two')\n")
    (run.tree / "docs/note.txt").unlink()
    await run.archive()
    published = await run.publish()
    assert await run.publish() == published
    assert await run.publish_archived() == published
    assert published.pull_request is not None
    path = f"/repos/bot/app/pulls/{published.pull_request.number}"
    pull = gitea.call("GET", path)
    assert (pull["title"], pull["head"]["sha"], pull["mergeable"]) == ("Mend the app", published.commit, True)
    files = gitea.call("GET", f"{path}/files")
    assert {(one["filename"], one["status"]) for one in files} == {
        ("docs/note.txt", "deleted"),
        ("src/app.py", "changed"),
    }
    assert len(gitea.call("GET", f"{path}/commits")) == 1


async def test_a_protected_branch_and_a_missing_right_are_reasons(gitea: Gitea, tmp_path: Path) -> None:
    """In Gitea's own words, at once; nothing is at the forge then."""
    run = await publishing(gitea, tmp_path / "run", url=gitea.repository, token=gitea.token)
    run.write("src/app.py", "print('two')\n")
    rule = {"rule_name": "locked/**", "enable_push": False, "protected_file_patterns": ""}
    gitea.call("POST", "/repos/bot/app/branch_protections", rule)
    with pytest.raises(ResultRejected, match="protected"):
        await run.asking(branch=f"locked/{uuid.uuid4().hex}").publish()
    name = f"eve-{uuid.uuid4().hex[:6]}"
    user = {"username": name, "email": f"{name}@example.com", "password": "a-Password-1", "must_change_password": False}
    gitea.call("POST", "/admin/users", user)
    scopes = {"name": "t", "scopes": ["write:repository", "write:issue", "read:user"]}
    made = httpx2.post(f"{gitea.api_url}/users/{name}/tokens", json=scopes, auth=(name, "a-Password-1")).json()
    stranger = await publishing(gitea, tmp_path / "eve", url=gitea.repository, token=made["sha1"])
    stranger.write("src/app.py", "print('two')\n")
    with pytest.raises(ResultRejected, match=r"(?i)permission|denied|403|unauthorized"):
        await stranger.asking(branch="eve/fix").publish()
