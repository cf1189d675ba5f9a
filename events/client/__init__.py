"""Client for backends: submit, cancel, delete, status, watch, sessions."""

from ocf.events.client.client import Client, connect

__all__ = ["Client", "connect"]
