"""Ids of executions and sessions: whole, or a beginning that only one of the project has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ocf.events.client.gateway_retry import CallFailed
from ocf.events.client.pages import items_of

if TYPE_CHECKING:
    from ocf.events.client.gateway import GatewayClient

_WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BEGINNING = re.compile(r"[0-9a-f-]{1,36}")
#: Candidates that an error names.
_SHOWN = 5


@dataclass(frozen=True)
class Kind:
    """A kind of things that have ids."""

    noun: str
    path: str
    field: str
    #: Whether the gateway searches by beginning.
    searched: bool


EXECUTION = Kind("execution", "/tasks", "execution_id", searched=True)
SESSION = Kind("session", "/sessions", "session_id", searched=False)


async def whole_id(gateway: GatewayClient, kind: Kind, given: str) -> str:
    """Return the id that begins with `given`, in the project of the call.

    Raises:
        CallFailed: None does, or several do; names them.
    """
    given = given.lower()
    if _WHOLE.fullmatch(given):
        return given
    if not _BEGINNING.fullmatch(given):
        raise CallFailed(f"{given!r} is not an id of {kind.noun}s, or the beginning of one")
    # Without the gateway's search every page is read: an old thing may begin like a new one.
    query, most = ({"id_prefix": given}, _SHOWN + 1) if kind.searched else ({}, None)
    items = items_of(gateway, kind.path, kind.field, most, **query)
    found = [str(item[kind.field]) async for item in items if str(item[kind.field]).startswith(given)]
    where = f"{kind.noun} of project {gateway.address.project}"
    if not found:
        raise CallFailed(f"no {where} has an id that begins with {given}")
    if len(found) > 1:
        more = ", ..." if len(found) > _SHOWN else ""
        raise CallFailed(f"more than one {where} has an id that begins with {given}: {', '.join(found[:_SHOWN])}{more}")
    return found[0]
