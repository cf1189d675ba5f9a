"""Loopback ports of the stack: requested ones, else those of the last start, else free ones."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterable, Mapping

LOOPBACK = "127.0.0.1"
#: Below Linux's range for outgoing connections (32768 and up), so that no client socket takes one between the check and
#: the server's bind; low enough that weed's gRPC ports fit too.
_RANGE = range(20_000, 32_000)
#: Each process begins its search in a block of its own, and each search after the last: two stacks that start together
#: do not find the same port free.
_BLOCK = 20
_searched = itertools.count()
#: Ports of these names bring a second one that far above them.
_COMPANION = {"weed_admin": 10_000}


class PortTaken(Exception):
    """A requested port is taken."""


def is_free(port: int) -> bool:
    """Return whether a server could bind to the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port(exclude: Iterable[int] = (), *, companion: int = 0, tries: int = 500) -> int:
    """Return a free loopback port outside `exclude`; with `companion`, the port that much higher is free too.

    Raises:
        PortTaken: none found.
    """
    avoid, ports = set(exclude), _RANGE[: len(_RANGE) - companion]
    begin = os.getpid() * _BLOCK + next(_searched)
    for number in range(tries):
        port = ports[(begin + number) % len(ports)]
        if port not in avoid and is_free(port) and is_free(port + companion):
            return port
    raise PortTaken(f"no free port between {_RANGE.start} and {_RANGE.stop}")


def allocate(names: Iterable[str], requested: Mapping[str, int], saved: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each name. A requested port must be free; a saved port that is taken is replaced.

    Raises:
        PortTaken: a requested port is taken.
    """
    ports: dict[str, int] = {}
    for name in names:
        wanted = requested.get(name, 0)
        if wanted and not is_free(wanted):
            raise PortTaken(f"port {wanted} for {name} is taken; stop what listens there, or choose another")
        port = wanted or saved.get(name, 0)
        companion = _COMPANION.get(name, 0)
        usable = port and port not in ports.values() and is_free(port) and is_free(port + companion)
        ports[name] = port if usable else free_port(ports.values(), companion=companion)
    return ports
