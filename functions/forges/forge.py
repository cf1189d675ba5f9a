"""The interface of a forge, and what its clients return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from ocf.functions.forges.http import Listing

Permission = Literal["none", "read", "triage", "write", "admin"]
#: From the least to the most.
PERMISSIONS: tuple[Permission, ...] = ("none", "read", "triage", "write", "admin")
CommitState = Literal["pending", "success", "failure", "cancelled", "timed_out"]
What = Literal["issues", "comments", "pull_requests"]
#: What a comment belongs to. GitHub and Gitea number both together, GitLab does not.
Kind = Literal["issue", "pull_request"]
#: An object of a forge's JSON.
Object = Mapping[str, Any]


def at_least(permission: Permission, wanted: Permission) -> bool:
    """Return whether `permission` includes `wanted`."""
    return PERMISSIONS.index(permission) >= PERMISSIONS.index(wanted)


def page(url: object) -> str:
    """Return a forge's URL of a page for display as a link; empty unless it is one of HTTP, without blanks."""
    text = str(url)
    return text if text.startswith(("https://", "http://")) and text.isprintable() and " " not in text else ""


@dataclass(frozen=True)
class PullRequest:
    """A pull or merge request: number, page, whether it is open, and the commit at its head."""

    number: int
    url: str
    open: bool
    commit: str


@dataclass(frozen=True)
class Proposal:
    """A pull request to open: from branch `head` to branch `base` of the same repository."""

    head: str
    base: str
    title: str
    body: str
    draft: bool = False
    labels: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommitStatus:
    """The status of an execution on a commit: state, a line of text, page, and the id of the execution."""

    state: CommitState
    text: str
    url: str | None
    execution: str


@dataclass(frozen=True)
class Change:
    """An event of a forge as the forge's webhook says it: name, payload, time by the forge's clock."""

    name: str
    payload: dict[str, Any]
    time: datetime


def changed_at(item: Object) -> datetime:
    """Return when an item of a listing changed. Raises ValueError."""
    return at(item.get("updated_at") or item.get("created_at"))


def at(text: object) -> datetime:
    """Parse a time of an API, with its zone. Raises ValueError."""
    return datetime.fromisoformat(str(text)).astimezone(UTC)


class Forge(Protocol):
    """One forge with one token. `repository` is `owner/name` (GitLab: `group/.../name`).

    Every method raises ForgeRefused when the forge refuses, and ForgeUnavailable when another try may help.
    """

    async def login(self) -> str:
        """Return the user name of the token's owner; of a GitHub App, `NAME[bot]` where the API tells it."""

    async def permission(self, repository: str, user: str) -> Permission:
        """Return what a user may do in a repository."""

    async def pull_requests(self, repository: str, head: str, base: str) -> list[PullRequest]:
        """Return the pull requests from branch `head` to branch `base`, open and closed, the latest first."""

    async def open_pull_request(self, repository: str, proposal: Proposal) -> PullRequest:
        """Open a pull request, without labels and reviewers."""

    async def update_pull_request(self, repository: str, number: int, title: str | None, body: str | None) -> None:
        """Replace title and body of a pull request; None: as it is."""

    async def add_labels(self, repository: str, number: int, labels: tuple[str, ...]) -> None:
        """Add labels to a pull request."""

    async def ask_reviewers(self, repository: str, number: int, reviewers: tuple[str, ...]) -> None:
        """Request reviews of a pull request by users."""

    async def comments(self, repository: str, kind: Kind, number: int, since: datetime) -> list[tuple[str, str]]:
        """Return text and URL of each comment since then."""

    async def comment(self, repository: str, kind: Kind, number: int, body: str) -> str:
        """Add a comment; return its URL."""

    async def set_status(self, repository: str, commit: str, status: CommitStatus) -> None:
        """Set the status `ocf` of a commit; of a GitHub App, the execution's one check run there."""

    async def listing(self, repository: str, what: What, since: datetime, etag: str | None = None) -> Listing:
        """Return what changed since then, up to 1,000 items."""

    async def changes(self, repository: str, what: What, items: list[dict[str, Any]], since: datetime) -> list[Change]:
        """Return what happened since then to items of a listing: opened, labelled; comments: created.

        Raises LookupError, TypeError or ValueError for items that this forge would not give.
        """
