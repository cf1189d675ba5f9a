"""Decentralised NATS JWTs: roles and their permissions (NATS ADR-14; github.com/nats-io/jwt, version 2 claims).

The operator signs the accounts, and the account `OCF` lists two signing keys. The server verifies all users from its
configuration (MEMORY resolver), so users can be created without a request to the server. The gateway's signing key is
*scoped*: the server takes the permissions from the account's template and from two tags of the user, so that a stolen
seed can only mint viewers.

A viewer may not publish. With any permission on JetStream's API, a reply subject or a consumer's `deliver_subject`
would make the server publish on a subject of the viewer's choice.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nkeys

from ocf.events.errors import DeadLetter
from ocf.events.subjects import check_id, check_project

SYSTEM_ACCOUNT = "SYS"
ACCOUNT = "OCF"
#: The server drops a CONNECT line above `max_control_line` (4096 bytes by default).
MAX_CONNECT_BYTES = 4096

#: `iat` of the operator's JWT: a server reloads a configuration only if this JWT is the same, byte for byte.
_OPERATOR_ISSUED = 1_735_689_600

_COMMANDS = ("submit", "cancel", "cleanup", "reply", "session")
_READABLE = ("OCF_COMMANDS", "OCF_EVENTS", "OCF_OUTPUT", "KV_ocf_executions", "KV_ocf_sessions")
_UNLIMITED = dict.fromkeys(("subs", "data", "payload"), -1)
_ACCOUNT_LIMITS: dict[str, Any] = {
    **_UNLIMITED,
    **dict.fromkeys(("imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams", "consumer"), -1),
    "wildcards": True,
}


class InvalidViewer(DeadLetter):
    """The requested viewer credentials are not valid."""


@dataclass(frozen=True)
class Role:
    """Permissions of a kind of user; `{project}` stands for one project or `*`."""

    name: str
    description: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    connections: tuple[str, ...] = ("STANDARD", "WEBSOCKET")
    deny: tuple[str, ...] = ()


FUNCTIONS = Role(
    "functions",
    "functions and dispatcher: all subjects of this system, no server administration",
    publish=("ocf.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>"),
    # An inbox prefix that no other role may subscribe to; `adapters.nats.bus.connect` reads it from the credentials.
    subscribe=("ocf.>", "$KV.>", "_INBOX_FUNCTIONS.>"),
)
BACKEND = Role(
    "backend",
    "a backend that is trusted with every project: it publishes commands and reads everything. The list of publish "
    "permissions prevents mistakes, not attacks: the server answers to any reply subject and obeys `Nats-Rollup` on "
    "the command stream",
    publish=(
        *(f"ocf.cmd.{verb}.{{project}}.>" for verb in _COMMANDS),
        "ocf.in.{project}.>",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        *(f"$JS.API.{call}.{stream}" for stream in _READABLE for call in ("STREAM.INFO", "STREAM.MSG.GET")),
        *(f"$JS.API.DIRECT.GET.{stream}{more}" for stream in _READABLE for more in ("", ".>")),
        # For NATS clients that follow a stream by an ephemeral consumer.
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
    # The dispatcher's consumer on that stream. Its consumers per project (`archive-<project>`, ADR 0012) cannot be
    # denied, because a wildcard stands for a whole token; ephemeral consumers of clients have random names.
    deny=(
        "$JS.API.CONSUMER.CREATE.OCF_EVENTS.archive",
        "$JS.API.CONSUMER.CREATE.OCF_EVENTS.archive.>",
        "$JS.API.CONSUMER.MSG.NEXT.OCF_EVENTS.archive",
        "$JS.ACK.OCF_EVENTS.archive.>",
    ),
)
PROJECT_BACKEND = Role(
    "project-backend",
    "a backend of one project: live facts and output over NATS, commands and history over HTTP. It may not publish: "
    "the server would send the acknowledgement to any reply subject, including another project's record, and "
    "`Nats-Rollup` on a command would empty the stream. It has no inbox, because an inbox permission includes the "
    "inboxes of others",
    publish=(),
    subscribe=("ocf.evt.{project}.>", "ocf.out.{project}.>", "ocf.live.{project}.>"),
)
BACKUP = Role(
    "backup",
    "backup and restore: every stream as a whole, with any client's inbox. It has the permissions of the functions and "
    "can read their replies: create it when needed, and do not store it",
    publish=(*FUNCTIONS.publish, "$JS.SNAPSHOT.>"),
    subscribe=(*FUNCTIONS.subscribe, "_INBOX.>"),
)
ROLES: dict[str, Role] = {role.name: role for role in (FUNCTIONS, BACKEND, PROJECT_BACKEND, BACKUP)}

#: Permissions of the scoped key's users; the server fills in the tags.
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
    """A user's JWT and the seed that proves its possession; `expires_at` in Unix seconds, 0 for never."""

    jwt: str
    seed: str
    expires_at: int = 0

    def file(self) -> str:
        """Return the content of a `.creds` file."""
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n"
        )


