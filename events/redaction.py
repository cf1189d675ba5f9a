"""Redaction of known secrets in text: plain, encoded, and split across the chunks of a stream.

A redactor searches each secret in plain form, in base64 (at any alignment, so also inside `user:secret`), hexadecimal,
URL-encoded and JSON-escaped. The cost is a few substring searches per text, well under a microsecond each.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"
#: Shorter strings are not redacted: replacing `test` or `ollama` everywhere would garble the output.
MIN_SECRET = 8
#: Shorter prefixes of a secret are not held back, because they reveal nothing; see `StreamRedactor`.
_MIN_HELD = 3


def _base64_forms(raw: bytes) -> set[str]:
    """Return the strings of which the base64 of any text that contains `raw` has at least one."""
    forms = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
        # The first characters also encode bits of the preceding text, the last one bits of the following text.
        start = (0, 2, 3)[shift]
        end = len(encoded) if (shift + len(raw)) % 3 == 0 else len(encoded) - 1
        forms.add(encoded[start:end])
    forms.add(base64.b64encode(raw).decode())
    return forms | {form.replace("+", "-").replace("/", "_") for form in forms}


def forms_of(secret: str) -> set[str]:
    """Return all spellings of `secret` that are redacted."""
    raw = secret.encode()
    forms = {secret, quote(secret, safe=""), quote(secret), raw.hex(), raw.hex().upper()}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= _base64_forms(raw)
    return {form for form in forms if len(form) >= MIN_SECRET}


class Redactor:
    """Redaction of the secrets of one execution, or (for the logs) of all running executions.

    Args:
        secrets: texts of at least `MIN_SECRET` characters.
        mask: stands for each of them.
        spellings: returns the spellings of a text that are replaced.
    """

    def __init__(
        self, secrets: Iterable[str] = (), mask: str = MASK, spellings: Callable[[str], set[str]] = forms_of
    ) -> None:
        self._mask = mask
        self._spellings = spellings
        self._held: Counter[str] = Counter()
        self._index()
        for secret in secrets:
            self.add(secret)

    def __repr__(self) -> str:
        return f"Redactor({len(self._held)} secrets)"

    def add(self, secret: str) -> None:
        """Redact `secret` from now on. Each `add` needs one `remove`; secrets under 8 characters are ignored."""
        if len(secret) >= MIN_SECRET:
            self._held[secret] += 1
            self._index()

    def remove(self, secret: str) -> None:
        """Stop redacting `secret` after as many calls as `add` had."""
        if self._held[secret] > 1:
            self._held[secret] -= 1
        else:
            del self._held[secret]
        self._index()

    def _index(self) -> None:
        forms = {form for secret in self._held for form in self._spellings(secret)}
        # Longest first: a whole encoding must be replaced before the part that all alignments share.
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._firsts = frozenset(form[0] for form in forms)
        self._pairs: dict[str, list[str]] = {}
        for form in forms:
            self._pairs.setdefault(form[:2], []).append(form)
        self._longest = max(map(len, forms), default=0)

    def __call__(self, text: str) -> str:
        """Return `text` with every secret replaced."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, self._mask)
        return text

    def bytes(self, data: bytes) -> bytes:
        """Redact bytes of any ASCII-compatible encoding."""
        # latin-1 maps every byte to one character and back, so only secrets can change.
        text = data.decode("latin-1")
        clean = self(text)
        for secret in self._held:
            if not secret.isascii():
                clean = clean.replace(secret.encode().decode("latin-1"), self._mask.encode().decode("latin-1"))
        return data if clean is text or clean == text else clean.encode("latin-1")

    def value(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        """Redact a JSON-like value recursively, including keys of mappings; return other objects unchanged."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, bytes):
            return self.bytes(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return type(value)(self.value(item) for item in value)
        return value

    def stream(self) -> StreamRedactor:
        """Return a redactor for one stream of text that arrives in pieces."""
        return StreamRedactor(self)

    def pending(self, text: str) -> int:
        """Return the number of characters at the end of `text` that may begin a secret."""
        end = len(text)
        if not end or not self._longest:
            return 0
        # Two characters decide most positions; comparing whole tails would cost five times as much.
        for start in range(max(0, end - self._longest + 1), end - 1):
            forms = self._pairs.get(text[start : start + 2])
            if forms and any(form.startswith(text[start:]) for form in forms):
                return end - start
        return 1 if text[-1] in self._firsts else 0


class StreamRedactor:
    """Redaction across the borders of pieces. Text is held back only while it may become a secret.

    One or two characters are emitted at once: nearly every text ends with a possible beginning of some spelling of a
    secret, and would be held back as long as the agent is silent. The redactor remembers these characters, so that it
    masks the rest of a secret that begins with them.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._emitted = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """Add a piece; return the text that can be emitted now."""
        clean = self._redactor(self._emitted + self._held + text)
        # If less than the emitted text is common, a secret began there, and its mask follows.
        known = _common(self._emitted, clean)
        start = len(clean) - self._redactor.pending(clean)
        ready = len(clean) if len(clean) - start < _MIN_HELD else max(start, known)
        self._emitted, self._held = clean[start:ready], clean[ready:]
        return clean[known:ready]

    def flush(self) -> str:
        """Return the held text at the end of the stream."""
        rest, self._held, self._emitted = self._held, "", ""
        return rest


def _common(one: str, other: str) -> int:
    """Return the length of the common prefix; `one` is short."""
    return next((at for at, letter in enumerate(one) if other[at : at + 1] != letter), len(one))


def log_processor(
    redactor: Redactor,
) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    """Return a structlog processor. It belongs directly before the renderer, after exceptions have become text."""

    def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, item in event.items():
            event[key] = redactor.value(item)
        return event

    return redact
