"""GitLab's REST API (https://docs.gitlab.com/api/rest, v4)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx2

from ocf.functions.forges.forge import (
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

#: Lowest access level of each permission; reporters manage issues, developers push.
_LEVELS: tuple[tuple[int, Permission], ...] = ((40, "admin"), (30, "write"), (20, "triage"), (10, "read"))
_STATES: dict[CommitState, str] = {
    "pending": "running",
    "success": "success",
    "failure": "failed",
    "cancelled": "canceled",
    "timed_out": "failed",
}
#: What a polled comment may be about, and the name of its webhook's member.
_THINGS = {"Issue": "issue", "MergeRequest": "merge_request"}
_NOTES: dict[Kind, str] = {"issue": "issues", "pull_request": "merge_requests"}


class GitLab:
    """GitLab at `api_url`, such as https://gitlab.com/api/v4."""

    def __init__(self, client: httpx2.AsyncClient, api_url: str, token: str) -> None:
        self._api = Api(client, api_url, {"Authorization": f"Bearer {token}"})

    async def login(self) -> str:
        """Return the user name of the token's owner."""
        return str((await self._api.get("/user"))["username"])

    async def permission(self, repository: str, user: str) -> Permission:
        """Return what a member may do, also by its groups."""
        found = await self._user(user)
        if found is None:
            return "none"
        try:
            member = await self._api.get(f"{_project(repository)}/members/all/{found}")
        except ForgeRefused as error:
            if error.status == 404:
                return "none"
            raise
        level = int(member.get("access_level") or 0)
        active = member.get("state", "active") == "active"
        return next((name for least, name in _LEVELS if active and level >= least), "none")

    async def _user(self, name: str) -> int | None:
        found = objects(await self._api.get("/users", username=name))
        return next((int(one["id"]) for one in found if str(one.get("username")).lower() == name.lower()), None)

    async def pull_requests(self, repository: str, head: str, base: str) -> list[PullRequest]:
        """Return the merge requests from `head` to `base`, the latest first."""
        query = {"source_branch": head, "target_branch": base, "state": "all", "order_by": "created_at"}
        found = (await self._api.listed(f"{_project(repository)}/merge_requests", query)).items
        own = [one for one in found if one.get("source_project_id") == one.get("target_project_id")]
        return sorted(map(_merge_request, own), key=lambda one: one.number, reverse=True)

    async def open_pull_request(self, repository: str, proposal: Proposal) -> PullRequest:
        """Open a merge request. GitLab knows a draft by its title."""
        title = f"Draft: {proposal.title}" if proposal.draft else proposal.title
        body = {"source_branch": proposal.head, "target_branch": proposal.base, "title": title}
        body |= {"description": proposal.body}
        return _merge_request(await self._api.send("POST", f"{_project(repository)}/merge_requests", body))

    async def update_pull_request(self, repository: str, number: int, title: str | None, body: str | None) -> None:
        """Replace title and description; None: as it is."""
        given = {name: text for name, text in (("title", title), ("description", body)) if text is not None}
        await self._put(repository, number, given)

    async def add_labels(self, repository: str, number: int, labels: tuple[str, ...]) -> None:
        """Add labels; GitLab makes those that do not exist."""
        await self._put(repository, number, {"add_labels": ",".join(labels)})

    async def ask_reviewers(self, repository: str, number: int, reviewers: tuple[str, ...]) -> None:
        """Request reviews."""
        ids = [found for name in reviewers if (found := await self._user(name)) is not None]
        if len(ids) < len(reviewers):
            raise ForgeRefused("a reviewer is not a user of this GitLab")
        await self._put(repository, number, {"reviewer_ids": ids})

    async def _put(self, repository: str, number: int, body: dict[str, Any]) -> None:
        await self._api.send("PUT", f"{_project(repository)}/merge_requests/{number}", body)

    async def comments(self, repository: str, kind: Kind, number: int, since: datetime) -> list[tuple[str, str]]:
        """Return text and URL of each comment since then."""
        path = f"{_project(repository)}/{_NOTES[kind]}/{number}/notes"
        found = (await self._api.listed(path, {"sort": "desc", "order_by": "created_at"})).items
        return [(str(one.get("body")), f"#note_{one.get('id')}") for one in found]

    async def comment(self, repository: str, kind: Kind, number: int, body: str) -> str:
        """Add a comment; return its anchor on the page."""
        made = await self._api.send("POST", f"{_project(repository)}/{_NOTES[kind]}/{number}/notes", {"body": body})
        return f"#note_{made['id']}"

    async def set_status(self, repository: str, commit: str, status: CommitStatus) -> None:
        """Set the status `ocf` of a commit."""
        body = {"state": _STATES[status.state], "name": "ocf", "description": status.text[:140]}
        body |= {"target_url": status.url} if status.url else {}
        await self._api.send("POST", f"{_project(repository)}/statuses/{commit}", body)

    async def listing(self, repository: str, what: What, since: datetime, etag: str | None = None) -> Listing:
        """Return what changed since then; comments as the project's events of notes."""
        query: dict[str, object] = {"updated_after": seconds(since), "order_by": "updated_at", "sort": "desc"}
        path = {"issues": "issues", "comments": "events", "pull_requests": "merge_requests"}[what]
        if what == "comments":  # `after` is a day, exclusive
            query = {"target_type": "note", "after": (since - timedelta(days=1)).date().isoformat(), "sort": "desc"}
        path = f"{_project(repository)}/{path}"
        return await self._api.listed(path, query, etag=etag, old=lambda one: changed_at(one) < since)

    async def changes(self, repository: str, what: What, items: list[dict[str, Any]], since: datetime) -> list[Change]:
        """Return what happened to items of a listing since then, in the form of GitLab's webhooks."""
        path, found = _project(repository), []
        place = _place(await self._api.get(path)) if items else {}
        for item in items:
            opened, base = at(item["created_at"]), {"project": place, "user": item["author"]}
            if what == "comments":
                thing, note = _THINGS.get(str(item["note"]["noteable_type"])), item["note"]
                if opened < since or thing is None or note.get("system"):
                    continue
                about = await self._api.get(f"{path}/{thing}s/{int(note['noteable_iid'])}")
                given = {**note, "note": note["body"], "action": "create"}
                payload = {"object_kind": "note", "object_attributes": given, thing: about, **base}
                found.append(Change("note", payload, opened))
                continue
            kind = "issue" if what == "issues" else "merge_request"
            base |= {"object_kind": kind, "labels": [{"title": str(name)} for name in item.get("labels") or []]}
            attributes = {**item, "url": item["web_url"]}
            if opened >= since:
                found.append(Change(kind, {**base, "object_attributes": {**attributes, "action": "open"}}, opened))
            events = await self._api.listed(f"{path}/{kind}s/{int(item['iid'])}/resource_label_events", {})
            for one in events.items:
                time = at(one["created_at"])
                if one.get("action") == "add" and one.get("label") and time >= since:
                    labels = {"previous": [], "current": [{"title": one["label"]["name"]}]}
                    changed = {"user": one["user"], "changes": {"labels": labels}}
                    updated = {"object_attributes": {**attributes, "updated_at": seconds(time), "action": "update"}}
                    found.append(Change(kind, {**base, **changed, **updated}, time))
        return found


def _place(found: Object) -> dict[str, Any]:
    names = ("id", "name", "web_url", "path_with_namespace", "default_branch")
    return {**{name: found[name] for name in names}, "git_http_url": found["http_url_to_repo"]}


def _project(repository: str) -> str:
    return f"/projects/{quote(repository, safe='')}"


def _merge_request(found: Object) -> PullRequest:
    return PullRequest(
        int(found["iid"]), page(found["web_url"]), found.get("state") in ("opened", "locked"), str(found.get("sha"))
    )
