"""HTTP of the forge clients: bounded answers in bounded time, checked addresses, errors by whether a retry helps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2

from ocf.events.errors import DeadLetter, InvalidEvent, Unavailable
from ocf.events.untrusted_json import KIB, MIB, JsonLimit, OverLimit, parse_json, shorten
from ocf.functions.core.checked_network import CheckedNetwork, connected_through, refuse_forbidden

ANSWER = JsonLimit(bytes=8 * MIB, depth=32, values=400_000)
_ERROR = JsonLimit(bytes=64 * KIB, depth=8, values=2_000)
_SECONDS = 30.0
#: Items of a page; smaller ones where the answer is too large. Each is a multiple of the next.
_SIZES = (100, 20, 4, 1)
_ITEMS = 1_000
#: Of one listing. More calls than pages of 100, for the smaller ones.
_CALLS, _BYTES = 40, 32 * MIB
#: Seconds to wait when a rate limit does not say how long; and at most.
_UNTOLD, _LONGEST = 60.0, 3_600.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class ForgeRefused(DeadLetter):
    """The forge refused the call. `status` is its HTTP status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AnswerTooLarge(ForgeRefused):
    """The forge's answer is larger than is read."""


class ForgeUnavailable(Unavailable):
    """The forge does not answer, or asks to wait for `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """A successful answer, or 304."""

    status: int
    value: Any
    etag: str | None
    bytes: int = 0


@dataclass(frozen=True)
class Listing:
    """Items as the forge's API gives them, latest change first.

    `modified` is False when `etag` still holds; `cut` says that there are more than are read, or too large ones.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    etag: str | None = None
    modified: bool = True
    cut: bool = False


def forge_client() -> httpx2.AsyncClient:
    """Return a client that keeps nothing between calls and reaches no forbidden address."""
    network = CheckedNetwork(lambda host, _, addresses: refuse_forbidden(host, addresses))
    return httpx2.AsyncClient(
        transport=connected_through(network, httpx2.AsyncHTTPTransport(trust_env=False)),
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx2.Timeout(10, read=_SECONDS),
    )


class Api:
    """The API of one forge at `base`, with the headers that authenticate."""

    def __init__(self, client: httpx2.AsyncClient, base: str, headers: Mapping[str, str]) -> None:
        self._client = client
        self._base = base.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": "opencode-functions", **headers}
        self._host = httpx2.URL(base).host

    async def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON at `path`."""
        return (await self.call("GET", path, query=query)).value

    async def send(self, method: str, path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        """Send JSON; return the answer's."""
        return (await self.call(method, path, body=body)).value

    async def listed(
        self,
        path: str,
        query: Mapping[str, object],
        *,
        etag: str | None = None,
        old: Callable[[Mapping[str, Any]], bool] = lambda _: False,
    ) -> Listing:
        """Return the objects of a list, page by page, up to 1,000; the first that is `old` ends it.

        An answer that is too large is asked for again in smaller pages: nobody can hide others' items behind large ones
        of his own. An item that alone is too large is left out.
        """
        found: list[dict[str, Any]] = []
        tag, sent, cut = etag, etag, False
        size, page, read, left = _SIZES[0], 1, 0, _BYTES  # `read`: items that were read or left out
        for _ in range(_CALLS):
            if read >= _ITEMS or left <= 0:
                break
            items: list[dict[str, Any]] = []
            paged = {**query, "page": page, "per_page": size, "limit": size}
            try:
                answer = await self.call("GET", path, query=paged, etag=sent)
            except AnswerTooLarge:
                if size > 1:
                    size = _SIZES[_SIZES.index(size) + 1]
                    page = read // size + 1
                    continue
                cut, last = True, False
                read += 1
            else:
                if answer.status == 304:
                    return Listing(etag=etag, modified=False)
                tag = answer.etag if read == 0 else tag
                left -= answer.bytes
                items = objects(answer.value)
                found += [one for one in items if not old(one)]
                read += len(items)
                # A forge may have a lower limit of its own.
                last = len(items) < max(size // 2, 1) or old(items[-1])
            sent, page = None, page + 1
            if last:
                return Listing(found, tag, cut=cut)
            larger = _SIZES[max(_SIZES.index(size) - 1, 0)]
            if size != larger and read % larger == 0:
                size, page = larger, read // larger + 1
        return Listing(found, tag, cut=True)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
        etag: str | None = None,
    ) -> Answer:
        """Make one call.

        Raises:
            ForgeRefused: the forge refuses it.
            ForgeUnavailable: no answer in time, or a temporary failure.
        """
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        headers = self._headers if etag is None else {**self._headers, "If-None-Match": etag}
        try:
            async with (
                asyncio.timeout(_SECONDS),
                self._client.stream(method, self._base + path, params=params, json=body, headers=headers) as response,
            ):
                return await self._answer(f"{method} {path}", response)
        except TimeoutError:
            raise ForgeUnavailable(f"{self._host} did not answer within {_SECONDS:g} s") from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise ForgeRefused(f"{self._host}: {error}") from None
        except httpx2.TransportError as error:
            raise ForgeUnavailable(f"{self._host} cannot be reached ({str(error) or type(error).__name__})") from None
        except OverLimit as error:
            raise AnswerTooLarge(f"{self._host}: {error}") from None
        except InvalidEvent as error:
            raise ForgeRefused(f"{self._host}: {error}") from None

    async def _answer(self, what: str, response: httpx2.Response) -> Answer:
        limit = ANSWER if response.status_code < 300 else _ERROR
        content = bytearray()
        if response.headers.get("content-encoding", "identity") not in ("", "identity"):
            raise ForgeRefused(f"{self._host} compressed its answer though it was asked not to")
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > limit.bytes:
                raise AnswerTooLarge(f"{self._host} answered {what} with more than {limit.bytes} bytes")
        status, etag = response.status_code, response.headers.get("etag")
        if status < 300 or status == 304:
            value = parse_json(bytes(content), limit, what) if content and status != 204 else None
            return Answer(status, value, etag, len(content))
        text = f"{self._host} answered {status} to {what}{_words(bytes(content))}"
        wait = _wait(response)
        if status in _RETRIED or wait is not None:
            raise ForgeUnavailable(text, wait)
        raise ForgeRefused(text, status)


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; anything else in an answer is left out."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def seconds(time: datetime) -> str:
    """Format a time for a query, in whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _wait(response: httpx2.Response) -> float | None:
    """Return the seconds that a rate limit asks to wait (GitHub answers 403 or 429), by the forge's clock."""
    headers = response.headers
    asked = headers.get("retry-after", "")
    if asked.isdecimal() and len(asked) < 6:
        return float(asked)
    remaining = headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining"))
    if response.status_code not in (403, 429) or remaining != "0":
        return None
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    try:
        left = int(reset[:15]) - parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return _UNTOLD
    return min(max(left, 1.0), _LONGEST)


def _words(content: bytes) -> str:
    """Return the forge's own message, in one short line."""
    try:
        value = parse_json(content, _ERROR)
    except InvalidEvent:
        return ""
    if not isinstance(value, dict):
        return ""
    details = [one.get("message") for one in objects(value.get("errors"))]
    words = [value.get("message") or value.get("error"), *details]
    text = "; ".join(str(word) for word in words if word)
    return ": " + shorten("".join(c if c.isprintable() else " " for c in text), 400) if text else ""
