"""Events of forges: from a webhook's payload to a CloudEvent, and the parts of a payload that rules need.

Types and sources are those of the CloudEvents adapters (github.com/cloudevents/spec, cloudevents/adapters).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ocf.events.envelope import Event
from ocf.events.errors import InvalidEvent

Forge = Literal["github", "gitlab", "gitea"]
_TYPES: dict[str, Forge] = {"com.github.": "github", "com.gitlab.": "gitlab", "com.gitea.": "gitea"}
_WORD = re.compile(r"[a-z0-9_]{1,60}")
_COMMENTS = (
    *("issue_comment.created", "pull_request_comment.created", "pull_request_review_comment.created"),
    "pull_request_review.submitted",
)
#: What happens once to a thing, and how labels are added to one: each with the member that has the thing.
_ONCE = {
    **{"issues.opened": "issue", "pull_request.opened": "pull_request", "issue_comment.created": "comment"},
    **dict.fromkeys(("issue.open", "merge_request.open", "note.create"), "object_attributes"),
}
_LABELLED = {
    **{"issues.labeled": "issue", "issues.label_updated": "issue"},
    **{"pull_request.labeled": "pull_request", "pull_request.label_updated": "pull_request"},
    **{"issue.update": "object_attributes", "merge_request.update": "object_attributes"},
}
_THING = ("issue", "pull_request", "merge_request")


@dataclass(frozen=True)
class Actor:
    """The user who caused an event of a forge, as the signed payload names it, and the repository."""

    forge: Forge
    login: str
    repository: str
    url: str
    bot: bool


def forge_event(forge: Forge, name: str, payload: object, body: bytes, time: datetime) -> Event:
    """Return the CloudEvent of a webhook.

    Its id is a digest of what changed where the payload tells it, so that a webhook and a poll are one event; else of
    the signed body. Either way a captured delivery that is sent again is the same event, also under another delivery
    id, which no forge signs (ADR 0020).

    Args:
        forge: The sender.
        name: The event as the forge's header names it, such as `issues`; GitLab's payload has its own name.
        payload: The parsed body.
        body: The body as received.
        time: Now.

    Raises:
        InvalidEvent: It has no name, or the payload is not an object.
    """
    if not isinstance(payload, dict):
        raise InvalidEvent("body: is not a JSON object")
    attributes = _object(payload, "object_attributes")
    parts = [str(payload.get("object_kind") or name) if forge == "gitlab" else name]
    parts.append(str((attributes if forge == "gitlab" else payload).get("action") or ""))
    words = [part for part in parts if part]
    if not words or not all(_WORD.fullmatch(word) for word in words):
        raise InvalidEvent("the header with the event's name is missing or malformed")
    place = _object(payload, "project" if forge == "gitlab" else "repository")
    source = str(place.get("web_url") or place.get("html_url") or f"https://{forge}")[:1_000]
    number = number_of(payload)
    change = _change(".".join(words), payload)
    return Event(
        type=".".join((f"com.{forge}", *words)),
        source=source,
        id=f"sha256:{hashlib.sha256(body if change is None else change.encode()).hexdigest()}",
        time=time,
        data=body,
        subject=None if number is None else str(number),
    )


def _change(what: str, payload: Mapping[str, Any]) -> str | None:
    """Return what changed, in the words that webhook and poll share; None where they share none."""
    thing = _object(payload, _ONCE.get(what) or _LABELLED.get(what, ""))
    if not thing.get("id"):
        return None
    if what in _ONCE:
        return f"{what} {thing['id']}"
    changed = _object(_object(payload, "changes"), "labels")
    earlier, now = changed.get("previous") or [], changed.get("current") or [payload.get("label")]
    added = sorted(
        str(one.get("title") or one.get("name")) for one in now if isinstance(one, dict) and one not in earlier
    )
    second = str(thing.get("updated_at"))[:19].replace("T", " ")  # GitLab's webhooks and API write times differently
    return f"{what} {thing['id']} {second} {added}" if added else None


def number_of(payload: Mapping[str, Any]) -> int | None:
    """Return the number of the issue, pull request or merge request that an event is about."""
    things = [_object(payload, name) for name in _THING]
    attributes = _object(payload, "object_attributes")
    numbers = [one.get("number") or one.get("iid") for one in (*things, attributes)]
    return next((one for one in numbers if isinstance(one, int)), None)


def actor_of(event: Mapping[str, Any]) -> Actor | None:
    """Return who caused an event of a forge; None for any other event."""
    forge = next((kind for prefix, kind in _TYPES.items() if event["type"].startswith(prefix)), None)
    payload = event.get("data")
    if forge is None or not isinstance(payload, dict):
        return None
    if forge == "gitlab":
        user, place = _object(payload, "user"), _object(payload, "project")
        login = str(user.get("username") or payload.get("user_username") or "")
        return Actor(forge, login, str(place.get("path_with_namespace") or ""), str(place.get("git_http_url")), False)
    user, place = _object(payload, "sender"), _object(payload, "repository")
    login = str(user.get("login") or user.get("username") or "")
    bot = user.get("type") == "Bot" or login.endswith("[bot]")
    return Actor(forge, login, str(place.get("full_name") or ""), str(place.get("clone_url")), bot)


@dataclass(frozen=True)
class Place:
    """The issue, pull request or merge request that an event of a forge is about."""

    repository: str
    number: int
    pull_request: bool


def place_of(event: Mapping[str, Any]) -> Place | None:
    """Return what an event of a forge is about; None for any other event, and for one without a number."""
    actor, payload = actor_of(event), event.get("data")
    number = number_of(payload) if actor is not None and isinstance(payload, dict) else None
    if actor is None or number is None or not isinstance(payload, dict):
        return None
    kinds = (payload.get("object_kind"), _object(payload, "object_attributes").get("noteable_type"))
    merge_request = bool({"merge_request", "MergeRequest"} & set(kinds)) or "merge_request" in payload
    pull_request = merge_request or "pull_request" in payload
    return Place(actor.repository, number, pull_request)


def comment_of(event: Mapping[str, Any]) -> str | None:
    """Return the text of a new comment or review; None for any other event."""
    payload, kind = event.get("data"), str(event["type"]).partition(".")[2].partition(".")[2]
    if not isinstance(payload, dict):
        return None
    if kind.startswith("note"):
        text = _object(payload, "object_attributes").get("note")
    elif kind in _COMMENTS:
        text = (_object(payload, "comment") or _object(payload, "review")).get("body")
    else:
        return None
    return text if isinstance(text, str) and text.strip() else None


def branch_of(event: Mapping[str, Any]) -> str | None:
    """Return the branch of the pull or merge request that an event is about, where the payload tells it."""
    payload = event.get("data")
    if not isinstance(payload, dict):
        return None
    branch = _object(_object(payload, "pull_request"), "head").get("ref")
    branch = branch or _object(payload, "merge_request").get("source_branch")
    return branch if isinstance(branch, str) else None


def _object(payload: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = payload.get(name)
    return found if isinstance(found, dict) else {}
