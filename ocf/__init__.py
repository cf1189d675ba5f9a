"""OpenCode executions as event-driven functions.

Clients for backends: `connect` over NATS, `Gateway` and `AsyncGateway` over a gateway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocf.events.client import AsyncGateway, Client, Gateway, connect

__all__ = ["AsyncGateway", "Client", "Gateway", "connect"]


def __getattr__(name: str) -> object:
    """Import a client when it is first used: the supervisor of an agent imports this package without NATS."""
    if name in __all__:
        from ocf.events import client

        value: object = getattr(client, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
