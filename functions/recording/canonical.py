"""Canonical parts of requests: what two requests are compared by.

A part is hashed after redaction and normalising: what differs between two runs of the same task on the same files
(where the workspace is, when it runs, which port something listens on) is replaced first. `RULES` is the whole list.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ocf.events.redaction import Redactor
from ocf.functions.recording.line_types import ATTEMPT_BYTES, TEXT_BYTES, Kind, Part

#: Patterns in the JSON text of a part, what stands for them, and the reason.
RULES: tuple[tuple[str, str, str], ...] = (
    (r"\b(?:ses|msg|prt|per|que|tool)_[0-9A-Za-z]{16,}", "<id>", "OpenCode makes ids from time and chance"),
    (r"\b(127\.0\.0\.1|localhost):\d{2,5}\b", r"\1:<port>", "loopback ports are free ones"),
    (r"Today's date: [^\\\"<]{4,60}", "Today's date: <date>", "OpenCode's system prompt"),
    (
        r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z| ?[+-]\d\d:?\d\d)?",
        "<time>",
        "output of tools",
    ),
    (r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2} "
     r"\d\d:\d\d(?::\d\d)?(?: [A-Z]{3,4})?(?: \d{4})?", "<time>", "`ls -l`, `date`, `git log`"),
    (r"\b\d{1,6}(?:\.\d{1,9})? ?(?:ms|s|secs?|seconds?)\b", "<duration>", "test runners"),
    (r"\btmp[._][0-9A-Za-z_]{6,}", "<tmp>", "`mktemp`, Python's tempfile"),
)  # fmt: skip
#: Different parts of one attempt, about 1 KiB of memory each. Afterwards nothing is recorded any more.
_MAX_PARTS = 100_000
_RULES = tuple((re.compile(pattern), stands) for pattern, stands, _ in RULES)
#: Members that say how to transport a message, not what it says. Anthropic's marks of the cache move with each call.
_LEFT_OUT = frozenset(("cache_control",))


class RawPart(NamedTuple):
    """A part of a request as the agent sent it, as JSON."""

    kind: Kind
    data: bytes


class PartTable:
    """Numbers and hashes of parts; each is worked out once.

    Args:
        key: of the hashes, in hexadecimal.
        redactor: of the execution's secrets.
        paths: workspace and home, with what stands for them.
    """

    def __init__(self, key: str, redactor: Redactor, paths: Sequence[tuple[str, str]] = ()) -> None:
        self._key = bytes.fromhex(key)
        self._redactor = redactor
        # The longer first: one may lie in the other.
        self._paths = sorted((one for one in paths if one[0]), key=lambda one: -len(one[0]))
        self._lock = threading.Lock()
        self._room = ATTEMPT_BYTES
        self._by_raw: dict[bytes, Part] = {}
        self._by_hash: dict[tuple[str, str], Part] = {}

    def parts(self, request: Iterable[RawPart]) -> list[Part] | None:
        """Return the parts of a request; None once there are too many different ones.

        Their `text` is there unless it is longer than `TEXT_BYTES`, or all texts have `ATTEMPT_BYTES`.
        """
        with self._lock:  # subagents call at the same time
            return [self._part(*one) for one in request] if len(self._by_raw) <= _MAX_PARTS else None

    def _part(self, kind: Kind, data: bytes) -> Part:
        seen = hashlib.blake2b(data, digest_size=16, person=kind.encode()).digest()
        known = self._by_raw.get(seen)
        if known is not None:
            return known
        try:
            value = json.loads(self._redactor.bytes(data))
        except ValueError:  # a secret that is a number, or a part of one
            value = self._redactor.value(json.loads(data, parse_int=self._number, parse_float=self._number))
        text = _dumped(value)
        digest = hmac.digest(self._key, f"{kind}\0{self.normal(text)}".encode("utf-8", "surrogatepass"), "sha256").hex()
        part = self._by_hash.get((kind, digest))
        if part is None:
            kept = text if len(text) <= min(TEXT_BYTES, self._room) else None
            self._room -= len(kept or "")
            part = Part(number=len(self._by_hash), kind=kind, hash=digest[:32], bytes=len(data), text=kept)
            self._by_hash[kind, digest] = part
        self._by_raw[seen] = part
        return part

    def _number(self, text: str) -> str | float:
        return json.loads(text) if (redacted := self._redactor(text)) == text else redacted

    def digest(self, kind: str, data: bytes) -> str:
        """Return the hash of what is no part of a request: as a part's if it is JSON, else of its text."""
        data = self.redacted(data)
        try:
            value = json.loads(data) if len(data) <= TEXT_BYTES else None
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and "jsonrpc" in value:
            value.pop("id", None)  # a counter of the client's
        text = data.decode("latin-1") if value is None else _dumped(value)
        text = self.normal(text) if len(text) <= TEXT_BYTES else text
        return hmac.digest(self._key, f"{kind}\0{text}".encode("utf-8", "surrogatepass"), "sha256").hex()[:32]

    def redacted(self, data: bytes) -> bytes:
        """Return data without the execution's secrets."""
        return self._redactor.bytes(data)

    def normal(self, text: str) -> str:
        """Return a part's text with what may differ between two runs replaced."""
        for path, stands in self._paths:
            text = text.replace(path, stands)
        for pattern, stands in _RULES:
            text = pattern.sub(stands, text)
        return text


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return numbers as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _dumped(value: Any) -> str:  # noqa: ANN401 - JSON
    # ASCII, because a lone surrogate has no UTF-8 encoding.
    return json.dumps(_said(value), sort_keys=True, separators=(",", ":"))


def _said(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {name: _said(one) for name, one in value.items() if name not in _LEFT_OUT}
    return [_said(one) for one in value] if isinstance(value, list) else value
