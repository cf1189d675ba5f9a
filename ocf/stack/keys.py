"""The stack's own secrets: generated once, stored in `keys.json` (mode 0600) below the data directory (mode 0700)."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from ocf.functions.runtime.nats_auth import Trust


@dataclass(frozen=True)
class Keys:
    """Every secret of one stack."""

    trust: Trust
    encryption_key: str
    s3_access_key: str
    s3_secret_key: str
    dispatch_token: str
    server_name: str

    @classmethod
    def generate(cls) -> Keys:
        """Return new random secrets."""
        return cls(
            trust=Trust.generate(),
            encryption_key=base64.b64encode(secrets.token_bytes(32)).decode(),
            s3_access_key="OCF" + secrets.token_hex(8).upper(),
            s3_secret_key=secrets.token_urlsafe(32),
            dispatch_token=secrets.token_urlsafe(32),
            server_name="ocf-" + secrets.token_hex(6),
        )


def load(data_dir: Path) -> Keys | None:
    """Return the keys of this data directory; None when it has none."""
    path = data_dir / "keys.json"
    if not path.exists():
        return None
    saved = json.loads(path.read_text())
    trust = saved["trust"]
    return Keys(**{**saved, "trust": Trust(**{**trust, "earlier": tuple(trust.get("earlier", ()))})})


def load_or_generate(data_dir: Path) -> Keys:
    """Return the keys of this data directory; generate them at the first start."""
    found = load(data_dir)
    if found is not None:
        return found
    keys = Keys.generate()
    write_private(data_dir / "keys.json", json.dumps(asdict(keys), indent=2))
    return keys


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read, at once or not at all; return `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    return path


def make_private_dir(path: Path) -> Path:
    """Create a directory that only its owner may enter, or restrict an existing one."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path
