"""Check of a model endpoint's URL. It comes from a caller; the request leaves from our pod."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from ocf.functions.core.address_rules import is_forbidden


class BadEndpoint(ValueError):
    """The model endpoint is not usable."""


def check_endpoint(url: str, *, name: str = "api_endpoint", allow_hosts: Collection[str] = ()) -> str:
    """Check the URL of a model endpoint; return it without a trailing slash.

    The host's name is resolved and checked again at every connection (`ocf.functions.execute.model_proxy.upstream`).

    Raises:
        BadEndpoint: not http(s), without host, with credentials, query or fragment, or at a refused address. The
            message names `name`, never credentials.
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
    if host not in allow_hosts and is_forbidden(host):
        raise BadEndpoint(f"{name} points to {host}, a link-local, metadata or reserved address, which is not allowed")
    return url.rstrip("/")
