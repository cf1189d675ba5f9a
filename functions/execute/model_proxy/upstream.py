"""Upstream client: one HTTP client for all model proxies of the process, with retries before the first byte.

Shared because a client costs a TLS context and a pool. It stores nothing of one execution: no cookies, no redirects, no
environment, and the key travels in the single request's headers.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

import httpcore2
import httpx2

from ocf.events import untrusted_json
from ocf.events.errors import InvalidEvent
from ocf.events.lifecycle import Reason
from ocf.events.ports import Clock
from ocf.events.untrusted_json import Inflater, parse_json
from ocf.functions.core.checked_network import CheckedNetwork, refuse_forbidden

#: Temporary statuses: timeouts, too many requests, server errors (529 is Anthropic's "overloaded").
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
#: Client errors that the agent handles (after a too long context it compacts, and goes on).
PASSED = frozenset({400, 413, 422})


#: A connection failed or broke off.
BROKEN = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError)


@dataclass(frozen=True)
class Answer:
    """An answer whose body is not read yet; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    stream: AsyncIterable[bytes] = field(repr=False)


class Unusable(Exception):
    """A successful answer with nothing in it that an agent could use; describes the answer, never its content."""


class ModelFailed(Exception):
    """The model is unavailable; the execution fails with this reason.

    The message has the provider's words in it only where the caller redacts them.
    """

    def __init__(self, reason: Reason, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.status = status


class ClientErrorForwarded(Exception):
    """The provider refused this one request; the agent gets its answer (redacted)."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential waits: `base` seconds, four times as many after each try up to `cap`, each less up to half by chance.

    At most `tries` requests in all. A `Retry-After` is obeyed up to `patience` seconds; a provider that asks for more
    has failed.
    """

    tries: int = 3
    base: float = 2.0
    cap: float = 8.0
    patience: float = 60.0

    def wait(self, tried: int, jitter: float) -> float:
        """Return the seconds before the next request after `tried` failures; `jitter` in 0..1."""
        return float(min(self.cap, self.base * 4 ** (tried - 1)) * (1 - jitter / 2))


class Upstream:
    """Opens answers of model providers.

    Args:
        clock: for the waits between tries.
        retry: number and length of retries.
        allow_hosts: hosts that may be link-local.
        read_timeout: seconds without a byte before an answer counts as lost; a comment or a ping is a byte.
        jitter: returns a new number in 0..1 at each call.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        retry: RetryPolicy | None = None,
        allow_hosts: Collection[str] = (),
        read_timeout: float = 300.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._retry = retry or RetryPolicy()
        self._jitter = jitter
        self._silence = read_timeout
        # Without httpx2's client and transport around it, which cost as much again: no cookies, no redirects.
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=None,
            max_keepalive_connections=16,
            keepalive_expiry=30,
            network_backend=CheckedNetwork(lambda host, _, addresses: refuse_forbidden(host, addresses, allow_hosts)),
        )
        self._timeout = {"connect": 10.0, "read": read_timeout, "write": 10.0, "pool": None}

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    @asynccontextmanager
    async def opened(
        self, url: str, headers: dict[str, str], body: bytes, on_answer: Callable[[int], None]
    ) -> AsyncIterator[Answer]:
        """Open a successful answer with its body unread; `on_answer` gets the status of each try (0: no answer).

        Raises:
            ClientErrorForwarded: a client error for the agent to read.
            ModelFailed: refused for good, or the tries are used up.
        """
        tried = 0
        while True:
            tried += 1
            failed: ModelFailed
            asked: float | None = None
            try:
                response = await self._pool.handle_async_request(self._request(url, headers, body))
            except (httpcore2.LocalProtocolError, UnicodeEncodeError):
                # Their messages quote the header, and so the key.
                text = "the model's key cannot be sent: it has characters that no HTTP header may carry"
                raise ModelFailed(Reason.MODEL_AUTH, text) from None
            except (httpcore2.UnsupportedProtocol, httpx2.InvalidURL) as error:
                raise ModelFailed(Reason.MODEL_ERROR, f"the model endpoint is not usable: {error}") from None
            except httpcore2.ReadTimeout:
                on_answer(0)
                text = f"the model endpoint sent nothing for {self._silence:g} s (MODEL_SILENCE_SECONDS)"
                failed = ModelFailed(Reason.MODEL_ERROR, text)
            except BROKEN as error:
                on_answer(0)
                failed = ModelFailed(Reason.MODEL_ERROR, f"the model endpoint cannot be reached ({_words(error)})")
            else:
                answer = _answer(response)
                on_answer(answer.status)
                try:
                    if answer.status == 200:
                        yield answer
                        return
                    failed, asked = await self._refused(answer)
                finally:
                    await response.aclose()
            last = tried >= self._retry.tries or (asked or 0) > self._retry.patience
            if failed.status is not None and failed.status not in RETRIED:
                raise failed
            if last:
                times = "one try" if tried == 1 else f"{tried} tries"
                raise ModelFailed(failed.reason, f"{failed.message}; gave up after {times}", failed.status)
            await self._clock.sleep(asked if asked is not None else self._retry.wait(tried, self._jitter()))

    def _request(self, url: str, headers: Mapping[str, str], body: bytes) -> httpcore2.Request:
        target, host = _address(url)
        sent = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        sent += [(b"host", host), (b"content-length", b"%d" % len(body))]
        return httpcore2.Request("POST", target, headers=sent, content=body, extensions={"timeout": self._timeout})

    async def _refused(self, response: Answer) -> tuple[ModelFailed, float | None]:
        status = response.status
        body = await _head_of(response)
        if status in (401, 403):
            text = f"the model provider refused the key (status {status})"
            return ModelFailed(Reason.MODEL_AUTH, text, status), None
        if status in PASSED:
            raise ClientErrorForwarded(status, body)
        if status == 429 and b"insufficient_quota" in body:
            return ModelFailed(Reason.MODEL_ERROR, "the model account has no quota left", 402), None
        failed = ModelFailed(Reason.MODEL_ERROR, f"the model endpoint answered {status}{_error_message(body)}", status)
        return failed, self._retry_after(response) if status in RETRIED else None

    def _retry_after(self, response: Answer) -> float | None:
        """Return the seconds the provider asks to wait (RFC 9110, 10.2.3: seconds or a date)."""
        text = response.headers.get("retry-after-ms")
        if text and text.isdecimal() and len(text) < 16:
            return int(text) / 1000
        text = response.headers.get("retry-after", "").strip()
        if not text:
            return None
        try:
            seconds = float(text)
            return seconds if seconds >= 0 else 0.0  # also for NaN
        except ValueError:
            return _until(text, self._clock.now())


def _until(date: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(date)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


@lru_cache(64)
def _address(url: str) -> tuple[httpcore2.URL, bytes]:
    """Return a URL in httpcore2's form, and its `Host`. Raises httpx2.InvalidURL."""
    parsed = httpx2.URL(url)
    target = httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
    return target, parsed.netloc


def _answer(response: httpcore2.Response) -> Answer:
    headers: dict[str, str] = {}
    for raw, value in response.headers:
        # A field in several lines is a list (RFC 9110, 5.3).
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    assert isinstance(response.stream, AsyncIterable)
    return Answer(response.status, headers, response.stream)


async def raw_body(response: Answer) -> AsyncIterator[bytes]:
    """Yield the body in pieces, decompressed within limits: 32 KB of zstd can become 2 GiB.

    Raises:
        Unusable: it is compressed in another way than gzip or deflate, or becomes too large.
        httpcore2.NetworkError, ProtocolError, TimeoutException: it broke off.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        async for data in response.stream:
            yield data
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Unusable(f"content encoding {_shown(encoding)}, though it was asked for none")
    inflater = Inflater(untrusted_json.MODEL_INFLATED, "the model's answer")
    async for data in response.stream:
        try:
            for piece in inflater.feed(data):
                yield piece
        except InvalidEvent as error:
            raise Unusable(str(error)) from None


async def _head_of(response: Answer) -> bytes:
    """Return the first part of an error's body; a provider that cuts it short has still answered."""
    body = bytearray()
    try:
        async for piece in raw_body(response):
            body += piece
            if len(body) >= untrusted_json.MODEL_ERROR.bytes:
                break
    except (*BROKEN, Unusable):
        return bytes(body)
    return bytes(body[: untrusted_json.MODEL_ERROR.bytes])


def _error_message(body: bytes) -> str:
    """Return the provider's own message, shortened for display. The caller redacts it."""
    try:
        error = parse_json(body, untrusted_json.MODEL_ERROR, "the error").get("error")
        text = error.get("message") if isinstance(error, dict) else error
    except (InvalidEvent, AttributeError):
        return ""
    return f": {text[:300]}" if isinstance(text, str) and text else ""


def describe(response: Answer) -> str:
    """Describe an answer without its content."""
    return f"status {response.status}, content type {_shown(response.headers.get('content-type', 'none'))}"


def _shown(header: str) -> str:
    """Return a foreign header, made printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in header[:80])


def _words(error: Exception) -> str:
    """Describe a transport error, with no internal addresses beyond what the caller typed."""
    return " ".join(str(error).split()) or type(error).__name__
