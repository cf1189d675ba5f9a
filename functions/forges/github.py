"""GitHub's REST API (https://docs.github.com/rest, version 2022-11-28), and Gitea's, which follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote

import httpx2

from ocf.functions.forges.forge import (
    PERMISSIONS,
    Change,
    CommitState,
    CommitStatus,
    Kind,
    Object,
    Permission,
    Proposal,
    PullRequest,
    What,
    at,
    changed_at,
    page,
)
from ocf.functions.forges.http import Api, ForgeRefused, Listing, objects, seconds

#: Commit statuses know four states.
_STATES: dict[CommitState, str] = {"cancelled": "error", "timed_out": "error"}
_ROLES: dict[str, Permission] = {"maintain": "write", "owner": "admin", "pull": "read", "push": "write"}


class GitHub:
    """GitHub, or GitHub Enterprise Server at `api_url`."""

    def __init__(self, client: httpx2.AsyncClient, api_url: str, token: str) -> None:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        self._api = Api(client, api_url, {**headers, "Authorization": f"Bearer {token}"})

    async def login(self) -> str:
        """Return the user name of the token's owner."""
        return str((await self._api.get("/user"))["login"])

    async def permission(self, repository: str, user: str) -> Permission:
        """Return what a user may do: the role where the API tells it, else the permission."""
        try:
            found = await self._api.get(f"/repos/{repository}/collaborators/{quote(user, safe='')}/permission")
        except ForgeRefused as error:
            if error.status == 404:
                return "none"
            raise
        for name in (found.get("role_name"), found.get("permission")):
            role = _ROLES.get(str(name), name)
            if role in PERMISSIONS:
                return role  # type: ignore[no-any-return]
        return "none"

    async def pull_requests(self, repository: str, head: str, base: str) -> list[PullRequest]:
        """Return the pull requests from `head` to `base`, the latest first."""
        owner = repository.partition("/")[0]
        query = {"state": "all", "head": f"{owner}:{head}", "base": base, "base_branch": base, "sort": "created"}
        found = (await self._api.listed(f"/repos/{repository}/pulls", query)).items
        same = [one for one in found if (_branch(one, "head"), _branch(one, "base")) == (head, base)]
        ours = [one for one in same if (_repository(one, "head") or repository).lower() == repository.lower()]
        return sorted(map(_pull_request, ours), key=lambda one: one.number, reverse=True)

    async def open_pull_request(self, repository: str, proposal: Proposal) -> PullRequest:
        """Open a pull request."""
        body: dict[str, Any] = {name: getattr(proposal, name) for name in ("head", "base", "title", "body")}
        return _pull_request(await self._api.send("POST", f"/repos/{repository}/pulls", body | self._draft(proposal)))

    def _draft(self, proposal: Proposal) -> dict[str, Any]:
        return {"draft": proposal.draft}

    async def update_pull_request(self, repository: str, number: int, title: str | None, body: str | None) -> None:
        """Replace title and body; None: as it is."""
        given = {name: text for name, text in (("title", title), ("body", body)) if text is not None}
        await self._api.send("PATCH", f"/repos/{repository}/pulls/{number}", given)

    async def add_labels(self, repository: str, number: int, labels: tuple[str, ...]) -> None:
        """Add labels."""
        await self._api.send("POST", f"/repos/{repository}/issues/{number}/labels", {"labels": list(labels)})

    async def ask_reviewers(self, repository: str, number: int, reviewers: tuple[str, ...]) -> None:
        """Request reviews."""
        path = f"/repos/{repository}/pulls/{number}/requested_reviewers"
        await self._api.send("POST", path, {"reviewers": list(reviewers)})

    async def comments(self, repository: str, kind: Kind, number: int, since: datetime) -> list[tuple[str, str]]:
        """Return text and URL of each comment since then."""
        path = f"/repos/{repository}/issues/{number}/comments"
        found = (await self._api.listed(path, {"since": seconds(since)})).items
        return [(str(one.get("body")), page(one.get("html_url"))) for one in found]

    async def comment(self, repository: str, kind: Kind, number: int, body: str) -> str:
        """Add a comment; return its URL."""
        made = await self._api.send("POST", f"/repos/{repository}/issues/{number}/comments", {"body": body})
        return page(made["html_url"])

    async def set_status(self, repository: str, commit: str, status: CommitStatus) -> None:
        """Set the status `ocf` of a commit."""
        body = {"state": _STATES.get(status.state, status.state), "context": "ocf", "description": status.text[:140]}
        body |= {"target_url": status.url} if status.url else {}
        await self._api.send("POST", f"/repos/{repository}/statuses/{commit}", body)

    async def listing(self, repository: str, what: What, since: datetime, etag: str | None = None) -> Listing:
        """Return what changed since then. GitHub lists pull requests as issues too; these are left out."""
        path = {"issues": "issues", "comments": "issues/comments", "pull_requests": "pulls"}[what]
        query: dict[str, object] = {"state": "all", "since": seconds(since), "sort": "updated", "direction": "desc"}
        query |= self._newest_first
        found = await self._api.listed(f"/repos/{repository}/{path}", query, etag=etag, old=_before(since))
        wanted = [one for one in found.items if what != "issues" or one.get("pull_request") is None]
        return replace(found, items=wanted)

    async def changes(self, repository: str, what: What, items: list[dict[str, Any]], since: datetime) -> list[Change]:
        """Return what happened to items of a listing since then."""
        path, found = f"/repos/{repository}", []
        place = {"repository": await self._api.get(path)} if items else {}
        for item in items:
            opened = at(item["created_at"])
            if what == "comments":
                if opened >= since:
                    of = str(item.get("issue_url") or item["pull_request_url"]).rpartition("/")[2]
                    about = {"issue": await self._api.get(f"{path}/issues/{int(of)}"), "comment": item, **place}
                    payload = {"action": "created", "sender": item["user"], **about}
                    found.append(Change("issue_comment", payload, opened))
                continue
            number, thing = int(item["number"]), "issue" if what == "issues" else "pull_request"
            name, about = "issues" if what == "issues" else thing, {thing: item, "number": number, **place}
            if opened >= since:
                found.append(Change(name, {"action": "opened", "sender": item["user"], **about}, opened))
            for user, label, time in await self._labelled(f"{path}/issues/{number}", since):
                then = {**item, "updated_at": seconds(time)}  # as the webhook had it
                payload = {"action": self._label_action, "label": label, "sender": user, **about, thing: then}
                found.append(Change(name, payload, time))
        return found

    async def _labelled(self, issue: str, since: datetime) -> list[tuple[Object, Object, datetime]]:
        """Return who added which label since then."""
        found = (await self._api.listed(f"{issue}/{self._history}", {"since": seconds(since)})).items
        added = [one for one in found if self._adds(one) and at(one["created_at"]) >= since]
        return [(one.get("actor") or one.get("user") or {}, one["label"], at(one["created_at"])) for one in added]

    def _adds(self, entry: Object) -> bool:
        return entry.get("event") == "labeled"

    _newest_first: ClassVar[dict[str, object]] = {}
    #: Part of an issue's API that tells its labels' history; what the webhook calls their change.
    _history, _label_action = "events", "labeled"


