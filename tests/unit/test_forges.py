"""The clients of forges: the calls of each API, and what they make of bad answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from ocf.functions.forges.addresses import forge_address
from ocf.functions.forges.forge import Proposal, page
from ocf.functions.forges.http import ForgeRefused, ForgeUnavailable, forge_client

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Handler = Callable[[httpx2.Request], httpx2.Response]


class Pieces(httpx2.AsyncByteStream):
    """A body that httpx2 has not read yet."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content


def reply(status: int, value: object = b"", headers: dict[str, str] | None = None) -> httpx2.Response:
    """An answer with JSON, or with these bytes."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return httpx2.Response(status, headers=headers, stream=Pieces(content))


def forge(handler: Handler, kind: Any = "github", api_url: str | None = None) -> Any:
    """A client whose calls `handler` answers."""
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return forge_address(kind, api_url).connect(client, "token-1")


def answers(**by_path: Any) -> tuple[Handler, list[httpx2.Request]]:
    """A handler that answers by the end of the path, and what it was asked."""
    asked: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        path = request.url.raw_path.decode().partition("?")[0]
        for end, value in by_path.items():
            if path.endswith(end.replace("__", "/")):
                return value if isinstance(value, httpx2.Response) else reply(200, value)
        return reply(404, {"message": "Not Found"})

    return handle, asked


@pytest.mark.parametrize(
    ("found", "permission"),
    [
        ({"permission": "admin", "role_name": "admin"}, "admin"),
        ({"permission": "write", "role_name": "maintain"}, "write"),
        ({"permission": "read", "role_name": "triage"}, "triage"),
        ({"permission": "read", "role_name": "a role of this company"}, "read"),
        ({"permission": "owner", "role_name": ""}, "admin"),
        ({"permission": "none", "role_name": "none"}, "none"),
        ({"permission": "boss"}, "none"),
    ],
)
async def test_the_role_of_a_collaborator_is_one_of_five(found: dict[str, str], permission: str) -> None:
    """GitHub's custom roles and Gitea's `owner` included; what is unknown gives no rights."""
    handle, asked = answers(permission=found)
    assert await forge(handle).permission("team/app", "a b") == permission
    assert asked[0].url.raw_path == b"/repos/team/app/collaborators/a%20b/permission"
    assert asked[0].headers["authorization"] == "Bearer token-1"


@pytest.mark.parametrize(
    ("level", "permission"), [(50, "admin"), (30, "write"), (20, "triage"), (10, "read"), (5, "none")]
)
async def test_gitlab_levels_are_permissions(level: int, permission: str) -> None:
    """By the member's level, also of its groups, unless it is blocked."""
    handle, _ = answers(users=[{"id": 7, "username": "Ada"}], **{"members__all__7": {"access_level": level}})
    assert await forge(handle, "gitlab").permission("group/sub/app", "ada") == permission
    handle, _ = answers(
        users=[{"id": 7, "username": "ada"}], **{"members__all__7": {"access_level": level, "state": "blocked"}}
    )
    assert await forge(handle, "gitlab").permission("group/sub/app", "ada") == "none"


async def test_an_unknown_user_has_no_permission() -> None:
    """404 is an answer, not an error."""
    handle, _ = answers()
    assert await forge(handle).permission("team/app", "x") == "none"
    handle, _ = answers(users=[])
    assert await forge(handle, "gitlab").permission("team/app", "x") == "none"


async def test_a_pull_request_of_a_fork_is_not_ours() -> None:
    """The same branch name in another repository, and another base."""

    def pull(number: int, head: str, repo: str, base: str = "main") -> dict[str, Any]:
        ends = {"head": {"ref": head, "sha": "a" * 40, "repo": {"full_name": repo}}, "base": {"ref": base}}
        return {"number": number, "html_url": f"https://x/{number}", "state": "open", **ends}

    pulls = [
        pull(1, "fix", "Team/App"),
        pull(2, "fix", "evil/app"),
        pull(3, "other", "team/app"),
        pull(4, "fix", "team/app", "dev"),
    ]
    handle, _ = answers(pulls=pulls)
    assert [one.number for one in await forge(handle).pull_requests("team/app", "fix", "main")] == [1]


async def test_gitlab_merge_request_is_opened_and_found() -> None:
    """Its number is that within the project."""
    made = {
        "iid": 4,
        "id": 900,
        "web_url": "https://gitlab.com/x/-/merge_requests/4",
        "state": "opened",
        "sha": "b" * 40,
    }
    handle, asked = answers(merge_requests=made)
    proposal = Proposal("fix", "main", "Title", "Body", draft=True)
    opened = await forge(handle, "gitlab").open_pull_request("group/app", proposal)
    assert (opened.number, opened.open, opened.commit) == (4, True, "b" * 40)
    assert asked[0].url.raw_path == b"/api/v4/projects/group%2Fapp/merge_requests"
    assert json.loads(asked[0].content)["title"] == "Draft: Title"


@pytest.mark.parametrize(
    ("response", "wait"),
    [
        (reply(502), None),
        (reply(429, b"", {"retry-after": "7"}), 7.0),
        (reply(403, b"", {"x-ratelimit-remaining": "0"}), 60.0),
    ],
)
async def test_a_retry_helps_after_a_temporary_failure(response: httpx2.Response, wait: float | None) -> None:
    """Server errors and rate limits."""
    handle, _ = answers(user=response)
    with pytest.raises(ForgeUnavailable) as raised:
        await forge(handle).login()
    assert raised.value.retry_after == wait


