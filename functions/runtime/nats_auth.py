"""Decentralised NATS JWTs: who may say and hear what (NATS ADR-14; github.com/nats-io/jwt, version 2 claims).

The operator signs accounts, account `OCF` lists two signing keys, the server checks everything from its
configuration (MEMORY resolver), so nobody has to be asked when a user is made. The key that the gateway
holds is *scoped*: the server takes permissions from the account's template and from two tags of the
user, so that even with the seed stolen nothing but a viewer can be minted with it.

A viewer may publish nothing at all. With any right on JetStream's API a reply subject or a consumer's
`deliver_subject` makes the server itself write where the viewer chose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nkeys

from ocf.events.errors import DeadLetter
from ocf.events.subjects import check_id, check_project

SYSTEM_ACCOUNT = "SYS"
ACCOUNT = "OCF"
#: The server drops a CONNECT line above `max_control_line` (4096 bytes by default).
MAX_CONNECT_BYTES = 4096

_COMMANDS = ("submit", "cancel", "cleanup", "reply", "session")
_READABLE = ("OCF_COMMANDS", "OCF_EVENTS", "OCF_OUTPUT", "KV_ocf_executions", "KV_ocf_sessions")
_UNLIMITED = dict.fromkeys(("subs", "data", "payload"), -1)
_ACCOUNT_LIMITS: dict[str, Any] = {
    **_UNLIMITED,
    **dict.fromkeys(("imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams", "consumer"), -1),
    "wildcards": True,
}


class InvalidViewer(DeadLetter):
    """The credentials asked for do not make sense."""


@dataclass(frozen=True)
class Role:
    """What a kind of user may do; `{project}` stands for one project or `*`."""

    name: str
    description: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    connections: tuple[str, ...] = ("STANDARD", "WEBSOCKET")
    deny: tuple[str, ...] = ()


FUNCTIONS = Role(
    "functions",
    "functions and dispatcher: everything of this system, nothing of the server",
    publish=("ocf.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>"),
    # Answers come in where no other role may listen; `adapters.nats.bus.connect` reads it from the credentials.
    subscribe=("ocf.>", "$KV.>", "_INBOX_FUNCTIONS.>"),
)
BACKEND = Role(
    "backend",
    "a backend trusted with every project as a function is: it commands and reads. What it may publish is a list, but "
    "the server answers to any reply subject and obeys `Nats-Rollup` on the command stream: bugs are kept out, "
    "not an attacker",
    publish=(
        *(f"ocf.cmd.{verb}.{{project}}.>" for verb in _COMMANDS),
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        *(f"$JS.API.{call}.{stream}" for stream in _READABLE for call in ("STREAM.INFO", "STREAM.MSG.GET")),
        *(f"$JS.API.DIRECT.GET.{stream}{more}" for stream in _READABLE for more in ("", ".>")),
        # For NATS clients that follow a stream with a short-lived consumer of their own.
        *(
            f"$JS.API.CONSUMER.{call}"
            for stream in ("OCF_EVENTS", "OCF_OUTPUT")
            for call in (f"CREATE.{stream}", f"CREATE.{stream}.>", f"INFO.{stream}.*", f"MSG.NEXT.{stream}.*")
        ),
        "$JS.ACK.OCF_EVENTS.>",
        "$JS.ACK.OCF_OUTPUT.>",
        "$JS.FC.>",
    ),
    subscribe=("ocf.evt.{project}.>", "ocf.out.{project}.>", "ocf.live.{project}.>", "_INBOX.>"),
    # The dispatcher's consumer on that stream. Those of its projects (`archive-<project>`, ADR 0012) cannot be denied,
    # for a wildcard stands for a whole token; a client's own consumers have random names.
    deny=(
        "$JS.API.CONSUMER.CREATE.OCF_EVENTS.archive",
        "$JS.API.CONSUMER.CREATE.OCF_EVENTS.archive.>",
        "$JS.API.CONSUMER.MSG.NEXT.OCF_EVENTS.archive",
        "$JS.ACK.OCF_EVENTS.archive.>",
    ),
)
PROJECT_BACKEND = Role(
    "project-backend",
    "a backend of one project: its facts and output as they happen; commands and history over HTTP. It publishes "
    "nothing: the server would write its acknowledgement to any subject named as the reply, another project's record "
    "too, and `Nats-Rollup` on a command empties the stream for all. No inbox: those of others are heard there",
    publish=(),
    subscribe=("ocf.evt.{project}.>", "ocf.out.{project}.>", "ocf.live.{project}.>"),
)
BACKUP = Role(
    "backup",
    "who backs up and restores: every stream as a whole, with any client's own inbox. As much as the functions, and it "
    "reads what they are answered: made when it is needed, and kept nowhere",
    publish=(*FUNCTIONS.publish, "$JS.SNAPSHOT.>"),
    subscribe=(*FUNCTIONS.subscribe, "_INBOX.>"),
)
ROLES: dict[str, Role] = {role.name: role for role in (FUNCTIONS, BACKEND, PROJECT_BACKEND, BACKUP)}

#: What the scoped key's users get; the server fills the tags in.
VIEWER_SCOPE: dict[str, Any] = {
    "pub": {"deny": [">"]},
    "sub": {"allow": ["ocf.live.{{tag(project)}}.{{tag(execution)}}"]},
    "allowed_connection_types": ["WEBSOCKET"],
    "subs": 4,
    "data": -1,
    "payload": 0,
}


@dataclass(frozen=True)
class Credentials:
    """A user's JWT with the seed that proves it is its owner; `expires_at` in Unix seconds, 0 for never."""

    jwt: str
    seed: str
    expires_at: int = 0

    def file(self) -> str:
        """The content of a `.creds` file, as every NATS client reads it."""
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n"
        )


