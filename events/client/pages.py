"""Lists of a gateway that come in pages, as one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

#: Items of a page, as many as a gateway gives at once.
_PAGE = 500


class Calls(Protocol):
    """Make calls of the REST API, as `ocf.events.client.gateway.GatewayClient` does."""

    async def call(self, method: str, path: str, *, body: object = None, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """Return the answer's JSON."""


async def items_of(
    gateway: Calls, path: str, key: str, most: int | None = None, **query: Any
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the items of a list, page by page, each once.

    Args:
        gateway: The gateway that has the list.
        path: Path of the list.
        key: Field of an item that identifies it; the newest may be in two pages.
        most: How many at most; all if None.
        query: Other parameters of the call.
    """
    seen: set[str] = set()
    while True:
        left = _PAGE if most is None else most - len(seen)
        page = await gateway.call("GET", path, limit=min(left, _PAGE), **query)
        for item in page["items"]:
            if item[key] not in seen and (most is None or len(seen) < most):
                seen.add(item[key])
                yield item
        if not page.get("next") or len(seen) == most:
            return
        query["cursor"] = page["next"]


async def newest(
    gateway: Calls, path: str, key: str, most: int | None, **query: Any
) -> tuple[list[dict[str, Any]], bool]:
    """Return the first `most` items of a list (all if None), and whether there are more. Arguments: see `items_of`."""
    limit = None if most is None else most + 1
    items = [item async for item in items_of(gateway, path, key, limit, **query)]
    return items[:most], most is not None and len(items) > most
