"""Sealed keys open where they should, and say why where they should not."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.base_model import Sealed
from ocf.events.errors import SealError
from ocf.events.sealing import Keyring, generate_key, key_id, parse_key

KEY, OTHER = generate_key(), generate_key()
RING = Keyring(KEY)


@given(st.text(max_size=2_000), st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True))
def test_sealed_value_can_be_opened(plain: str, project: str) -> None:
    """Any text comes back, through the JSON of the envelope."""
    sealed = Sealed.model_validate_json(RING.seal(plain, project).model_dump_json())
    assert RING.open(sealed, project) == plain


@given(st.data())
def test_one_changed_bit_is_noticed(data: st.DataObject) -> None:
    """No single flipped bit of ciphertext or nonce opens."""
    sealed = RING.seal("sk-live-1234567890", "alpha")
    field = data.draw(st.sampled_from(["nonce", "ciphertext"]))
    raw = bytearray(base64.b64decode(getattr(sealed, field)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    altered = sealed.model_copy(update={field: base64.b64encode(bytes(raw)).decode()})
    with pytest.raises(SealError, match="another project, or altered"):
        RING.open(altered, "alpha")


@given(st.data())
def test_a_truncated_envelope_is_a_seal_error(data: st.DataObject) -> None:
    """Whatever is cut off the end, the answer is a SealError and never another exception."""
    sealed = RING.seal("sk-live-1234567890", "alpha")
    field = data.draw(st.sampled_from(["nonce", "ciphertext"]))
    text = getattr(sealed, field)
    cut = sealed.model_copy(update={field: text[: data.draw(st.integers(0, len(text) - 1))]})
    with pytest.raises(SealError):
        RING.open(cut, "alpha")


def test_nonces_differ() -> None:
    """The same text sealed twice shares neither nonce nor ciphertext."""
    first, second = RING.seal("x", "alpha"), RING.seal("x", "alpha")
    assert first.nonce != second.nonce
    assert first.ciphertext != second.ciphertext


def test_another_project_does_not_open() -> None:
    """The project id is part of the seal."""
    with pytest.raises(SealError, match="'beta': sealed for another project, or altered"):
        RING.open(RING.seal("x", "alpha"), "beta")


def test_another_key_is_named_by_its_id() -> None:
    """A key that is not here is told by id, with the settings that could hold it."""
    with pytest.raises(SealError, match=rf"key id {key_id(parse_key(OTHER))}.*ENCRYPTION_KEY .*{RING.current_id}"):
        RING.open(Keyring(OTHER).seal("x", "alpha"), "alpha")


@pytest.mark.parametrize(("field", "value", "says"), [
    ("nonce", "AAAA", "truncated: its nonce has 3 of 12 bytes"),
    ("ciphertext", "AAAA", "truncated: 3 bytes cannot hold"),
    ("ciphertext", "AAAAA", "damaged: its ciphertext is not base64"),
])  # fmt: skip
def test_a_damaged_envelope_says_how(field: str, value: str, says: str) -> None:
    """Truncation and damage have their own words."""
    with pytest.raises(SealError, match=says):
        RING.open(RING.seal("x", "alpha").model_copy(update={field: value}), "alpha")


def test_a_retired_key_opens_but_never_seals() -> None:
    """After a rotation old envelopes open, new ones are under the new key."""
    rotated = Keyring(OTHER, [KEY])
    assert rotated.open(RING.seal("old", "alpha"), "alpha") == "old"
    assert rotated.seal("new", "alpha").kid == key_id(parse_key(OTHER))
    assert rotated.retired_ids == [RING.current_id]


@pytest.mark.parametrize("text", ["", "x", "not base64!!", base64.b64encode(bytes(16)).decode(), "A" * 45])
def test_a_bad_key_names_its_setting_not_its_value(text: str) -> None:
    """The error names the setting and the expected form."""
    with pytest.raises(ValueError, match="ENCRYPTION_KEY must be 32 bytes in base64") as caught:
        Keyring(text)
    assert len(text) < 3 or text not in str(caught.value)
    with pytest.raises(ValueError, match="ENCRYPTION_KEYS_RETIRED must be 32 bytes in base64"):
        Keyring(KEY, [text])


def test_a_keyring_does_not_show_its_keys() -> None:
    """repr has ids only."""
    assert KEY not in repr(Keyring(KEY, [OTHER]))
