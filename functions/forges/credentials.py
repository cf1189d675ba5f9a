"""Forge credentials of projects: sealed in the bucket `ocf_credentials`, opened only where a forge is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx2
import jwt

from ocf.events.base_model import ForwardCompatible, ProjectId, Sealed
from ocf.events.errors import Conflict, SealError
from ocf.events.ports import Bucket, Clock
from ocf.events.sealing import Keyring
from ocf.events.task_forge_fields import CredentialName, ForgeKind
from ocf.functions.core.compare_and_set import dump
from ocf.functions.forges.addresses import ForgeAddress, forge_address
from ocf.functions.forges.forge import Forge
from ocf.functions.forges.http import Api, ForgeRefused

_TRIES = 20
#: GitHub accepts at most ten minutes, and clocks differ.
_JWT_LIFE, _JWT_SKEW = timedelta(minutes=5), timedelta(minutes=1)


class Credential(ForwardCompatible):
    """A token, or a GitHub App and its installation. Secrets are sealed for the project."""

    name: CredentialName
    project_id: ProjectId
    forge: ForgeKind
    api_url: str | None = None
    token: Sealed | None = None
    app_id: int | None = None
    installation_id: int | None = None
    private_key: Sealed | None = None
    created_at: datetime

    @property
    def address(self) -> ForgeAddress:
        """Return the forge that it belongs to."""
        return forge_address(self.forge, self.api_url)


@dataclass(frozen=True)
class Access:
    """An opened credential: its forge, a token that may be used there, and whether a GitHub App's."""

    address: ForgeAddress
    token: str = field(repr=False)
    app: bool = False

    def connect(self, client: httpx2.AsyncClient) -> Forge:
        """Return a client of the forge. Raises ForgeRefused: the token would cross the network in clear text."""
        return self.address.connect(client, self.token, app=self.app)


class ForgeCredentials:
    """The bucket `ocf_credentials`. Without a keyring nothing can be opened."""

    def __init__(self, bucket: Bucket, clock: Clock, keyring: Keyring | None = None) -> None:
        self._bucket = bucket
        self._clock = clock
        self._keyring = keyring

    async def put(self, credential: Credential) -> bool:
        """Store a credential; return whether it replaced another one.

        Raises:
            Conflict: it was changed concurrently, again and again.
        """
        key = f"{credential.project_id}.{credential.name}"
        for _ in range(_TRIES):
            before = await self._bucket.get(key)
            try:
                if before is None:
                    await self._bucket.create(key, dump(credential))
                else:
                    await self._bucket.update(key, dump(credential), before.revision)
            except Conflict:
                continue
            return before is not None
        raise Conflict(f"credential {credential.name} is changing too fast")

    async def get(self, project: str, name: str) -> Credential | None:
        """Return the credential, still sealed, or None."""
        entry = await self._bucket.get(f"{project}.{name}")
        return None if entry is None else Credential.read(entry.value)

    async def list(self, project: str) -> list[Credential]:
        """Return the credentials of a project by name."""
        found = [Credential.read(entry.value) async for entry in self._bucket.entries(f"{project}.*")]
        return sorted(found, key=lambda one: one.name)

    async def delete(self, project: str, name: str) -> bool:
        """Remove a credential; return whether there was one."""
        found = await self._bucket.get(f"{project}.{name}") is not None
        await self._bucket.delete(f"{project}.{name}")
        return found

    async def access(
        self,
        client: httpx2.AsyncClient,
        project: str,
        name: str,
        *,
        url: str | None = None,
        repository: str | None = None,
        read_only: bool = False,
    ) -> Access:
        """Open a credential. The token of a GitHub App is minted, for the one repository only.

        Args:
            client: for the call that mints.
            project: the project.
            name: the credential's name.
            url: the repository's git URL; it must belong to the credential's forge.
            repository: the repository's name, if there is no URL.
            read_only: the minted token may only read the repository's contents.

        Raises:
            ForgeRefused: no such credential, the repository is elsewhere, or the forge refuses to mint.
            ForgeUnavailable: the forge cannot be asked now.
            SealError: it cannot be opened.
        """
        found = await self.get(project, name)
        if found is None:
            raise ForgeRefused(f"there is no credential {name!r} in project {project!r}")
        address = found.address
        if url is not None:
            repository = address.repository(url)
        if found.token is not None:
            return Access(address, self._opened(found.token, project))
        if found.private_key is None or repository is None:
            raise ForgeRefused(f"credential {name!r} has neither a token nor an app and a repository")
        now = self._clock.now()
        claims = {"iat": now - _JWT_SKEW, "exp": now + _JWT_LIFE, "iss": str(found.app_id)}
        try:
            signed = jwt.encode(claims, self._opened(found.private_key, project), algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):
            raise ForgeRefused(f"the private key of credential {name!r} is not an RSA key in PEM") from None
        body: dict[str, Any] = {"repositories": [repository.rpartition("/")[2]]}
        if read_only:
            body["permissions"] = {"contents": "read"}
        api = Api(client, address.api_url, {"Authorization": f"Bearer {signed}"})
        minted = await api.send("POST", f"/app/installations/{found.installation_id}/access_tokens", body)
        return Access(address, str(minted["token"]), app=True)

    def _opened(self, sealed: Sealed, project: str) -> str:
        if self._keyring is None:
            raise SealError("the credential is sealed, and this process has no ENCRYPTION_KEY")
        return self._keyring.open(sealed, project)
