"""Keeps known secrets out of text: whole, encoded, and cut across the chunks of a stream.

A redactor looks for each secret as it is, and as base64 (at any alignment, so also inside `user:secret`), hexadecimal,
URL-encoded and JSON-escaped text. It costs a few substring searches per text, well under a microsecond each.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

MASK = "[redacted]"
#: Shorter strings are no secrets worth the damage: replacing `test` or `ollama` everywhere would garble the output.
MIN_SECRET = 8
#: Two letters of a secret give nothing away; see `StreamRedactor`.
_MIN_HELD = 3


def _base64_forms(raw: bytes) -> set[str]:
    """Every run of characters that base64 of any text around `raw` must contain."""
    forms = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
        # The first characters also carry bits of what stood before, the last one bits of what comes after.
        start = (0, 2, 3)[shift]
        end = len(encoded) if (shift + len(raw)) % 3 == 0 else len(encoded) - 1
        forms.add(encoded[start:end])
    forms.add(base64.b64encode(raw).decode())
    return forms | {form.replace("+", "-").replace("/", "_") for form in forms}


def forms_of(secret: str) -> set[str]:
    """The spellings of `secret` that are looked for."""
    raw = secret.encode()
    forms = {secret, quote(secret, safe=""), quote(secret), raw.hex(), raw.hex().upper()}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    forms |= _base64_forms(raw)
    return {form for form in forms if len(form) >= MIN_SECRET}


class Redactor:
    """The secrets of one execution, or (one for the logs) of all that run now."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._held: Counter[str] = Counter()
        self._index()
        for secret in secrets:
            self.add(secret)

    def __repr__(self) -> str:
        return f"Redactor({len(self._held)} secrets)"

    def add(self, secret: str) -> None:
        """Redact `secret` from now on; added twice it must be removed twice. Under 8 characters it is ignored."""
        if len(secret) >= MIN_SECRET:
            self._held[secret] += 1
            self._index()

    def remove(self, secret: str) -> None:
        """Forget `secret`, whose execution has ended."""
        if self._held[secret] > 1:
            self._held[secret] -= 1
        else:
            del self._held[secret]
        self._index()

    def _index(self) -> None:
        forms = {form for secret in self._held for form in forms_of(secret)}
        # Longest first: a whole encoding goes before the part of it that stands in every alignment.
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))
        self._firsts = frozenset(form[0] for form in forms)
        self._pairs: dict[str, list[str]] = {}
        for form in forms:
            self._pairs.setdefault(form[:2], []).append(form)
        self._longest = max(map(len, forms), default=0)

    def __call__(self, text: str) -> str:
        """`text` with every secret replaced."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def bytes(self, data: bytes) -> bytes:
        """The same for bytes of any encoding that contains ASCII."""
        # latin-1 maps every byte to one character and back, so nothing but a secret can change.
        text = data.decode("latin-1")
        clean = self(text)
        for secret in self._held:
            if not secret.isascii():
                clean = clean.replace(secret.encode().decode("latin-1"), MASK)
        return data if clean is text or clean == text else clean.encode("latin-1")

    def value(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        """The same for a JSON-like value, in depth; keys of mappings too. Other objects are returned as they are."""
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
        """A redactor for one stream of text that arrives in pieces."""
        return StreamRedactor(self)

    def pending(self, text: str) -> int:
        """How many characters at the end of `text` could be the beginning of a secret."""
        end = len(text)
        if not end or not self._longest:
            return 0
        # Two characters decide nearly every position; comparing whole tails would cost five times as much.
        for start in range(max(0, end - self._longest + 1), end - 1):
            forms = self._pairs.get(text[start : start + 2])
            if forms and any(form.startswith(text[start:]) for form in forms):
                return end - start
        return 1 if text[-1] in self._firsts else 0


class StreamRedactor:
    """Redacts over the borders of pieces. It holds text back only while that could become a secret.

    One or two letters are said at once: nearly every text ends with what could be the beginning of some spelling of
    some secret, and would wait for as long as the agent is silent. They are remembered, so a secret that did begin
    with them is cut off right there.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._said = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be said now."""
        clean = self._redactor(self._said + self._held + text)
        # Less than all of what was said: a secret began in there, and its mask comes next.
        known = _common(self._said, clean)
        start = len(clean) - self._redactor.pending(clean)
        ready = len(clean) if len(clean) - start < _MIN_HELD else max(start, known)
        self._said, self._held = clean[start:ready], clean[ready:]
        return clean[known:ready]

    def flush(self) -> str:
        """The rest, at the end of the stream."""
        rest, self._held, self._said = self._held, "", ""
        return rest


def _common(one: str, other: str) -> int:
    """How many characters both begin with; `one` is short."""
    return next((at for at, letter in enumerate(one) if other[at : at + 1] != letter), len(one))


def log_processor(
    redactor: Redactor,
) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    """A structlog processor; put it last before the renderer, after exceptions have become text."""

    def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, item in event.items():
            event[key] = redactor.value(item)
        return event

    return redact
