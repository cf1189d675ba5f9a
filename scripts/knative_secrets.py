"""Prints the Secrets of an installation as YAML, for `kubectl apply -f -`.

    knative_secrets.py --keys DIR [--namespace ocf] [--local] [--backend PROJECT ...]
                       [--s3-access-key ID --s3-secret-key KEY] [--rotate SECRET]

All of them are derived from the seeds in DIR/keys.json (mode 0600), made at the first call: the same directory gives
the same keys. Keep it as you keep a password store; without it no user of NATS can be made.

| secret | in it | who gets it |
|---|---|---|
| ocf-dispatch | DISPATCH_TOKEN | dispatcher, functions |
| ocf-encryption | ENCRYPTION_KEY, after a rotation ENCRYPTION_KEYS_RETIRED | gateway (seals), execute (opens) |
| ocf-gateway | GATEWAY_JWT_SECRET, NATS_SIGNING_SEED, NATS_ACCOUNT | gateway |
| ocf-nats | functions.creds | dispatcher, functions |
| ocf-backend | backend.creds | your own backends: commands and reading, trusted with every project |
| ocf-backend-PROJECT | backend.creds | a backend of one project: hears its facts and output (--backend PROJECT) |
| ocf-nats-server | nats.conf, jwts.yaml | NATS: public keys and JWTs only, no seed |
| ocf-s3 | AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY | functions that read or write the archive |
| ocf-s3-server | s3.json | the local overlay's S3 server (--local) |

`--only ocf-backup/backup.creds` prints the credentials of who backs up and restores, good for a day, in no Secret.
"""

from __future__ import annotations

import argparse
import json
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
from ocf.stack.nats_server import MAX_PAYLOAD  # noqa: E402
from ocf.stack.s3_server import s3_config  # noqa: E402

_BACKUP_TTL = 86_400


def nats_config(trust: Trust, now: int) -> str:
    """The configuration of the single NATS server (`knative/components/nats`)."""
    jwts = server_jwts(trust, now)
    operator = jwts.pop("operator")
    preload = "\n".join(f"  {account}: {jwt}" for account, jwt in jwts.items())
    return f"""\
server_name: ocf
listen: 0.0.0.0:4222
http: 0.0.0.0:8222
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
    path = folder / "gateway.secret"
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48))
    return path.read_text()


def retired_keys(folder: Path) -> list[str]:
    """Earlier encryption keys, the newest first."""
    path = folder / "encryption.retired"
    return path.read_text().split() if path.exists() else []


def rotated(keys: Keys, folder: Path, what: str) -> Keys:
    """`keys` with a new secret in the place of one; kept in the folder, so that the next call gives the same."""
    if what == "ocf-encryption":
        # First the old one: should this break off here, it is merely in both places.
        write_private(folder / "encryption.retired", "\n".join([keys.encryption_key, *retired_keys(folder)]))
    fresh = Keys.generate()
    field = {"ocf-encryption": "encryption_key", "ocf-dispatch": "dispatch_token"}[what]
    keys = replace(keys, **{field: getattr(fresh, field)})
    write_private(folder / "keys.json", json.dumps(asdict(keys), indent=2))
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
    if retired := retired_keys(folder):
        found["ocf-encryption"]["ENCRYPTION_KEYS_RETIRED"] = ",".join(retired)
    if arguments.local:
        found["ocf-s3-server"] = {"s3.json": s3_config(access, secret)}
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


def main() -> int:
    """Print them; exit status."""
    parser = argparse.ArgumentParser(description="The Secrets of an installation, as YAML")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the seeds; made if it is not there")
    parser.add_argument("--namespace", default="ocf")
    parser.add_argument("--local", action="store_true", help="also what the local overlay's S3 server needs")
    parser.add_argument(
        "--backend", action="append", default=[], help="also a backend of this project", metavar="PROJECT"
    )
    parser.add_argument("--s3-access-key", help="of your object storage; invented if not given")
    parser.add_argument("--s3-secret-key")
    parser.add_argument("--only", help="print one field instead: SECRET/FIELD", metavar="SECRET/FIELD")
    rotatable = ("ocf-encryption", "ocf-dispatch")
    parser.add_argument(
        "--rotate", choices=rotatable, help="give this one a new value first; see docs/how-to/back-up-and-restore.md"
    )
    arguments = parser.parse_args()
    folder = make_private_dir(arguments.keys)
    keys = load_or_generate(folder)
    if arguments.rotate:
        keys = rotated(keys, folder, arguments.rotate)
    found = contents(keys, folder, arguments)
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
        sys.stdout.write(f"---\n{json.dumps(manifest(name, arguments.namespace, fields))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
