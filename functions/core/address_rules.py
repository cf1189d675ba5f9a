"""Addresses that a tenant's hosts may have (protection from server-side request forgery).

Model endpoints, git hosts and the egress proxy share this rule. A name is resolved once, all its addresses are checked,
and the connection uses a checked address, so that the name cannot change in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address


class Reach(IntEnum):
    """Class of an address: `INSIDE` is private, loopback, or shared with the provider (RFC 6598).

    `NEVER` is link-local, a cloud's metadata service, multicast, unspecified or reserved; no tenant needs these.
    """

    PUBLIC = 0
    INSIDE = 1
    NEVER = 2


#: Metadata services outside the link-local ranges, which answer every request from the cloud's network.
_METADATA = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure's wire server
            "192.0.0.192",  # Oracle Cloud, classic
            "fd00:ec2::/32",  # AWS: metadata, DNS, time, pod identity
            "fd20:ce::254",  # Google Cloud
            "fd00:42::42",  # Scaleway
            "fd00:c1::a9fe:a9fe",  # Oracle Cloud
        ),
    )
)
_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_SITE_LOCAL = IPv6Network("fec0::/10")  # deprecated by RFC 3879, and still routed by some
#: Networks whose last 32 bits are an IPv4 address: compatible (RFC 4291), mapped, translated (RFC 2765), NAT64
#: (RFC 6052).
_EMBEDDING = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
#: Local-use NAT64 (RFC 8215). The position of the IPv4 address depends on the prefix length: /48, /56, /64 or /96.
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_LOCAL_NAT64_PLACES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))


def is_loopback(host: str) -> bool:
    """Return whether `host` (a name or an address, without port) can only mean this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def reach(text: str) -> Reach:
    """Return the class of the IP address `text`; an IPv4 address embedded in an IPv6 address counts as itself.

    Raises:
        ValueError: `text` is not an IP address.
    """
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    return max(map(_reach, _carried(address) or (address,)))


def _reach(address: Address) -> Reach:
    if any(address in network for network in _METADATA) or (
        isinstance(address, IPv6Address) and address in _SITE_LOCAL
    ):
        return Reach.NEVER
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return Reach.NEVER
    if address.is_loopback:
        return Reach.INSIDE
    if address.is_reserved:
        return Reach.NEVER
    return Reach.PUBLIC if address.is_global else Reach.INSIDE


def _carried(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that may receive packets for this IPv6 address."""
    if not isinstance(address, IPv6Address) or address.is_unspecified or address.is_loopback:
        return ()
    if any(address in network for network in _EMBEDDING):
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address in _LOCAL_NAT64:
        octets = address.packed
        places = (bytes(octets[place] for place in places) for places in _LOCAL_NAT64_PLACES)
        return tuple(IPv4Address(place) for place in places if any(place))
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()


def literal(host: str) -> str | None:
    """Return the address spelled by `host`, or None for a name.

    Accepts the spellings of resolvers: decimal, hexadecimal, octal, and fewer than four parts.
    """
    host = host.removeprefix("[").removesuffix("]").partition("%")[0].rstrip(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pieces = host.split(".")
    try:
        numbers = [int(p, 16) if p[:2].lower() == "0x" else int(p, 8 if p[:1] == "0" else 10) for p in pieces]
    except ValueError:
        return None
    if len(numbers) > 4 or any(not 0 <= n <= 255 for n in numbers[:-1]):
        return None
    if not 0 <= numbers[-1] < 256 ** (5 - len(numbers)):
        return None
    value = numbers[-1]
    for position, number in enumerate(numbers[:-1]):
        value += number << (8 * (3 - position))
    return str(IPv4Address(value))


def is_forbidden(host: str) -> bool:
    """Return whether no tenant may reach `host`, a name or an address, regardless of name resolution."""
    address = literal(host)
    return host.rstrip(".").lower() in _METADATA_HOSTS or (address is not None and reach(address) is Reach.NEVER)


def worst_reach(addresses: Iterable[str]) -> Reach:
    """Return the most restricted class: one forbidden address disqualifies a name."""
    return max(map(reach, addresses), default=Reach.PUBLIC)


async def resolve(host: str, port: int) -> list[str]:
    """Return the distinct addresses of a host in the order of the system's resolver.

    Raises:
        OSError: The host has no address, or the resolver failed.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