async def test_a_refusal_has_the_words_of_the_forge() -> None:
    """In one line, with the details of each field, and bounded."""
    said = {"message": "Validation Failed\x1b[31m", "errors": [{"message": "a" * 900}, "not an object"]}
    handle, _ = answers(pulls=reply(422, said))
    with pytest.raises(ForgeRefused, match="Validation Failed") as raised:
        await forge(handle).open_pull_request("team/app", Proposal("a", "b", "t", ""))
    assert raised.value.status == 422
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "response",
    [
        reply(200, b"[" * 100_000),
        reply(200, b"<html>"),
        reply(200, b" " * 9_000_000),
        reply(200, b"{}", {"content-encoding": "gzip"}),
        reply(301, b"", {"location": "http://169.254.169.254/"}),
    ],
    ids=["deep", "html", "large", "compressed", "redirect"],
)
async def test_an_unusable_answer_is_refused(response: httpx2.Response) -> None:
    """Nothing of it is parsed beyond its bounds, and no redirect is followed."""
    handle, asked = answers(user=response)
    with pytest.raises(ForgeRefused):
        await forge(handle).login()
    assert len(asked) == 1


async def test_a_list_has_only_what_changed_and_knows_its_etag() -> None:
    """Pull requests that GitHub lists among the issues are left out; 304 means nothing new."""
    new, old = "2026-02-01T00:00:00Z", "2025-01-01T00:00:00Z"
    issues = [{"number": 1, "updated_at": new}, {"number": 2, "updated_at": new, "pull_request": {}}]

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.headers.get("if-none-match") == '"e1"':
            return reply(304)
        found: list[dict[str, Any]] = (
            issues
            if "issues" in request.url.path
            else [{"number": 3, "updated_at": new}, {"number": 4, "updated_at": old}]
        )
        return reply(200, found, {"etag": '"e1"'})

    github = forge(handle)
    listing = await github.listing("team/app", "issues", SINCE)
    assert ([one["number"] for one in listing.items], listing.etag) == ([1], '"e1"')
    assert not (await github.listing("team/app", "issues", SINCE, '"e1"')).modified
    assert [one["number"] for one in (await github.listing("team/app", "pull_requests", SINCE)).items] == [3]


@pytest.mark.parametrize(
    ("kind", "api_url", "url", "expected"),
    [
        (None, None, "https://github.com/team/app.git", ("https://api.github.com", "team/app")),
        (None, None, "https://gitlab.com/group/sub/app", ("https://gitlab.com/api/v4", "group/sub/app")),
        ("gitea", None, "https://git.example:3000/team/app.git", ("https://git.example:3000/api/v1", "team/app")),
        (
            "gitlab",
            "https://x.example/git/api/v4",
            "https://x.example/git/g/a.git",
            ("https://x.example/git/api/v4", "g/a"),
        ),
        (
            "github",
            "https://ghe.example/api/v3/",
            "https://ghe.example/team/app",
            ("https://ghe.example/api/v3", "team/app"),
        ),
    ],
)
def test_a_repository_leads_to_its_forge(kind: Any, api_url: str | None, url: str, expected: tuple[str, str]) -> None:
    """Public ones by their host, others by the kind."""
    address = forge_address(kind, api_url, url)
    assert (address.api_url, address.repository(url)) == expected


@pytest.mark.parametrize(
    ("kind", "api_url", "url"),
    [
        (None, None, "https://git.example/team/app"),
        ("gitea", None, None),
        ("github", None, "https://github.com.evil.example:443x/team/app"),
        ("github", "https://api.github.com", "https://evil.example/team/app"),
        ("github", "https://api.github.com", "https://github.com/team/../app"),
        ("github", "https://api.github.com", "https://github.com/team/app/tree"),
        ("gitea", "https://git.example/api/v1", "http://git.example/team/app"),
        ("gitea", "https://git.example/api/v1", "https://git.example/team/%2e%2e"),
    ],
)
def test_a_token_goes_to_no_other_host(kind: Any, api_url: str | None, url: str | None) -> None:
    """A URL of another origin, or without a plain OWNER/NAME, is refused before anything is sent."""
    with pytest.raises(ForgeRefused):
        forge_address(kind, api_url, url).repository(url or "")


async def test_a_token_is_not_sent_in_clear_text() -> None:
    """Plain HTTP only on this machine."""
    async with forge_client() as client:
        with pytest.raises(ForgeRefused, match="clear text"):
            forge_address("gitea", "http://git.example/api/v1").connect(client, "t")


async def test_a_metadata_address_is_never_reached() -> None:
    """Whatever a tenant calls its forge."""
    async with forge_client() as client:
        with pytest.raises(ForgeRefused, match="link-local"):
            await forge_address("gitea", "https://169.254.169.254/api/v1").connect(client, "t").login()


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "//evil", "https://x y", "https://x\x1b[0m"]
)
def test_a_page_that_is_no_web_page_is_no_link(url: str) -> None:
    """A forge of a tenant's own could put a script behind the console's link."""
    assert page(url) == ""
    assert page("https://git.example/team/app/pulls/1") == "https://git.example/team/app/pulls/1"
