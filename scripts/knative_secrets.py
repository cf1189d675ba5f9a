#!/usr/bin/env python3
"""Prints the Secrets of an installation as YAML, for `kubectl apply -f -`.

    knative_secrets.py --keys DIR [--namespace ocf] [--local] [--backend PROJECT ...]
                       [--s3-access-key ID --s3-secret-key KEY] [--database-url URL] [--secret NAME ...]
                       [--rotate SECRET | --finish SECRET | --revoke CREDS | --new-nats-trust]

All of them are derived from the seeds in DIR/keys.json (mode 0600), made at the first call: the same directory gives
the same keys. Keep it as you keep a password store; without it no user of NATS can be made.

| secret | in it | who gets it |
|---|---|---|
| ocf-dispatch | DISPATCH_TOKEN | dispatcher, functions |
| ocf-encryption | ENCRYPTION_KEY, ENCRYPTION_KEYS_RETIRED once rotated | gateway seals; execute, trigger, result open |
| ocf-database | DATABASE_URL | gateway, submit, history, cleanup, trigger, setup (--database-url, or --local) |
| ocf-postgres | POSTGRES_PASSWORD | the local overlay's PostgreSQL (--local) |
| ocf-gateway | GATEWAY_JWT_SECRET, NATS_SIGNING_SEED, NATS_ACCOUNT | gateway |
| ocf-nats | functions.creds | dispatcher, functions |
| ocf-backend | backend.creds | your own backends: commands and reading, trusted with every project |
| ocf-backend-PROJECT | backend.creds | a backend of one project: hears its facts and output (--backend PROJECT) |
| ocf-nats-server | nats.conf, jwts.yaml | NATS: public keys and JWTs only, no seed |
| ocf-s3 | AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY | functions that read or write the archive |
| ocf-s3-server | s3.json | the local overlay's S3 server (--local) |
| ocf-offline | OCF_OFFLINE_KEY | the local overlay's scripted model, execute (--local) |

A rotation has two steps, `--rotate` and `--finish`, so that nobody uses a key that another process does not know
(`scripts/knative_rotate.py` does both). The state is in the folder: a step that is repeated changes nothing.

`--only ocf-backup/backup.creds` prints the credentials of who backs up and restores, good for a day, in no Secret.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import secrets
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ocf.events.subjects import check_project  # noqa: E402
from ocf.functions.runtime.nats_auth import (  # noqa: E402
    BACKEND,
    BACKUP,
    FUNCTIONS,
    PROJECT_BACKEND,
    Trust,
    mint_user,
    public_key,
    server_jwts,
)
from ocf.stack.keys import Keys, load_or_generate, make_private_dir, write_private  # noqa: E402
from ocf.stack.nats_config import MAX_PAYLOAD  # noqa: E402
from ocf.stack.seaweedfs_config import s3_config  # noqa: E402

_BACKUP_TTL = 86_400
_PUBLIC_KEY_LENGTH = 56
_USER_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+[\w-]+\.([\w-]+)\.")
ROTATED = ("ocf-encryption", "ocf-dispatch", "ocf-nats")


def nats_config(trust: Trust, now: int) -> str:
    """The configuration of the single NATS server (`knative/components/nats`)."""
    jwts = server_jwts(trust, now)
    operator = jwts.pop("operator")
    preload = "\n".join(f"  {account}: {jwt}" for account, jwt in jwts.items())
    return f"""\
server_name: ocf
listen: 0.0.0.0:4222
# It tells everything about accounts and connections without a login: for the pod's own probe only.
http: 127.0.0.1:8222
max_payload: {MAX_PAYLOAD}
write_deadline: "10s"
lame_duck_duration: "30s"
lame_duck_grace_period: "5s"
jetstream {{
  store_dir: /data
}}
websocket {{
  listen: 0.0.0.0:9222
  # Inside the cluster; TLS ends at the ingress in front of it.
  no_tls: true
}}
operator: {operator}
system_account: {public_key(trust.system_account)}
resolver: MEMORY
resolver_preload {{
{preload}
}}
"""


def helm_jwts(trust: Trust, now: int) -> str:
    """The same trust as values of NATS's Helm chart (`config.merge`)."""
    jwts = server_jwts(trust, now)
    merged = {
        "operator": jwts.pop("operator"),
        "system_account": public_key(trust.system_account),
        "resolver": "MEMORY",
        "resolver_preload": jwts,
    }
    return yaml.safe_dump({"config": {"merge": merged}}, sort_keys=False, width=10_000)


