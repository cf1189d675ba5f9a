"""Authentication: `Authorization: Bearer <JWT>` (RFC 7519), and the caller's projects.

With a key configured, signature, expiry, issuer, audience and the claim `projects` (a list of project ids, or "*") are
checked on every call. Without one, every client that reaches the loopback interface may do everything.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx2
import jwt
import structlog

from ocf.events.fact_payloads import FieldError
from ocf.events.ports import Clock
from ocf.events.subjects import check_project
from ocf.functions.gateway.problems import Problem, invalid
from ocf.functions.gateway.settings import GatewaySettings

log = structlog.get_logger()

#: Algorithms allowed for a JWKS. Never a symmetric one: the public key would be the secret.
_ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_LEEWAY = 5
#: 10000-01-01, the first time that `datetime` cannot represent.
_END_OF_TIME = 253_402_300_800
_JWKS_MAX_AGE = 300.0
#: Minimum seconds between two requests to the issuer, answered or not: input from outside triggers them.
_JWKS_MIN_AGE = 10.0
#: Seconds that a call with a stale key set waits for a newer one.
_REFRESH_WAIT = 0.5


@dataclass(frozen=True)
class Principal:
    """A caller. `projects` is None for all of them; `expires_at` in Unix seconds."""

    name: str
    projects: frozenset[str] | None
    expires_at: float | None = None
    issuer: str = ""

    @property
    def allowance(self) -> str:
        """Return the key under which calls are counted for the rate limit.

        A subject is unique within its issuer only (RFC 7519, 4.1.2), and tokens without one are distinguished by their
        projects.
        """
        projects = "*" if self.projects is None else ",".join(sorted(self.projects))
        return "\n".join((self.issuer, self.name, projects))

    @property
    def only_project(self) -> str | None:
        """Return the project of a caller who has only one."""
        return next(iter(self.projects)) if self.projects is not None and len(self.projects) == 1 else None

    def may(self, project: str) -> bool:
        """Return whether the caller may act in `project`."""
        return self.projects is None or project in self.projects

    def check(self, project: str) -> str:
        """Return `project` if it is one of the caller's.

        Raises:
            Problem: 422 when it is not a project id, 403 when it is not the caller's.
        """
        if not self.may(project):
            raise Problem(403, "foreign-project", f"your token does not give access to project {project[:63]!r}")
        try:
            return check_project(project)
        except Exception:
            raise invalid([FieldError(field="project_id", message="must be 1 to 63 of a-z, 0-9 and -")]) from None

    def project_or(self, asked: str | None, default: str) -> str:
        """Return the project of a call: the requested one, else the caller's only one, else the default."""
        return self.check(asked) if asked is not None else self.only_project or self.check(default)


ANYBODY = Principal("loopback", None)


def refused(detail: str) -> Problem:
    """Return a 401 problem with the challenge required by RFC 6750."""
    return Problem(401, "unauthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="ocf"'})


class Authenticator:
    """Checks bearer tokens. One per gateway: it stores the issuer's keys."""

    def __init__(self, settings: GatewaySettings, clock: Clock, client: httpx2.AsyncClient | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._client = client
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._failed: Problem | None = None
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def principal(self, authorization: str | None) -> Principal:
        """Return the caller behind an `Authorization` header.

        Raises:
            Problem: 401 with the token's fault; 503 when the issuer's keys are unavailable.
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
        except (jwt.PyJWTError, OverflowError) as error:
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
        known = self._known(kid)
        if known is not None:
            if self._older(self._fetched, _JWKS_MAX_AGE) and self._older(self._tried, _JWKS_MIN_AGE):
                # An issuer that hangs must not delay callers whose key is known; one that answers may withdraw the key.
                await asyncio.wait({self._refresh()}, timeout=_REFRESH_WAIT)
                known = self._known(kid)
            if known is not None:
                return known
        async with self._fetching:
            known = self._known(kid)  # another call may have fetched it meanwhile
            if known is None and self._older(self._tried, _JWKS_MIN_AGE):
                await self._fetch()
                known = self._known(kid)
        if known is not None:
            return known
        if not self._keys and self._failed is not None:
            raise self._failed
        raise jwt.InvalidKeyError("no key of the issuer has its key id")

    def _known(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _older(self, then: float, age: float) -> bool:
        return self._clock.monotonic() - then > age

    def _refresh(self) -> asyncio.Task[None]:
        if self._refreshing is None or self._refreshing.done():
            self._tried = self._clock.monotonic()
            self._refreshing = asyncio.create_task(self._fetch())
        return self._refreshing

    async def _fetch(self) -> None:
        """Fetch the issuer's keys. On failure the known keys stay, so that their callers are not locked out."""
        self._tried = self._clock.monotonic()
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=5)
        try:
            answer = await self._client.get(self._settings.jwks_url or "")
            answer.raise_for_status()
            fetched = jwt.PyJWKSet.from_dict(answer.json())
        except (httpx2.HTTPError, ValueError, AttributeError, TypeError, jwt.PyJWTError) as error:
            detail = f"the token issuer's keys are unavailable: {error or type(error).__name__}"
            log.warning("no keys from the token issuer", action="gateway.jwks_failed", error=detail)
            self._failed = Problem(503, "unavailable", detail, headers={"Retry-After": "5"})
            return
        self._keys = {key.key_id or "": key for key in fetched.keys}
        self._fetched = self._clock.monotonic()

    async def close(self) -> None:
        """Close the connection to the issuer."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()


def _expiry(exp: object) -> float:
    """Return `exp` in seconds. Text is not a NumericDate (RFC 7519, 2); times beyond every calendar are refused."""
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not 0 < exp < _END_OF_TIME:
        raise refused("the token's claim `exp` must be a time in seconds since 1970")
    return float(exp)


def _principal(claims: dict[str, Any]) -> Principal:
    name = str(claims.get("sub") or "unnamed")[:200].replace("\x00", "")
    issuer = str(claims.get("iss") or "")[:200]
    expires = _expiry(claims["exp"])
    projects = claims.get("projects")
    if projects == "*":
        return Principal(name, None, expires, issuer)
    if not isinstance(projects, list) or not projects or not all(isinstance(p, str) for p in projects):
        raise refused('the token\'s claim `projects` must be a list of project ids or "*"')
    return Principal(name, frozenset(projects) if "*" not in projects else None, expires, issuer)
