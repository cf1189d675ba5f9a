"""Sessions of a test's own project, over the gateway and as their record says."""

from __future__ import annotations

from typing import Any

import httpx2

from ocf.events.execution_ref import SessionRef
from ocf.events.session_record import Session
from tests.support.stack import Project, until


async def call(project: Project, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One call to the gateway."""
    async with httpx2.AsyncClient(base_url=project.stack.answer["gateway"], trust_env=False, timeout=20) as http:
        query = {} if body and "project_id" in body else {"project_id": project.name}
        answer = await http.request(method, path, params=query, json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def opened(project: Project, **data: Any) -> str:
    """A session, once its record is there."""
    made = await call(project, "POST", "/sessions", {"project_id": project.name, **data})
    await session_when(project, made["session_id"], lambda found: found is not None)
    return str(made["session_id"])


async def session_when(project: Project, id_: str, wanted: Any, timeout: float = 60.0) -> Session | None:
    """The session's record as soon as it is as wanted."""
    seen: list[Session | None] = []

    async def look() -> bool:
        message = await project.bus.last(
            "KV_ocf_sessions", f"$KV.ocf_sessions.{SessionRef(project.name, id_).record_key}"
        )
        there = message is not None and message.headers.get("KV-Operation") is None
        seen[:] = [Session.model_validate_json(message.data) if there and message else None]
        return bool(wanted(seen[0]))

    await until(look, timeout=timeout, what=f"session {id_}")
    return seen[0]
