"""Host rules of `network.allow` and `NETWORK_ALLOW`: `host`, `*.host`, each with an optional `:port`, or `*`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from ocf.events.errors import OcfError

#: Ports of a rule without a port.
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
        """The allowed ports."""
        return WEB_PORTS if self.port is None else frozenset({self.port})

    def matches(self, host: str, port: int) -> bool:
        """Return whether the rule allows this host and port."""
        if port not in self.ports:
            return False
        if self.wildcard:
            return not self.host or host.endswith("." + self.host)
        return host == self.host

    def covers(self, other: Rule) -> bool:
        """Return whether this rule allows everything that `other` allows."""
        if not other.ports <= self.ports:
            return False
        if other.wildcard:
            return self.wildcard and (not self.host or f".{other.host}".endswith("." + self.host))
        return self.matches(other.host, min(other.ports))


def parse_rule(text: str) -> Rule:
    """Parse a rule.

    Raises:
        InvalidRule: The text is not a rule; the message quotes it.
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
    """Return whether one of the `allowed` rules covers `host`, which may itself be a rule; `*` allows every host.

    Raises:
        InvalidRule: `host` or one of the rules is invalid.
    """
    requested = parse_rule(host)
    return any(parse_rule(rule).covers(requested) for rule in allowed)


def origin_of(url: str) -> tuple[str, int]:
    """Return host and port of an http(s) URL.

    Raises:
        InvalidRule: The URL has no host or a wrong port.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        host = ""
    if not host:
        raise InvalidRule(f"not a URL with a host: {url[:200]!r}")
    return host, port or (443 if parts.scheme == "https" else 80)
