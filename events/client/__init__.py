"""Clients for backends: over NATS (`connect`), and over a gateway (`ocf.events.client.gateway`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocf.events.client.client import Client, connect

__all__ = ["Client", "connect"]


def __getattr__(name: str) -> object:
    """Import the client over NATS when it is first used: the command line talks to a gateway and needs none of it."""
    if name in __all__:
        from ocf.events.client import client

        value: object = getattr(client, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
