"""A token of an OpenID Connect issuer: discovery, the device flow (RFC 8628) and renewal (RFC 6749, section 6).

Errors never quote what the issuer sent as a code or token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from ocf.cli.common import checked_token
from ocf.events.client.gateway_retry import CallFailed, Unreachable
from ocf.events.errors import InvalidEvent
from ocf.events.untrusted_json import KIB, JsonLimit, parse_json
from ocf.functions.core.address_rules import is_loopback

#: An issuer's metadata (that of large providers has 10 kB), or its answer with tokens.
_ANSWER = JsonLimit(bytes=256 * KIB, depth=16, values=5_000)
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
#: Seconds between two polls unless the issuer names them, and what `slow_down` adds (RFC 8628, 3.2 and 3.5).
_INTERVAL = 5
_MOST_INTERVAL, _MOST_CODE_SECONDS, _MOST_TOKEN_SECONDS = 300, 24 * 3600, 366 * 24 * 3600
#: Seconds before its end at which a token is renewed: a call takes time, and `exp` is in whole seconds.
#: At most half of its life.
_EARLY = 60.0


class LoginEnded(CallFailed):
    """The issuer does not renew the login: it has ended there."""


@dataclass(frozen=True)
class OidcClient:
    """A public client of an issuer, and what it asks for. `audience` is that of the gateway's tokens."""

    issuer: str
    client_id: str
    scope: str
    audience: str | None = None

    @property
    def asked(self) -> dict[str, str]:
        """Return the parameters of each request. `resource` is RFC 8707; some issuers know `audience` instead."""
        audience = {"resource": self.audience, "audience": self.audience} if self.audience else {}
        return {"client_id": self.client_id, **audience}


@dataclass(frozen=True)
class Tokens:
    """The tokens of a login. Times in Unix seconds."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    renew_at: float
    expires_at: float


@dataclass(frozen=True)
class Prompt:
    """The page and code of a login, valid until `ends_at` (Unix seconds)."""

    url: str
    code: str
    whole_url: str | None
    ends_at: float


@contextmanager
def connected(issuer: str) -> Iterator[httpx2.Client]:
    """Yield connections to an issuer; through the proxy of the environment unless it is on this machine."""
    outside = not is_loopback(urlsplit(issuer).hostname or "")
    with httpx2.Client(timeout=30, trust_env=outside, follow_redirects=False) as http:
        yield http


def log_in(
    client: OidcClient,
    show: Callable[[Prompt], None],
    http: httpx2.Client,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Tokens:
    """Return the tokens that the user allows in a browser, on any machine.

    Args:
        client: Client, and what it asks for.
        show: Tells the user what to do.
        http: Connections to the issuer.
        clock: Unix seconds.
        sleep: Waits between two polls.

    Raises:
        CallFailed: The issuer or the user refuses, or the code expires.
    """
    endpoints = _discover(client, http)
    if not endpoints["device"]:
        raise CallFailed(f"issuer {client.issuer} offers no device flow (no device_authorization_endpoint)")
    status, given = _request(http, endpoints["device"], {**client.asked, "scope": client.scope})
    if status != 200:
        raise _refusal(client, "refuses a login", status, given)
    where = f"the device authorization of issuer {client.issuer}"
    ends_at = clock() + _seconds(given, "expires_in", where, _MOST_CODE_SECONDS)
    interval = min(_seconds(given, "interval", where, _MOST_INTERVAL, _INTERVAL), _MOST_INTERVAL)
    code, url = (_text(given, name, where) for name in ("device_code", "verification_uri"))
    whole = given.get("verification_uri_complete")
    show(Prompt(url, _text(given, "user_code", where), whole if isinstance(whole, str) else None, ends_at))
    while clock() + interval < ends_at:
        sleep(interval)
        try:
            poll = {**client.asked, "grant_type": _DEVICE_CODE, "device_code": code}
            status, given = _request(http, endpoints["token"], poll)
        except Unreachable:
            interval = min(2 * interval, _MOST_INTERVAL)
            continue
        if status == 200:
            return _tokens(client, given, clock, None)
        match given.get("error"):
            case "authorization_pending":
                pass
            case "slow_down":
                interval = min(interval + _INTERVAL, _MOST_INTERVAL)
            case "access_denied":
                raise CallFailed(f"the login was refused in the browser, or by issuer {client.issuer}")
            case "expired_token":
                break
            case _:
                raise _refusal(client, "refuses the login", status, given)
    raise CallFailed("the code has expired before it was entered; log in again")


def renew(client: OidcClient, tokens: Tokens, http: httpx2.Client, clock: Callable[[], float] = time.time) -> Tokens:
    """Return new tokens.

    Raises:
        LoginEnded: The issuer has ended the login.
        Unreachable: The issuer does not answer now.
        CallFailed: It refuses for another reason.
    """
    token_endpoint = _discover(client, http)["token"]
    asked = {**client.asked, "grant_type": "refresh_token", "refresh_token": tokens.refresh_token or ""}
    status, given = _request(http, token_endpoint, asked)
    if status == 200:
        return _tokens(client, given, clock, tokens.refresh_token)
    refusal = _refusal(client, "does not renew the login", status, given)
    raise LoginEnded(str(refusal)) if given.get("error") == "invalid_grant" else refusal


def checked_issuer(url: str, what: str = "--oidc-issuer") -> str:
    """Return an https URL, or a plain one of this machine. Raises CallFailed with `what` for any other."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise CallFailed(f"{what}: is not a URL") from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    if not secure or not host or parts.username or parts.fragment or any(one <= " " for one in url):
        raise CallFailed(f"{what}: {url[:200]!r} is not an https URL (http is for loopback only)")
    return url