def gateway_secret(folder: Path) -> str:
    """The HS256 secret that callers' tokens are signed with; made once."""
    return made_once(folder / "gateway.secret")


def made_once(path: Path) -> str:
    """A random secret that is kept in a file."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48))
    return path.read_text()


def retired_keys(folder: Path) -> list[str]:
    """Earlier encryption keys, the newest first."""
    path = folder / "encryption.retired"
    return path.read_text().split() if path.exists() else []


def next_key(folder: Path) -> Path:
    """Where the encryption key is kept that is readable, and does not seal yet."""
    return folder / "encryption.next"


def rotated(keys: Keys, folder: Path, what: str) -> Keys:
    """The first step: `keys` with a new secret for `what`, which every reader knows before anybody uses it."""
    if what == "ocf-encryption":
        if not next_key(folder).exists():
            write_private(next_key(folder), Keys.generate().encryption_key)
        return keys
    if what == "ocf-nats":
        return saved(replace(keys, trust=keys.trust.rotated()), folder)
    return saved(replace(keys, dispatch_token=Keys.generate().dispatch_token), folder)


def finished(keys: Keys, folder: Path, what: str) -> Keys:
    """The second step: `keys` as they are after the rotation of `what`."""
    if what == "ocf-nats":
        return saved(replace(keys, trust=keys.trust.finished()), folder)
    coming = next_key(folder)
    if coming.exists():
        # First the old one: should this break off here, it is merely in both places.
        retired = [one for one in retired_keys(folder) if one != keys.encryption_key]
        write_private(folder / "encryption.retired", "\n".join([keys.encryption_key, *retired]))
        keys = saved(replace(keys, encryption_key=coming.read_text()), folder)
        coming.unlink()
    return keys


def saved(keys: Keys, folder: Path) -> Keys:
    """`keys`, kept in the folder, so that the next call gives the same."""
    write_private(folder / "keys.json", json.dumps(asdict(keys), indent=2))
    return keys


def user_of(given: str) -> str:
    """The public key of a NATS user: itself, or the path of a credentials file.

    Raises:
        ValueError: it is neither.
    """
    if len(given) == _PUBLIC_KEY_LENGTH and given.startswith("U"):
        return given
    path = Path(given)
    found = _USER_JWT.search(path.read_text()) if path.is_file() else None
    if found is None:
        raise ValueError(f"{given} is neither a user's public key nor a credentials file")
    claims = json.loads(base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)))
    return str(claims["sub"])


def changed(keys: Keys, folder: Path, arguments: argparse.Namespace) -> Keys:
    """`keys` after what the arguments ask for.

    Raises:
        ValueError: an argument is wrong.
    """
    if arguments.rotate:
        keys = rotated(keys, folder, arguments.rotate)
    if arguments.finish:
        keys = finished(keys, folder, arguments.finish)
    for given in arguments.revoke:
        keys = saved(replace(keys, trust=keys.trust.without(user_of(given), int(time.time()))), folder)
    if arguments.new_nats_trust:
        write_private(folder / f"keys.before-{int(time.time())}.json", (folder / "keys.json").read_text())
        keys = saved(replace(keys, trust=Trust.generate()), folder)
    return keys


def contents(keys: Keys, folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Every secret's fields."""
    now, trust = int(time.time()), keys.trust
    access = arguments.s3_access_key or keys.s3_access_key
    secret = arguments.s3_secret_key or keys.s3_secret_key
    found = {
        "ocf-dispatch": {"DISPATCH_TOKEN": keys.dispatch_token},
        "ocf-encryption": {"ENCRYPTION_KEY": keys.encryption_key},
        "ocf-gateway": {
            "GATEWAY_JWT_SECRET": gateway_secret(folder),
            "NATS_SIGNING_SEED": trust.viewer_signing,
            "NATS_ACCOUNT": public_key(trust.account),
        },
        "ocf-nats": {"functions.creds": mint_user(trust, FUNCTIONS, now).file()},
        "ocf-backend": {"backend.creds": mint_user(trust, BACKEND, now).file()},
        "ocf-nats-server": {"nats.conf": nats_config(trust, now), "jwts.yaml": helm_jwts(trust, now)},
        "ocf-s3": {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret},
    }
    for project in arguments.backend:
        own = mint_user(trust, PROJECT_BACKEND, now, project=check_project(project)).file()
        found[f"ocf-backend-{project}"] = {"backend.creds": own}
    coming = next_key(folder)
    if readable := [*([coming.read_text()] if coming.exists() else []), *retired_keys(folder)]:
        found["ocf-encryption"]["ENCRYPTION_KEYS_RETIRED"] = ",".join(readable)
    if arguments.local:
        found["ocf-s3-server"] = {"s3.json": s3_config(access, secret)}
        found["ocf-offline"] = {"OCF_OFFLINE_KEY": made_once(folder / "offline.secret")}
        password = made_once(folder / "postgres.secret")
        found["ocf-postgres"] = {"POSTGRES_PASSWORD": password}
        found["ocf-database"] = {"DATABASE_URL": f"postgresql://ocf:{password}@postgres:5432/ocf"}
    if arguments.database_url:
        found["ocf-database"] = {"DATABASE_URL": arguments.database_url}
    return found


