"""Clients for backends: over NATS (`connect`), and over a gateway (`Gateway`, `AsyncGateway`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocf.events.client.blocking import Gateway
    from ocf.events.client.nats_client import Client, connect
    from ocf.events.client.tasks import AsyncGateway

__all__ = ["AsyncGateway", "Client", "Gateway", "connect"]

_MODULES = {"AsyncGateway": "tasks", "Client": "nats_client", "Gateway": "blocking", "connect": "nats_client"}


def __getattr__(name: str) -> object:
    """Import a client when it is first used: the command line needs none of that over NATS."""
    if name in _MODULES:
        value: object = getattr(import_module(f"ocf.events.client.{_MODULES[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
