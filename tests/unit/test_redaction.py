"""A known secret never comes through, however it is spelled or cut."""

from __future__ import annotations

import base64
import json
import string
import time
from itertools import pairwise
from random import Random
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.redaction import MASK, Redactor, log_processor

SECRET = 'sk-live-+/"\\geheim äöü 7f3a9c'
PLAIN = "sk-ant-api03-0123456789abcdef"


@pytest.mark.parametrize("spelled", [
    SECRET, quote(SECRET, safe=""), quote(SECRET), json.dumps(SECRET), json.dumps(SECRET, ensure_ascii=False),
    SECRET.encode().hex(), base64.b64encode(SECRET.encode()).decode(),
    base64.urlsafe_b64encode(SECRET.encode()).decode(),
])  # fmt: skip
def test_every_spelling_is_replaced(spelled: str) -> None:
    """Plain, URL-encoded, JSON-escaped, hexadecimal and base64."""
    clean = Redactor([SECRET])(f"before {spelled} after")
    assert MASK in clean
    assert clean.startswith("before ")
    assert clean.endswith(" after")
    assert spelled not in clean


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_base64_of_a_text_around_it_is_replaced(before: bytes, after: bytes) -> None:
    """Basic-auth style: the secret inside a longer base64 text, at any alignment."""
    clean = Redactor([PLAIN])(base64.b64encode(before + PLAIN.encode() + after).decode())
    assert MASK in clean


@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.integers(0, 200), max_size=12))
def test_a_stream_cut_anywhere_says_the_same(before: str, after: str, cuts: list[int]) -> None:
    """Cut into any pieces, a stream gives what the whole text gives, and at most two letters of the secret more."""
    redactor = Redactor([PLAIN])
    text = before + PLAIN + after
    stream = redactor.stream()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    said = "".join(stream.feed(text[a:b]) for a, b in pairwise(edges)) + stream.flush()
    assert PLAIN[2:] not in said
    assert said in {redactor(before + PLAIN[:letters] + PLAIN + after) for letters in range(3)}


def test_a_stream_of_single_letters_hides_every_secret() -> None:
    """Two secrets, one right after the other, letter by letter."""
    stream = Redactor([PLAIN, SECRET]).stream()
    said = "".join(map(stream.feed, f"a {PLAIN}{SECRET} z")) + stream.flush()
    assert said == f"a sk{MASK}sk{MASK} z"


def test_text_is_held_back_only_when_it_may_become_a_secret() -> None:
    """Ordinary text goes out at once; a prefix of a secret waits for the next piece."""
    stream = Redactor([PLAIN]).stream()
    assert stream.feed("all good") == "all good"
    assert stream.feed(" then sk-ant") == " then "
    assert stream.feed("ique shop") == "sk-antique shop"
    assert stream.flush() == ""


def test_the_last_word_is_not_held_back() -> None:
    """Many secrets of random letters, as an execution has: words that end like one begins come whole while the agent
    is silent; three letters that fit are rare."""
    drawn = Random(7)
    letters = string.ascii_letters + string.digits + "-_"
    redactor = Redactor(["".join(drawn.choices(letters, k=43)) for _ in range(20)])
    words = [f"the {a}{b}" for a in string.ascii_lowercase for b in string.ascii_lowercase]
    whole = [word for word in words if redactor.stream().feed(word) == word]
    assert len(whole) >= 0.99 * len(words)
    assert sum(redactor.pending(word) > 0 for word in words) > 0.5 * len(words)


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    """Only the secret changes."""
    redactor = Redactor([PLAIN, SECRET])
    noise = bytes(range(256))
    assert redactor.bytes(noise) is noise
    assert redactor.bytes(noise + PLAIN.encode() + noise) == noise + MASK.encode() + noise
    assert redactor.bytes(SECRET.encode()) == MASK.encode()


def test_short_strings_are_no_secrets() -> None:
    """A dummy key like `ollama` must not garble the output."""
    assert Redactor(["ollama"])("ollama is up") == "ollama is up"


def test_a_secret_is_forgotten_when_its_last_holder_leaves() -> None:
    """Two executions may share a key; it is redacted until both have ended."""
    redactor = Redactor([PLAIN, PLAIN])
    redactor.remove(PLAIN)
    assert redactor(PLAIN) == MASK
    redactor.remove(PLAIN)
    assert redactor(PLAIN) == PLAIN


def test_log_events_are_redacted_in_depth() -> None:
    """Values, nested values and keys of a structlog event."""
    event = {"event": f"call with {PLAIN}", "headers": {"x-api-key": [PLAIN]}, "n": 3}
    clean = log_processor(Redactor([PLAIN]))(None, "info", event)
    assert PLAIN not in json.dumps(clean)
    assert clean["n"] == 3


def test_repr_shows_no_secret() -> None:
    """A redactor in a traceback gives nothing away."""
    assert PLAIN not in repr(Redactor([PLAIN]))


def test_a_chunk_without_secrets_is_cheap() -> None:
    """A token-sized piece costs microseconds (measured about 3; the bound leaves room for a busy machine)."""
    stream = Redactor([PLAIN, SECRET]).stream()
    best = min(_timed(stream.feed, "def add(a, b): return") for _ in range(200))
    assert best < 60e-6


def _timed(call: object, text: str) -> float:
    start = time.process_time()
    call(text)  # type: ignore[operator]
    return time.process_time() - start
