"""Sealed secrets: AES-256-GCM (NIST SP 800-38D) with the project id as associated data.

An envelope (`ocf.events.command_payloads.Sealed`) names its key by id, the first 8 hexadecimal digits of SHA-256 over
the 32 key bytes. A retired key can therefore still open older envelopes (`ENCRYPTION_KEYS_RETIRED`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ocf.events.base_model import Sealed
from ocf.events.errors import SealError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


def key_id(key: bytes) -> str:
    """Return the id of a key: the first 8 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key).hexdigest()[:8]


def generate_key() -> str:
    """Return a new random key in the form of `ENCRYPTION_KEY`."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def parse_key(text: str, name: str = "ENCRYPTION_KEY") -> bytes:
    """Decode a base64 key of 32 bytes (standard or URL-safe alphabet, padding optional).

    Raises:
        ValueError: The text is not such a key; the message names the setting, never the value.
    """
    plain = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} must be 32 bytes in base64; this is not base64") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"{name} must be 32 bytes in base64; this is {len(key)} bytes")
    return key


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SealError(f"the sealed key is damaged: its {what} is not base64 (truncated in transit?)") from None


class Keyring:
    """The current key, which seals and opens, and the retired keys, which only open.

    Args:
        current: `ENCRYPTION_KEY`, base64.
        retired: `ENCRYPTION_KEYS_RETIRED`, base64 each.

    Raises:
        ValueError: A key is not 32 bytes in base64.
    """

    def __init__(self, current: str, retired: Iterable[str] = ()) -> None:
        key = parse_key(current)
        self.current_id = key_id(key)
        ciphers = {self.current_id: AESGCM(key)}
        for text in retired:
            old = parse_key(text, "ENCRYPTION_KEYS_RETIRED")
            ciphers.setdefault(key_id(old), AESGCM(old))
        self._ciphers: Mapping[str, AESGCM] = ciphers

    def __repr__(self) -> str:
        return f"Keyring(current={self.current_id}, retired={self.retired_ids})"

    @property
    def retired_ids(self) -> list[str]:
        """Ids of the retired keys."""
        return [kid for kid in self._ciphers if kid != self.current_id]

    def knows(self, sealed: Sealed) -> bool:
        """Return whether the secret was sealed under one of these keys."""
        return sealed.kid in self._ciphers

    def seal(self, plain: str, project: str) -> Sealed:
        """Seal `plain` for `project` under the current key, with a fresh random nonce."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._ciphers[self.current_id].encrypt(nonce, plain.encode(), project.encode())
        return Sealed(
            kid=self.current_id,
            nonce=base64.b64encode(nonce).decode(),
            ciphertext=base64.b64encode(sealed).decode(),
        )

    def open(self, sealed: Sealed, project: str) -> str:
        """Decrypt a secret that was sealed for `project`.

        Raises:
            SealError: The key is unknown, the secret was sealed for another project or altered, or it is truncated. The
                message names the cause.
        """
        cipher = self._ciphers.get(sealed.kid)
        if cipher is None:
            raise SealError(
                f"the key was sealed under key id {sealed.kid}, which is neither ENCRYPTION_KEY ({self.current_id}) "
                f"nor one of ENCRYPTION_KEYS_RETIRED ({', '.join(self.retired_ids) or 'none'})"
            )
        nonce = _decoded(sealed.nonce, "nonce")
        ciphertext = _decoded(sealed.ciphertext, "ciphertext")
        if len(nonce) != NONCE_BYTES:
            raise SealError(f"the sealed key is truncated: its nonce has {len(nonce)} of {NONCE_BYTES} bytes")
        if len(ciphertext) < TAG_BYTES:
            raise SealError(
                f"the sealed key is truncated: {len(ciphertext)} bytes cannot hold the {TAG_BYTES}-byte tag"
            )
        try:
            return cipher.decrypt(nonce, ciphertext, project.encode()).decode()
        except InvalidTag:
            raise SealError(
                f"the sealed key does not open for project {project!r}: sealed for another project, or altered"
            ) from None
        except UnicodeDecodeError:
            raise SealError("the sealed key opens, but its content is not text") from None