def manifest(name: str, namespace: str, fields: dict[str, str]) -> dict[str, Any]:
    """One Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "ocf"},
        },
        "type": "Opaque",
        "stringData": fields,
    }


def arguments_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="The Secrets of an installation, as YAML")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the seeds; made if it is not there")
    parser.add_argument("--namespace", default="ocf")
    parser.add_argument("--local", action="store_true", help="also what the local overlay's S3 and PostgreSQL need")
    parser.add_argument(
        "--backend", action="append", default=[], help="also a backend of this project", metavar="PROJECT"
    )
    parser.add_argument("--s3-access-key", help="of your object storage; invented if not given")
    parser.add_argument("--s3-secret-key")
    parser.add_argument("--database-url", help="postgresql://... of your PostgreSQL")
    parser.add_argument("--only", help="print one field instead: SECRET/FIELD", metavar="SECRET/FIELD")
    parser.add_argument("--secret", action="append", default=[], help="print only this Secret", metavar="NAME")
    parser.add_argument("--rotate", choices=ROTATED, help="begin a rotation; see docs/how-to/rotate-keys.md")
    parser.add_argument("--finish", choices=ROTATED, help="end a rotation: only the new value is used from now on")
    parser.add_argument(
        "--revoke", action="append", default=[], help="refuse this NATS user from now on", metavar="CREDS|PUBLIC_KEY"
    )
    parser.add_argument("--new-nats-trust", action="store_true", help="new keys of everything in NATS, a new account")
    return parser


def main() -> int:
    """Print them; exit status."""
    parser = arguments_parser()
    arguments = parser.parse_args()
    folder = make_private_dir(arguments.keys)
    try:
        keys = changed(load_or_generate(folder), folder, arguments)
    except ValueError as error:
        parser.error(f"--revoke: {error}")
    found = contents(keys, folder, arguments)
    if unknown := [name for name in arguments.secret if name not in found]:
        parser.error(f"--secret: no {unknown[0]}; secrets are {', '.join(found)}")
    if arguments.only:
        # Only on demand: no pod has a use for it.
        found["ocf-backup"] = {"backup.creds": mint_user(keys.trust, BACKUP, int(time.time()), ttl=_BACKUP_TTL).file()}
        name, _, field = arguments.only.partition("/")
        if field not in found.get(name, {}):
            parser.error(f"--only: no {arguments.only}; secrets are {', '.join(found)}")
        sys.stdout.write(found[name][field])
        return 0
    # JSON is YAML, and needs no escaping rules of its own.
    for name, fields in found.items():
        if arguments.secret and name not in arguments.secret:
            continue
        sys.stdout.write(f"---\n{json.dumps(manifest(name, arguments.namespace, fields))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