@dataclass(frozen=True)
class Trust:
    """The seeds everything else is derived from. Keep them where only their owner reads them."""

    operator: str
    system_account: str
    account: str
    account_signing: str
    viewer_signing: str

    @classmethod
    def generate(cls) -> Trust:
        """New random seeds."""
        operator, account = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT
        return cls(new_seed(operator), *(new_seed(account) for _ in range(4)))


def new_seed(prefix: int) -> str:
    """A random seed of that kind (`nkeys.PREFIX_BYTE_*`)."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
    return seed.decode()


def public_key(seed: str) -> str:
    """The public key of a seed."""
    key: bytes = _pair(seed).public_key
    return key.decode()


def server_jwts(trust: Trust, now: int) -> dict[str, str]:
    """What the server is configured with: `operator`, and each account's JWT by its public key.

    Args:
        trust: the seeds.
        now: Unix seconds.
    """
    system, account = public_key(trust.system_account), public_key(trust.account)
    operator = _sign(
        trust.operator,
        {"sub": public_key(trust.operator), "name": "ocf", "iat": now},
        {"type": "operator", "version": 2, "system_account": system},
    )
    scope = {"kind": "user_scope", "key": public_key(trust.viewer_signing), "role": "viewer", "template": VIEWER_SCOPE}
    claims: dict[str, dict[str, Any]] = {
        system: {"limits": {**_ACCOUNT_LIMITS, "mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0}},
        account: {"limits": _ACCOUNT_LIMITS, "signing_keys": [public_key(trust.account_signing), scope]},
    }
    names = {system: SYSTEM_ACCOUNT, account: ACCOUNT}
    return {"operator": operator} | {
        key: _sign(
            trust.operator,
            {"sub": key, "name": names[key], "iat": now},
            {"type": "account", "version": 2, "default_permissions": {"pub": {}, "sub": {}}, **claim},
        )
        for key, claim in claims.items()
    }


def mint_user(trust: Trust, role: Role, now: int, *, project: str = "*", ttl: int = 0) -> Credentials:
    """Credentials of `role`, for one project or for all, for `ttl` seconds (0: for ever)."""
    if project != "*":
        check_project(project)
    permissions = {
        # An empty list of what is allowed would allow everything.
        "pub": {"allow": [subject.format(project=project) for subject in role.publish], "deny": list(role.deny)}
        if role.publish
        else {"deny": [">"]},
        "sub": {"allow": [subject.format(project=project) for subject in role.subscribe]},
        "allowed_connection_types": list(role.connections),
        **_UNLIMITED,
    }
    return _user(trust.account_signing, public_key(trust.account), role.name, permissions, now, ttl)


def mint_viewer(signing_seed: str, account: str, project: str, execution: str, *, ttl: int, now: int) -> Credentials:
    """Credentials that may listen to one execution's live output over WebSocket, and nothing else.

    Args:
        signing_seed: `Trust.viewer_signing`.
        account: public key of the account.
        project: whose execution it is.
        execution: its id.
        ttl: seconds until the server closes the connection; at least 1.
        now: Unix seconds.

    Raises:
        InvalidEvent: project or execution could break out of its subject.
        InvalidViewer: no positive ttl: a viewer for ever is never right.
    """
    if ttl < 1:
        raise InvalidViewer("ttl: must be at least one second")
    tags = [f"project:{check_project(project)}", f"execution:{check_id(execution)}"]
    return _user(signing_seed, account, "viewer", {"tags": tags}, now, ttl)


def _user(
    signing_seed: str, account: str, name: str, permissions: Mapping[str, object], now: int, ttl: int
) -> Credentials:
    seed = new_seed(nkeys.PREFIX_BYTE_USER)
    expires = {"exp": now + ttl} if ttl else {}
    jwt = _sign(
        signing_seed,
        {"sub": public_key(seed), "name": name, "iat": now, **expires},
        {"type": "user", "version": 2, "issuer_account": account, **permissions},
    )
    return Credentials(jwt, seed, now + ttl if ttl else 0)


def _sign(seed: str, claims: Mapping[str, object], nats: Mapping[str, object]) -> str:
    body = {**claims, "iss": public_key(seed), "nats": nats}
    digest = hashlib.sha256(_json(body)).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = _b64(_json({"typ": "JWT", "alg": "ed25519-nkey"})) + "." + _b64(_json(body))
    return signed + "." + _b64(_pair(seed).sign(signed.encode()))


def _pair(seed: str) -> Any:  # noqa: ANN401 - nkeys has no types
    return nkeys.from_seed(bytearray(seed.encode()))


def _json(value: Mapping[str, object] | Sequence[object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
