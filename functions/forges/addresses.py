"""From the URL of a repository to its forge: kind, API, name; and which hosts a credential belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from ocf.events.task_forge_fields import ForgeKind
from ocf.functions.forges.forge import Forge
from ocf.functions.forges.github import Gitea, GitHub, GitHubApp
from ocf.functions.forges.gitlab import GitLab
from ocf.functions.forges.http import ForgeRefused

_PUBLIC: dict[ForgeKind, str] = {"github": "https://api.github.com", "gitlab": "https://gitlab.com/api/v4"}
#: Git's host where it is not that of the API.
_GIT_ORIGINS = {"https://api.github.com": "https://github.com"}
_KINDS: dict[str, ForgeKind] = {"https://github.com": "github", "https://gitlab.com": "gitlab"}
_API_PATHS: dict[ForgeKind, str] = {"github": "/api/v3", "gitlab": "/api/v4", "gitea": "/api/v1"}
_CLASSES: dict[ForgeKind, type[GitHub | GitLab]] = {"github": GitHub, "gitea": Gitea, "gitlab": GitLab}
_NAME = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+)+")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ForgeAddress:
    """A forge: its kind and the base URL of its API."""

    kind: ForgeKind
    api_url: str

    @property
    def git_origin(self) -> str:
        """Return the origin of its repositories' URLs, to which its tokens may be sent."""
        origin = _origin(self.api_url)
        return _GIT_ORIGINS.get(origin, origin)

    def repository(self, url: str) -> str:
        """Return the name of the repository at a git URL: `owner/name`.

        Raises:
            ForgeRefused: the URL is not one of this forge's, or has no such name.
        """
        if _origin(url) != self.git_origin:
            raise ForgeRefused(f"the repository is at {_origin(url)}, the {self.kind} forge at {self.git_origin}")
        prefix = urlsplit(self.api_url).path.rstrip("/").removesuffix(_API_PATHS[self.kind])
        name = urlsplit(url).path.removeprefix(prefix).strip("/").removesuffix(".git")
        if not _NAME.fullmatch(name) or (self.kind != "gitlab" and name.count("/") != 1):
            raise ForgeRefused(f"the path {name[:200]!r} of the repository's URL is not OWNER/NAME")
        return name

    def check(self) -> None:
        """Check that a token may be sent there. Raises ForgeRefused."""
        if urlsplit(self.api_url).scheme != "https" and urlsplit(self.api_url).hostname not in _LOOPBACK:
            raise ForgeRefused("the token would cross the network in clear text; use https")

    def require(self, kind: ForgeKind | None, api_url: str | None, credential: str) -> None:
        """Check that a task or rule means this forge, that of its credential. Raises ForgeRefused."""
        if (kind or self.kind, (api_url or self.api_url).rstrip("/")) != (self.kind, self.api_url):
            raise ForgeRefused(f"credential {credential!r} is for {self.kind} at {self.api_url}")

    def connect(self, client: httpx2.AsyncClient, token: str, *, app: bool = False) -> Forge:
        """Return a client of the forge; `app` says that the token is that of a GitHub App's installation.

        Raises:
            ForgeRefused: the token would cross the network in clear text.
        """
        self.check()
        return (GitHubApp if app else _CLASSES[self.kind])(client, self.api_url, token)


def forge_address(kind: ForgeKind | None, api_url: str | None, url: str | None = None) -> ForgeAddress:
    """Return the forge of a kind and an API's URL, or the one that a repository's URL tells.

    Raises:
        ForgeRefused: it is not clear which.
    """
    origin = _origin(url) if url else ""
    kind = kind or _KINDS.get(origin)
    if kind is None:
        raise ForgeRefused(f"the forge at {origin or 'no URL'} is not known: say forge: github, gitlab or gitea")
    if api_url is None and (not url or origin in _KINDS):
        api_url = _PUBLIC.get(kind)
    elif api_url is None:
        api_url = origin + _API_PATHS[kind]
    if api_url is None:
        raise ForgeRefused(f"api_url is required for {kind}, for example https://git.example.com/api/v1")
    return ForgeAddress(kind, api_url.rstrip("/"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ForgeRefused("the URL has no valid port") from None
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port and port != usual else "")
