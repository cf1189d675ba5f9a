"""Who calls: `Authorization: Bearer <JWT>` (RFC 7519), and which projects that gives.

With a key configured, signature, expiry, issuer, audience and the claim `projects` (a list of project ids, or "*")
are checked on every call. Without one, everybody who reaches the loopback interface may do all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import jwt

from events.facts import FieldError
from events.ports import Clock
from events.subjects import check_project
from functions.gateway.problems import Problem, invalid
from functions.gateway.settings import GatewaySettings

#: What a JWKS may sign with. Never a symmetric algorithm: its public key would be the secret.
_ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LEEWAY = 5
_JWKS_MAX_AGE = 300.0
#: An unknown key id asks the issuer again, but no more often than this: it is input from outside.
_JWKS_MIN_AGE = 10.0


@dataclass(frozen=True)
class Principal:
    """A caller. `projects` is None for all of them; `expires_at` in Unix seconds."""

    name: str
    projects: frozenset[str] | None
    expires_at: float | None = None

    def may(self, project: str) -> bool:
        """Whether the caller may act in `project`."""
        return self.projects is None or project in self.projects

    def check(self, project: str) -> str:
        """`project`, if it is one of the caller's.

        Raises:
            Problem: 422 when it is no project id, 403 when it is not the caller's.
        """
        if not self.may(project):
            raise Problem(403, "foreign-project", f"your token does not give access to project {project[:63]!r}")
        try:
            return check_project(project)
        except Exception:
            raise invalid([FieldError(field="project_id", message="must be 1 to 63 of a-z, 0-9 and -")]) from None

    def project_or(self, asked: str | None, default: str) -> str:
        """The project a call means: the one it names, else the caller's only one, else the default."""
        if asked is None and self.projects is not None and len(self.projects) == 1:
            return next(iter(self.projects))
        return self.check(asked if asked is not None else default)


ANYBODY = Principal("loopback", None)


def refused(detail: str) -> Problem:
    """401 with the challenge that RFC 6750 asks for."""
    return Problem(401, "unauthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="ocf"'})


class Authenticator:
    """Checks bearer tokens. One per gateway: it keeps the issuer's keys."""

    def __init__(self, settings: GatewaySettings, clock: Clock, client: httpx.AsyncClient | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._client = client
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._fetching = asyncio.Lock()

    async def principal(self, authorization: str | None) -> Principal:
        """The caller behind an `Authorization` header.

        Raises:
            Problem: 401, saying what is wrong with the token; 503 when the issuer's keys cannot be had.
        """
        if not self._settings.authenticated:
            return ANYBODY
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise refused("send `Authorization: Bearer <JWT>`")
        return _principal(await self._claims(token.strip()))

    async def _claims(self, token: str) -> dict[str, Any]:
        secret = self._settings.jwt_secret
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            if secret is not None and (algorithm == "HS256" or self._settings.jwks_url is None):
                return self._decode(token, secret.get_secret_value(), ["HS256"])
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            return self._decode(token, key, _ASYMMETRIC)
        except jwt.ExpiredSignatureError:
            raise refused("the token has expired") from None
        except jwt.PyJWTError as error:
            raise refused(f"the token is not accepted: {error}") from None

    def _decode(self, token: str, key: str | jwt.PyJWK, algorithms: list[str]) -> dict[str, Any]:
        needed = ["exp"] + [
            claim
            for claim, wanted in (("iss", self._settings.jwt_issuer), ("aud", self._settings.jwt_audience))
            if wanted
        ]
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=self._settings.jwt_issuer,
            audience=self._settings.jwt_audience,
            leeway=_LEEWAY,
            options={"require": needed, "verify_aud": self._settings.jwt_audience is not None},
        )
        return claims

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        async with self._fetching:
            age = None if self._fetched is None else self._clock.monotonic() - self._fetched
            stale = age is None or age > _JWKS_MAX_AGE
            if stale or (kid not in self._keys and age is not None and age > _JWKS_MIN_AGE):
                await self._fetch()
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if kid is None or kid not in self._keys:
            raise jwt.InvalidKeyError("no key of the issuer has its key id")
        return self._keys[kid]

    async def _fetch(self) -> None:
        url = self._settings.jwks_url or ""
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=5)
        try:
            answer = await self._client.get(url)
            answer.raise_for_status()
            fetched = jwt.PyJWKSet.from_dict(answer.json())
        except (httpx.HTTPError, ValueError, jwt.PyJWTError) as error:
            if self._keys:
                return  # an issuer that is down must not lock out callers whose keys are known
            raise Problem(
                503, "unavailable", f"the token issuer's keys cannot be had: {error}", headers={"Retry-After": "5"}
            ) from None
        self._keys = {key.key_id or "": key for key in fetched.keys}
        self._fetched = self._clock.monotonic()

    async def close(self) -> None:
        """End the connection to the issuer."""
        if self._client is not None:
            await self._client.aclose()


def _principal(claims: dict[str, Any]) -> Principal:
    name = str(claims.get("sub") or "unnamed")[:200].replace("\x00", "")
    expires = float(claims["exp"])
    projects = claims.get("projects")
    if projects == "*":
        return Principal(name, None, expires)
    if not isinstance(projects, list) or not projects or not all(isinstance(p, str) for p in projects):
        raise refused('the token\'s claim `projects` must be a list of project ids or "*"')
    return Principal(name, frozenset(projects) if "*" not in projects else None, expires)
