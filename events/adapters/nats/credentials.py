"""What a NATS credentials file says about its user."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

#: Of every NATS client that is told nothing else.
INBOX = "_INBOX"
_USER_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+[\w-]+\.([\w-]+)\.")


def inbox_of(creds: Path) -> str:
    """The prefix of the inboxes that this user may listen to, as its JWT says; NATS's own where it says none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has a JWT that is none.
    """
    found = _USER_JWT.search(creds.read_text())
    if found is None:
        return INBOX
    claims = json.loads(base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)))
    allowed = claims.get("nats", {}).get("sub", {}).get("allow", ())
    return next((one.removesuffix(".>") for one in allowed if one.startswith(INBOX)), INBOX)