class GitHubApp(GitHub):
    """GitHub with the token of an App's installation: only Apps have check runs."""

    async def set_status(self, repository: str, commit: str, status: CommitStatus) -> None:
        """Create or update the check run `ocf` of the execution; without the permission `checks`, set a status."""
        try:
            await self._check(f"/repos/{repository}", commit, status)
        except ForgeRefused as error:
            if error.status not in (403, 404):
                raise
            await super().set_status(repository, commit, status)

    async def _check(self, path: str, commit: str, status: CommitStatus) -> None:
        # The execution's id finds a run whose answer was lost, and that of an earlier attempt.
        query = {"check_name": "ocf", "filter": "all", "per_page": 100}
        listed = await self._api.get(f"{path}/commits/{commit}/check-runs", **query)
        runs = objects(listed.get("check_runs"))
        found = next((int(one["id"]) for one in runs if one.get("external_id") == status.execution), None)
        body: dict[str, Any] = {"output": {"title": status.text[:140], "summary": status.text}}
        body |= {"details_url": status.url} if status.url else {}
        body |= (
            {"status": "in_progress"}
            if status.state == "pending"
            else {"status": "completed", "conclusion": status.state}
        )
        if found is None:
            body |= {"name": "ocf", "head_sha": commit, "external_id": status.execution}
            await self._api.send("POST", f"{path}/check-runs", body)
        else:
            await self._api.send("PATCH", f"{path}/check-runs/{found}", body)


class Gitea(GitHub):
    """Gitea or Forgejo (https://docs.gitea.com/api), where it differs from GitHub."""

    _newest_first: ClassVar[dict[str, object]] = {"sort": "recentupdate", "type": "issues"}

    def _draft(self, proposal: Proposal) -> dict[str, Any]:
        # Gitea knows a draft by its title.
        return {"title": f"WIP: {proposal.title}"} if proposal.draft else {}

    _history, _label_action = "timeline", "label_updated"

    def _adds(self, entry: Object) -> bool:
        return entry.get("type") == "label" and entry.get("body") == "1"  # "" when it was removed


def _pull_request(found: Object) -> PullRequest:
    head = found.get("head")
    commit = str(head.get("sha")) if isinstance(head, dict) else ""
    return PullRequest(int(found["number"]), page(found["html_url"]), found.get("state") == "open", commit)


def _branch(found: Object, end: str) -> object:
    return found[end].get("ref") if isinstance(found.get(end), dict) else None


def _repository(found: Object, end: str) -> str:
    of = found[end].get("repo") if isinstance(found.get(end), dict) else None
    return str(of.get("full_name", "")) if isinstance(of, dict) else ""


def _before(since: datetime) -> Callable[[Object], bool]:
    return lambda item: changed_at(item) < since
