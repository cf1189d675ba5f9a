"""Dependencies of the gateway. `ocf.functions.runtime.bootstrap` builds the real ones, tests the in-memory ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ocf.events.base_model import Sealed
from ocf.events.ports import Bucket, Bus, Clock, ObjectStore
from ocf.functions.database.store import History
from ocf.functions.forges.credentials import ForgeCredentials
from ocf.functions.gateway.settings import GatewaySettings


class ViewerCredentials(Protocol):
    """Result of `ocf.functions.runtime.nats_auth.mint_viewer`: a user JWT, its seed, its expiry in Unix seconds."""

    @property
    def jwt(self) -> str:
        """Return the user JWT."""

    @property
    def seed(self) -> str:
        """Return the seed of the user's key."""

    @property
    def expires_at(self) -> int:
        """Return the expiry in Unix seconds."""


#: (project, execution, seconds to live) -> credentials that may listen to that execution's live subject only.
MintViewer = Callable[[str, str, int], ViewerCredentials]


class Sealer(Protocol):
    """The part of `ocf.events.sealing.Keyring` that a gateway needs: it opens only the secrets of its hooks."""

    def seal(self, plain: str, project: str) -> Sealed:
        """Seal a secret for `project`."""

    def open(self, sealed: Sealed, project: str) -> str:
        """Decrypt a secret that was sealed for `project`."""


@dataclass(frozen=True)
class GatewayDeps:
    """External dependencies. `mint_viewer` and `keyring` are None where their keys are not configured."""

    bus: Bus
    executions: Bucket
    sessions: Bucket
    triggers: Bucket
    store: ObjectStore
    history: History
    clock: Clock
    settings: GatewaySettings
    credentials: ForgeCredentials
    mint_viewer: MintViewer | None = None
    keyring: Sealer | None = None
