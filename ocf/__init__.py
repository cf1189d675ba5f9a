"""OpenCode executions as event-driven functions. `from ocf import connect` is the client for backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocf.events.client import Client, connect

__all__ = ["Client", "connect"]


def __getattr__(name: str) -> object:
    """Import the client when it is first used: the supervisor of an agent imports this package without NATS."""
    if name in __all__:
        from ocf.events import client

        value: object = getattr(client, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
