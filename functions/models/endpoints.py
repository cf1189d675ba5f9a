"""Which addresses a model endpoint may have. An endpoint comes from a caller; the request leaves from our pod."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

#: Metadata services outside the link-local ranges: AWS over IPv6, Alibaba Cloud, Azure's wire server.
METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})
METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class BadEndpoint(ValueError):
    """The model endpoint is not usable."""


def is_refused_address(text: str) -> bool:
    """Whether `text` is an IP address no endpoint may have: link-local, metadata, multicast, unspecified."""
    try:
        address: Address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # ::ffff:169.254.169.254 and 64:ff9b::a9fe:a9fe reach the same place as 169.254.169.254.
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in ipaddress.IPv6Network("64:ff9b::/96"):
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = embedded or address
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or str(address) in METADATA
    )


def check_endpoint(url: str, *, name: str = "api_endpoint", allow_hosts: Collection[str] = ()) -> str:
    """`url` without a trailing slash, if a model endpoint may look like that.

    The host's name is resolved and checked again at every connection (`functions.execute.broker.upstream`).

    Raises:
        BadEndpoint: not http(s), no host, credentials, query or fragment in it, or an address that is refused.
            The message names `name`, never credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise BadEndpoint(f"{name} is not a URL") from None
    if parts.scheme not in ("http", "https"):
        raise BadEndpoint(f"{name} must be an http or https URL")
    if not host:
        raise BadEndpoint(f"{name} has no host")
    if parts.username is not None or parts.password is not None:
        raise BadEndpoint(f"{name} must not carry credentials; give the key as api_key")
    if parts.query or parts.fragment:
        raise BadEndpoint(f"{name} must not have a query or a fragment")
    if host not in allow_hosts and (host in METADATA_HOSTS or is_refused_address(_as_address(host))):
        raise BadEndpoint(f"{name} points to {host}, a link-local or metadata address, which is not allowed")
    return url.rstrip("/")


def _as_address(host: str) -> str:
    """Spellings of an IPv4 address that a resolver takes too: decimal, hexadecimal, octal, short."""
    pieces = host.split(".")
    try:
        numbers = [int(p, 16) if p[:2].lower() == "0x" else int(p, 8 if p[:1] == "0" else 10) for p in pieces]
    except ValueError:
        return host
    if len(numbers) > 4 or any(n > 255 for n in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
        return host
    value = numbers[-1]
    for position, number in enumerate(numbers[:-1]):
        value += number << (8 * (3 - position))
    return str(ipaddress.IPv4Address(value))
