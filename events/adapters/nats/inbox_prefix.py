"""Read the inbox prefix from a NATS credentials file."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

#: Default inbox prefix of NATS clients.
INBOX = "_INBOX"
_USER_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+[\w-]+\.([\w-]+)\.")


def inbox_of(creds: Path) -> str:
    """Return the inbox prefix that the user's JWT allows, or NATS's default.

    Raises:
        OSError: The file cannot be read.
        ValueError: The JWT is malformed.
    """
    found = _USER_JWT.search(creds.read_text())
    if found is None:
        return INBOX
    claims = json.loads(base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)))
    allowed = claims.get("nats", {}).get("sub", {}).get("allow", ())
    return next((one.removesuffix(".>") for one in allowed if one.startswith(INBOX)), INBOX)
