"""Signatures of webhooks: GitHub, GitLab, Gitea, and Standard Webhooks for everything else.

Sources: docs.github.com "Validating webhook deliveries"; docs.gitlab.com "Webhooks"; docs.gitea.com "Webhooks";
standardwebhooks.com 1.0.0.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping

from ocf.functions.gateway.inbox.hook_store import HookKind

#: Seconds by which the signed time of a Standard Webhook may differ from now.
TOLERANCE = 300


def signed(kind: HookKind, secrets: Iterable[str], headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether one of the secrets signed the body.

    Args:
        kind: The sender.
        secrets: The valid secrets of the hook.
        headers: Headers of the request, in lower case.
        body: The body as received.
        now: Unix seconds.
    """
    if kind == "generic" or (kind == "gitlab" and "webhook-signature" in headers):
        return any(_standard(secret, headers, body, now) for secret in secrets)
    if kind == "gitlab":
        given = headers.get("x-gitlab-token", "")
        return any(hmac.compare_digest(secret.encode(), given.encode()) for secret in secrets)
    given = headers.get("x-hub-signature-256", "").removeprefix("sha256=")
    given = given or headers.get("x-gitea-signature", "")
    return any(hmac.compare_digest(_hmac(secret, body), given.encode()) for secret in secrets)


def _hmac(secret: str, body: bytes) -> bytes:
    return hmac.new(secret.encode(), body, "sha256").hexdigest().encode()


def _standard(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    identity, when = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not identity or not (when.isdecimal() and len(when) < 12) or abs(now - int(when)) > TOLERANCE:
        return False
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = secret.encode()
    expected = base64.b64encode(hmac.digest(key, f"{identity}.{when}.".encode() + body, "sha256"))
    given = headers.get("webhook-signature", "").split()[:10]
    return any(hmac.compare_digest(expected, one.removeprefix("v1,").encode()) for one in given)
