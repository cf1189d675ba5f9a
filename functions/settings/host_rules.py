"""Host rules of `network.allow` and `NETWORK_ALLOW`: `host`, `*.host`, each with an optional `:port`, or `*`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ocf.events.errors import OcfError

#: Ports that a rule without a port means.
WEB_PORTS = frozenset({80, 443})

_RULE = re.compile(r"(?P<star>\*\.)?(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")


class InvalidRule(OcfError):
    """Not a host rule: `host`, `*.host`, either with `:port`, or `*` (operator only)."""


@dataclass(frozen=True)
class Rule:
    """`host`, `*.host` (subdomains, not the host itself), `*`; without a port: 80 and 443."""

    host: str
    wildcard: bool
    port: int | None

    @property
    def ports(self) -> frozenset[int]:
        """The ports it allows."""
        return WEB_PORTS if self.port is None else frozenset({self.port})

    def matches(self, host: str, port: int) -> bool:
        """Whether it allows this host and port."""
        if port not in self.ports:
            return False
        if self.wildcard:
            return not self.host or host.endswith("." + self.host)
        return host == self.host

    def covers(self, other: Rule) -> bool:
        """Whether it allows all that `other` does."""
        if not other.ports <= self.ports:
            return False
        if other.wildcard:
            return self.wildcard and (not self.host or f".{other.host}".endswith("." + self.host))
        return self.matches(other.host, min(other.ports))


def parse_rule(text: str) -> Rule:
    """A rule from its text.

    Raises:
        InvalidRule: it is none; the message names it.
    """
    text = text.strip().lower()
    if text == "*":
        return Rule("", True, None)
    found = _RULE.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if not found or (port is not None and not 1 <= port <= 65535):
        raise InvalidRule(f"not a host rule: {text!r} (host, *.host, host:port)")
    return Rule(found["host"], bool(found["star"]), port)


def host_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether `host` (itself perhaps a pattern) is within one of the `allowed` rules; `*` allows every host.

    Raises:
        InvalidRule: one of them is no rule.
    """
    asked = parse_rule(host)
    return any(parse_rule(rule).covers(asked) for rule in allowed)
