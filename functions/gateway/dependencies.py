"""What the gateway is given. `ocf.functions.runtime.bootstrap` builds the real ones, tests the in-memory ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ocf.events.commands import Sealed
from ocf.events.ports import Bucket, Bus, Clock, ObjectStore
from ocf.functions.gateway.settings import GatewaySettings


class ViewerCredentials(Protocol):
    """What `ocf.functions.runtime.nats_auth.mint_viewer` returns: a user JWT, its seed, its expiry in Unix seconds."""

    @property
    def jwt(self) -> str: ...

    @property
    def seed(self) -> str: ...

    @property
    def expires_at(self) -> int: ...


#: (project, execution, seconds to live) -> credentials that may listen to that execution's live subject only.
MintViewer = Callable[[str, str, int], ViewerCredentials]


class Sealer(Protocol):
    """The part of `ocf.events.sealing.Keyring` that a gateway needs: it never opens."""

    def seal(self, plain: str, project: str) -> Sealed: ...


@dataclass(frozen=True)
class GatewayDeps:
    """Everything from outside. `mint_viewer` and `keyring` are None where their keys are not configured."""

    bus: Bus
    executions: Bucket
    sessions: Bucket
    store: ObjectStore
    clock: Clock
    settings: GatewaySettings
    mint_viewer: MintViewer | None = None
    keyring: Sealer | None = None
