"""Hooks: the secrets by which webhooks and Knative Triggers are known, in the bucket `ocf_triggers`.

The key is `hook.<project>.<source>`. A secret that signs is sealed; a token of a URI is stored as its SHA-256. After a
rotation the earlier secret stays valid for a day.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

from ocf.events.base_model import ForwardCompatible, Sealed
from ocf.events.errors import Conflict
from ocf.events.ports import Bucket, Clock
from ocf.functions.gateway.gateway_deps import Sealer
from ocf.functions.gateway.problems import Problem

HookKind = Literal["github", "gitlab", "gitea", "generic", "knative"]
ROTATION = timedelta(days=1)


class HookSecret(ForwardCompatible):
    """One secret: sealed where it signs, hashed where it is a token of a URI."""

    sealed: Sealed | None = None
    sha256: str | None = None
    created_at: datetime
    expires_at: datetime | None = None


class Hook(ForwardCompatible):
    """A hook of a project, latest secret first."""

    kind: HookKind
    source: str
    project_id: str
    secrets: list[HookSecret]


class Hooks:
    """The hooks of all projects."""

    def __init__(self, bucket: Bucket, keyring: Sealer | None, clock: Clock) -> None:
        self._bucket, self._keyring, self._clock = bucket, keyring, clock

    async def create(self, project: str, kind: HookKind, source: str) -> str:
        """Store a new hook; return its secret, which cannot be shown again.

        Raises:
            Problem: 409, there is one; 503, there is no key to seal the secret with.
        """
        plain, secret = self._secret(project, kind)
        hook = Hook(kind=kind, source=source, project_id=project, secrets=[secret])
        try:
            await self._bucket.create(_key(project, source), hook.model_dump_json(exclude_none=True).encode())
        except Conflict:
            raise Problem(409, "hook-exists", f"project {project} has a hook {source}; rotate or delete it") from None
        return plain

    async def rotate(self, project: str, source: str) -> tuple[Hook, str]:
        """Add a secret; return the hook and the secret. The earlier one stays valid for a day."""
        entry = await self._bucket.get(_key(project, source))
        if entry is None:
            raise unknown(project, source)
        hook = Hook.read(entry.value)
        plain, secret = self._secret(project, hook.kind)
        until = self._clock.now() + ROTATION
        earlier = [one.model_copy(update={"expires_at": until}) for one in self._valid(hook)][:1]
        changed = hook.model_copy(update={"secrets": [secret, *earlier]})
        value = changed.model_dump_json(exclude_none=True).encode()
        await self._bucket.update(entry.key, value, entry.revision)
        return changed, plain

    async def get(self, project: str, source: str) -> Hook | None:
        """Return a hook, or None."""
        entry = await self._bucket.get(_key(project, source))
        return None if entry is None else Hook.read(entry.value)

    async def list_of(self, project: str) -> list[Hook]:
        """Return the hooks of a project."""
        return [Hook.read(entry.value) async for entry in self._bucket.entries(f"hook.{project}.*")]

    async def delete(self, project: str, source: str) -> None:
        """Remove a hook, if it exists."""
        await self._bucket.delete(_key(project, source))

    def signing_secrets(self, hook: Hook) -> list[str]:
        """Return the secrets that may sign now.

        Raises:
            Problem: 503, there is no key to open them with.
        """
        if self._keyring is None:
            raise Problem(503, "no-encryption-key", "the hook's secret cannot be opened without ENCRYPTION_KEY")
        return [self._keyring.open(one.sealed, hook.project_id) for one in self._valid(hook) if one.sealed is not None]

    def accepts(self, hook: Hook, token: str) -> bool:
        """Return whether a token of a URI is valid."""
        digest = _sha256(token)
        return any(one.sha256 and hmac.compare_digest(one.sha256, digest) for one in self._valid(hook))

    def _valid(self, hook: Hook) -> Iterator[HookSecret]:
        now = self._clock.now()
        return (one for one in hook.secrets if one.expires_at is None or now < one.expires_at)

    def _secret(self, project: str, kind: HookKind) -> tuple[str, HookSecret]:
        plain = secrets.token_urlsafe(32)
        now = self._clock.now()
        if kind == "knative":
            return plain, HookSecret(sha256=_sha256(plain), created_at=now)
        if self._keyring is None:
            raise Problem(503, "no-encryption-key", "a hook needs ENCRYPTION_KEY, to seal its secret")
        if kind == "generic":
            plain = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"  # Standard Webhooks 1.0.0
        return plain, HookSecret(sealed=self._keyring.seal(plain, project), created_at=now)


def unknown(project: str, source: str) -> Problem:
    """Return a 404 problem for a hook."""
    return Problem(404, "unknown-hook", f"project {project} has no hook {source}; see `ocf hook create`")


def _key(project: str, source: str) -> str:
    return f"hook.{project}.{source}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