@dataclass(frozen=True)
class Trust:
    """The seeds of all keys. Only their owner may be able to read them.

    `earlier` are the public keys of the signing keys before these, `account_signing` and `viewer_signing`, which the
    account lists until their rotation is finished. `revoked` has the time in Unix seconds by the public key of a user:
    what was signed for that user until then is refused.
    """

    operator: str
    system_account: str
    account: str
    account_signing: str
    viewer_signing: str
    earlier: tuple[str, ...] = ()
    revoked: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def generate(cls) -> Trust:
        """Return new random seeds."""
        operator, account = nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT
        return cls(new_seed(operator), new_seed(account), new_seed(account), new_seed(account), new_seed(account))

    def rotated(self) -> Trust:
        """Return the trust with new signing keys; the account is the same and lists the earlier ones too."""
        if self.earlier:
            return self  # an unfinished rotation goes on
        fresh = [new_seed(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2)]
        earlier = (public_key(self.account_signing), public_key(self.viewer_signing))
        return replace(self, account_signing=fresh[0], viewer_signing=fresh[1], earlier=earlier)

    def finished(self) -> Trust:
        """Return the trust without the earlier signing keys: what they signed is refused."""
        return replace(self, earlier=())

    def without(self, user: str, now: int) -> Trust:
        """Return the trust that refuses what was signed for the user with this public key until now."""
        return replace(self, revoked={**self.revoked, user: now})


def new_seed(prefix: int) -> str:
    """Return a random seed; `prefix` is its kind (`nkeys.PREFIX_BYTE_*`)."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
    return seed.decode()


def public_key(seed: str) -> str:
    """Return the public key of a seed."""
    key: bytes = _pair(seed).public_key
    return key.decode()


def server_jwts(trust: Trust, now: int) -> dict[str, str]:
    """Return the JWTs of the server's configuration: `operator`, and each account's by its public key.

    Args:
        trust: The seeds.
        now: Unix seconds.
    """
    system, account = public_key(trust.system_account), public_key(trust.account)
    operator = _sign(
        trust.operator,
        {"sub": public_key(trust.operator), "name": "ocf", "iat": _OPERATOR_ISSUED},
        {"type": "operator", "version": 2, "system_account": system},
    )
    signing = [public_key(trust.account_signing), _viewer_scope(public_key(trust.viewer_signing))]
    if trust.earlier:
        signing += [trust.earlier[0], _viewer_scope(trust.earlier[1])]
    claims: dict[str, dict[str, Any]] = {
        system: {"limits": {**_ACCOUNT_LIMITS, "mem_storage": 0, "disk_storage": 0, "streams": 0, "consumer": 0}},
        account: {"limits": _ACCOUNT_LIMITS, "signing_keys": signing, "revocations": dict(trust.revoked)},
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


def _viewer_scope(key: str) -> dict[str, Any]:
    return {"kind": "user_scope", "key": key, "role": "viewer", "template": VIEWER_SCOPE}


def mint_user(trust: Trust, role: Role, now: int, *, project: str = "*", ttl: int = 0) -> Credentials:
    """Return credentials of `role` for one project or all, valid for `ttl` seconds (0: for ever)."""
    if project != "*":
        check_project(project)
    permissions = {
        # An empty allow list would allow everything.
        "pub": {"allow": [subject.format(project=project) for subject in role.publish], "deny": list(role.deny)}
        if role.publish
        else {"deny": [">"]},
        "sub": {"allow": [subject.format(project=project) for subject in role.subscribe]},
        "allowed_connection_types": list(role.connections),
        **_UNLIMITED,
    }
    return _user(trust.account_signing, public_key(trust.account), role.name, permissions, now, ttl)


def mint_viewer(signing_seed: str, account: str, project: str, execution: str, *, ttl: int, now: int) -> Credentials:
    """Return credentials that may only subscribe to one execution's live output over WebSocket.

    Args:
        signing_seed: `Trust.viewer_signing`.
        account: Public key of the account.
        project: Project of the execution.
        execution: Id of the execution.
        ttl: Seconds until the server closes the connection; at least 1.
        now: Unix seconds.

    Raises:
        InvalidEvent: Project or execution is not a valid subject token.
        InvalidViewer: The TTL is not positive; viewers must expire.
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
