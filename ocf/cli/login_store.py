"""Stored logins of contexts: one folder each beside the file of contexts, which only its owner may read."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from time import time

from ocf.cli import oidc
from ocf.events.client.gateway_retry import CallFailed, Unreachable
from ocf.events.errors import InvalidEvent
from ocf.events.untrusted_json import KIB, JsonLimit, parse_json
from ocf.stack.keys import make_private_dir, write_private

_LIMIT = JsonLimit(bytes=512 * KIB, depth=4, values=100)


def read(folder: Path) -> oidc.Tokens | None:
    """Return the tokens of a login; None without one.

    Raises:
        CallFailed: The file is damaged; names it.
    """
    place = folder / "login.json"
    try:
        with place.open("rb") as file:
            data = file.read(_LIMIT.bytes + 1)
    except FileNotFoundError:
        return None
    try:
        found = parse_json(data, _LIMIT, str(place))
        return oidc.Tokens(
            str(found["access_token"]),
            None if found["refresh_token"] is None else str(found["refresh_token"]),
            float(found["renew_at"]),
            float(found["expires_at"]),
        )
    except (InvalidEvent, KeyError, TypeError, ValueError):
        raise CallFailed(f"{place}: is not a login; remove it and log in again") from None


def write(folder: Path, tokens: oidc.Tokens) -> None:
    """Store a login with mode 0600, at once or not at all."""
    write_private(make_private_dir(folder) / "login.json", json.dumps(asdict(tokens)))


def forget(folder: Path) -> None:
    """Remove a login from this machine."""
    shutil.rmtree(folder, ignore_errors=not folder.exists())


def token(folder: Path, client: oidc.OidcClient, name: str) -> str:
    """Return the access token of context `name`, renewed when its end is near.

    Raises:
        Unreachable: It has to be renewed, and the issuer does not answer.
        CallFailed: There is no login, or it has ended.
    """
    again = f"`ocf context login {name}` logs in"
    found = read(folder)
    if found is not None and time() >= found.renew_at:
        # Issuers end a login whose refresh token is used twice: one process renews at a time.
        make_private_dir(folder)  # the context may be removed at this moment
        with _locked(folder):
            found = read(folder)
            if found is not None and found.refresh_token and time() >= found.renew_at:
                found = _renewed(folder, client, found, f"context {name}", again)
    if found is None:
        raise CallFailed(f"context {name}: not logged in; {again}")
    if time() >= found.expires_at:
        ended = datetime.fromtimestamp(found.expires_at).strftime("%Y-%m-%d %H:%M")
        raise CallFailed(
            f"context {name}: the login ended at {ended}, and its issuer gave nothing to renew it; {again}"
        )
    return found.access_token


def _renewed(folder: Path, client: oidc.OidcClient, found: oidc.Tokens, name: str, again: str) -> oidc.Tokens:
    try:
        with oidc.connected(client.issuer) as http:
            renewed = oidc.renew(client, found, http, time)
    except oidc.LoginEnded as error:
        (folder / "login.json").unlink()
        raise CallFailed(f"{name}: {error}; {again}") from None
    except Unreachable as error:
        if time() < found.expires_at:
            return found
        raise Unreachable(f"{name}: {error}") from None
    write(folder, renewed)
    return renewed


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