def _discover(client: OidcClient, http: httpx2.Client) -> dict[str, str]:
    """Return the endpoints by name; that of the device flow may be empty (OpenID Connect Discovery 1.0, 4)."""
    issuer = checked_issuer(client.issuer)
    status, found = _request(http, issuer.rstrip("/") + "/.well-known/openid-configuration", None)
    if status != 200:
        raise _refusal(client, "has no OpenID configuration", status, found)
    if found.get("issuer") != issuer:
        raise CallFailed(
            f"--oidc-issuer {issuer}: its configuration is that of issuer {str(found.get('issuer'))[:200]!r}"
        )
    where = f"the configuration of issuer {issuer}"
    token, device = _text(found, "token_endpoint", where), found.get("device_authorization_endpoint")
    return {
        "token": checked_issuer(token, f"token_endpoint of issuer {issuer}"),
        "device": checked_issuer(str(device), f"device_authorization_endpoint of issuer {issuer}") if device else "",
    }


def _request(http: httpx2.Client, url: str, form: dict[str, str] | None) -> tuple[int, dict[str, Any]]:
    """Return status and object of an answer: a GET, or a POST of a form."""
    body = bytearray()
    try:
        with http.stream("POST" if form else "GET", url, data=form, headers={"Accept": "application/json"}) as answer:
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > _ANSWER.bytes:
                    raise CallFailed(f"{url}: the answer has more than {_ANSWER.bytes} bytes")
    except httpx2.TransportError as error:
        raise Unreachable(f"no answer from the issuer at {url} ({error or type(error).__name__})") from None
    except httpx2.HTTPError as error:  # such as a damaged compression
        raise CallFailed(f"{url}: {error or type(error).__name__}") from None
    if answer.status_code >= 500 or answer.status_code == 429:
        raise Unreachable(f"the issuer answers {answer.status_code} at {url}")
    try:
        found = parse_json(bytes(body), _ANSWER, url)
    except InvalidEvent as error:
        if answer.status_code != 200:
            return answer.status_code, {}
        raise CallFailed(str(error)) from None
    if not isinstance(found, dict):
        raise CallFailed(f"{url}: the answer is not a JSON object")
    return answer.status_code, found


def _tokens(client: OidcClient, given: dict[str, Any], clock: Callable[[], float], refresh_token: str | None) -> Tokens:
    where = f"the token answer of issuer {client.issuer}"
    if _text(given, "token_type", where).lower() != "bearer":
        raise CallFailed(f"{where}: token_type is not Bearer")
    seconds, new = _seconds(given, "expires_in", where, _MOST_TOKEN_SECONDS), given.get("refresh_token")
    access = checked_token(_text(given, "access_token", where), f"access_token of issuer {client.issuer}")
    now = clock()
    early = min(_EARLY, seconds / 2)
    return Tokens(access, new if isinstance(new, str) and new else refresh_token, now + seconds - early, now + seconds)


def _text(given: dict[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise CallFailed(f"{where}: {name} is missing or not a text")
    return value


def _seconds(given: dict[str, Any], name: str, where: str, most: int, default: int | None = None) -> int:
    value = given.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)  # some issuers quote it
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CallFailed(f"{where}: {name} is not a number of seconds")
    return min(value, most)


def _refusal(client: OidcClient, what: str, status: int, given: dict[str, Any]) -> CallFailed:
    said = [str(given[name])[:200] for name in ("error", "error_description") if given.get(name)]
    return CallFailed(f"issuer {client.issuer} {what}: {': '.join(said) or f'status {status}'}")
