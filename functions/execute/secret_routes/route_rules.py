"""Rules of a route, as pure functions: which paths, queries and headers pass, in both directions.

The agent is the attacker: it chooses every byte of a request. The origin may repeat what it receives, so a request must
not be able to make it do so in a form that redaction does not see (ranges, compression, TRACE).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote

from ocf.events.errors import OcfError
from ocf.events.redaction import MIN_SECRET, Redactor

#: TRACE is missing because its answer is the request, CONNECT because it is a tunnel.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

#: RFC 3986, 3.3: segments of unreserved characters, sub-delimiters and escapes.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+")
_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
#: Control characters, and the backslash that some servers take for a slash.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")

_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
# RFC 9110, 7.6.1: for one connection only.
_HOP_BY_HOP = frozenset(
    {"connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
)
# Credentials of the agent's own, parts of an answer, other names for method, path and client.
_REQUEST_DROPPED = _HOP_BY_HOP | {
    *("accept-encoding", "authorization", "cookie", "forwarded", "if-range", "max-forwards", "range", "via"),
    *("x-original-url", "x-rewrite-url", "x-original-method", "x-real-ip"),
}
_REQUEST_PREFIXES = ("proxy-", "x-forwarded-", "x-http-method", "x-method-override")
# A cookie may be a credential that the origin gave in exchange for the secret.
_ANSWER_DROPPED = _HOP_BY_HOP | {"alt-svc", "cache-control", "content-encoding", "content-type", "set-cookie"}


class RouteRefused(OcfError):
    """The route does not forward this request; `status` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class InvalidSecret(OcfError):
    """The secret cannot be sent in a header, or could not be redacted."""


def injected(format: str, value: str) -> tuple[str, list[str]]:
    """Return the header's text for a secret, and the texts to redact.

    `{}` in `format` is the value. After `Basic ` user and password are base64-encoded (RFC 7617); the password is then
    a secret of its own.

    Raises:
        InvalidSecret: it cannot be sent, or is too short to be redacted. The message does not quote it.
    """
    if len(value) < MIN_SECRET:
        raise InvalidSecret(f"the value must have at least {MIN_SECRET} characters; shorter ones cannot be redacted")
    if not _VALUE.fullmatch(value):
        raise InvalidSecret("the value has characters that no HTTP header may carry; a trailing line break, perhaps")
    text = format.replace("{}", value)
    if not format.startswith("Basic "):
        return text, [value]
    user, colon, password = text.removeprefix("Basic ").partition(":")
    if not colon:
        raise InvalidSecret("Basic needs USER:PASSWORD; write `Basic USER:{}`, or give a value with a colon")
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Basic {encoded}", [value, encoded] + [password] * (len(password) >= MIN_SECRET)


@dataclass(frozen=True)
class Route:
    """Where a loopback URL leads.

    Attributes:
        name: a part of the loopback URL.
        url: http(s) base URL; paths of requests are appended, queries added to its own.
        headers: added to each request; they replace the agent's headers of the same name.
        redactor: removes the secret values from answers.
        methods: of `METHODS`.
        paths: patterns of paths below `url` in which `*` stands for any characters; empty: all.
        seconds: time limit of one request, answer included.
    """

    name: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    redactor: Redactor
    methods: Sequence[str] = METHODS
    paths: Sequence[str] = ()
    seconds: float = 600.0

    @property
    def recorded_as(self) -> str:
        """Return its name in recordings. A secret's name has no hyphen."""
        kind, hyphen, name = self.name.partition("-")
        return f"{kind}.{name}" if hyphen else f"secrets.{self.name}"

    def check(self, method: str, path: str, query: str) -> None:
        """Check a request; `path` is below `url`, and empty for `url` itself.

        Raises:
            RouteRefused: method, path or query are not allowed.
        """
        if method not in self.methods:
            raise RouteRefused(405, f"{method} is not one of {', '.join(self.methods)}")
        path = path or "/"
        if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
            raise RouteRefused(400, "the path or the query has characters that a URL must encode")
        plain = unquote(path, "latin-1")
        if _UNSAFE.search(plain) or _ESCAPE.search(plain):
            raise RouteRefused(400, "the path has an encoded backslash, control character or escape")
        # `..;` is a parent folder for servers that cut path parameters off.
        if any(segment.partition(";")[0] in (".", "..") for segment in plain.split("/")):
            raise RouteRefused(400, "the path has a segment . or ..")
        # As it is written and as it is decoded: origins differ in what an encoded slash means.
        if self.paths and not any(
            fnmatchcase(_upper(path), _upper(one)) and fnmatchcase(plain, unquote(one, "latin-1")) for one in self.paths
        ):
            raise RouteRefused(403, f"the path is not within {', '.join(self.paths)}")

    def request_headers(self, sent: Mapping[str, str]) -> dict[str, str]:
        """Return the headers for the origin; `sent` are the agent's, with names in lower case."""
        own = {name.lower() for name in self.headers}
        named = {name.strip().lower() for name in sent.get("connection", "").split(",")}
        kept = {
            name: value
            for name, value in sent.items()
            # CGI makes no difference between `-` and `_`.
            if name not in _REQUEST_DROPPED | own | named and not name.startswith(_REQUEST_PREFIXES) and "_" not in name
        }
        return {"user-agent": "opencode-functions", **kept, "accept-encoding": "identity", **self.headers}

    def answer_headers(self, received: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the origin's headers for the agent, redacted."""
        return [
            (name, self.redactor.bytes(value))
            for name, value in received
            if name.decode("latin-1").lower() not in _ANSWER_DROPPED
        ]


def _upper(path: str) -> str:
    return _ESCAPE.sub(lambda found: found[0].upper(), path)
