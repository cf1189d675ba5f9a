"""Host patterns of `network.allow` and `NETWORK_ALLOW`: `host`, `*.host`, each with an optional `:port`."""

from __future__ import annotations

from collections.abc import Iterable


def host_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether `host` (itself perhaps a pattern) is within one of the `allowed` patterns; `*` allows all."""
    name, _, port = host.partition(":")
    for pattern in allowed:
        wanted, _, wanted_port = pattern.partition(":")
        if wanted_port and wanted_port != port:
            continue
        if wanted in ("*", name) or (wanted.startswith("*.") and name.endswith(wanted[1:])):
            return True
    return False
