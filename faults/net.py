"""A network namespace for every part, on one bridge; a cable that can be pulled. Inside a namespace of the run's own.

Nothing of it reaches the machine's network: the bridge lives in the namespace that `__main__` made for this run.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field

HUB = "10.77.0.1"
_BRIDGE = "hub"


def call(*argv: str) -> str:
    """Run a short command. Raises CalledProcessError, with what it said."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@dataclass
class Net:
    """The bridge and the cables. Addresses are given in the order of joining."""

    addresses: dict[str, str] = field(default_factory=dict)

    def up(self) -> None:
        """Make the bridge; the harness itself is `HUB` on it."""
        call("mkdir", "-p", "/run/netns")
        call("ip", "link", "set", "lo", "up")
        call("ip", "link", "add", _BRIDGE, "type", "bridge")
        call("ip", "addr", "add", f"{HUB}/24", "dev", _BRIDGE)
        call("ip", "link", "set", _BRIDGE, "up")

    def join(self, name: str) -> str:
        """A namespace `name` on the bridge; its address."""
        address = f"10.77.0.{len(self.addresses) + 2}"
        self.addresses[name] = address
        cable = self._cable(name)
        call("ip", "netns", "add", name)
        call("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        call("ip", "link", "set", cable, "master", _BRIDGE, "up")
        call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        call("ip", "-n", name, "link", "set", "eth0", "up")
        call("ip", "-n", name, "link", "set", "lo", "up")
        return address

    def cut(self, name: str) -> None:
        """Pull the cable at the bridge: nothing is refused, everything is silent, in both directions."""
        call("ip", "link", "set", self._cable(name), "nomaster")

    def mend(self, name: str) -> None:
        """Plug it in again."""
        call("ip", "link", "set", self._cable(name), "master", _BRIDGE)

    def inside(self, name: str, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command line that runs `argv` there; it becomes `argv`, with the same pid."""
        return ("nsenter", f"--net=/run/netns/{name}", "--", *argv)

    def _cable(self, name: str) -> str:
        return f"v{list(self.addresses).index(name)}"
