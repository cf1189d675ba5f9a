"""Typed client of a gateway: tasks, sessions and rules of one project.

async with AsyncGateway("https://ocf.example.com", token=TOKEN) as gateway:
    execution = await gateway.submit(prompt="Fix the failing test", workspace={"source": "git", "url": URL})
    async for chunk in gateway.watch(execution):
        print(chunk["data"], end="")

Answers are JSON objects with the types of the REST API. `ocf.events.client.blocking` is its twin without asyncio,
generated from this module. Every method raises `CallFailed` with the gateway's message, and `Unreachable` when no
gateway answers.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Literal, Self, Unpack, cast

from ocf.events.client.api_types import Chunk, CreateSession, ExecuteTask, Rule, RunAgain, Submits, TaskPage, TaskStatus
from ocf.events.client.gateway import Address, GatewayClient, connect
from ocf.events.client.gateway_retry import DEFAULT_PATIENCE
from ocf.events.client.pages import items_of

Download = Literal["output", "diff", "files", "events"]


class AsyncGateway:
    """Tasks, sessions and rules of one project.

    Args:
        url: Address of the gateway.
        token: The caller's JWT; none for a gateway on this machine.
        project: Project of all calls.
        patience: Seconds that `watch` waits for a gateway that is away.
    """

    def __init__(
        self, url: str, *, token: str | None = None, project: str = "default", patience: float = DEFAULT_PATIENCE
    ) -> None:
        self._address = Address(url.rstrip("/"), token, project)
        self._patience = patience
        self._connected: GatewayClient | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._connected = await self._closing.enter_async_context(connect(lambda: self._address))
        self._connected.patience = self._patience
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connected = None
        await self._closing.aclose()

    @property
    def _calls(self) -> GatewayClient:
        if self._connected is None:
            raise RuntimeError("the client is not connected: use it in a `with` statement")
        return self._connected

    async def submit(self, **task: Unpack[ExecuteTask]) -> str:
        """Submit a task and return its execution id; the same `execution_id` with the same task is one execution."""
        body = {"execution_id": str(uuid.uuid4()), "project_id": self._address.project, **task}
        return str((await self._calls.call("POST", "/tasks/execute", body=body))["execution_id"])

    async def status(self, execution: str) -> TaskStatus:
        """Return the state of an execution, without its output."""
        return cast(TaskStatus, await self._calls.call("GET", f"/tasks/{execution}/status"))

    async def list_tasks(self, *, limit: int | None = None, cursor: str | None = None, **filters: str) -> TaskPage:
        """Return a page of the history, newest first; `filters` are those of `GET /tasks`."""
        return cast(TaskPage, await self._calls.call("GET", "/tasks", limit=limit, cursor=cursor, **filters))

    def watch(self, execution: str, *, start: int = 1) -> AsyncGenerator[Chunk, None]:
        """Yield output from sequence `start` until the execution ends, each chunk once, over lost connections.

        Raises:
            GaveUp: The gateway was away for longer than `patience`; `resume` is the next sequence.
        """
        return cast(AsyncGenerator[Chunk, None], self._calls.watch(execution, start))

    def download(self, execution: str, what: Download, **query: str) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the output (NDJSON), the patch, the list of files, or the events of an execution."""
        return self._calls.download(f"/tasks/{execution}/{what}", **query)

    async def cancel(self, execution: str, *, why: str | None = None) -> None:
        """Cancel an execution in any state. It is cancelled when `status` says so."""
        await self._calls.call("POST", f"/tasks/{execution}/cancel", body={"why": why} if why else None)

    async def rerun(self, execution: str, **options: Unpack[RunAgain]) -> str:
        """Run an ended execution again from its recording and return the new execution id."""
        return str((await self._calls.call("POST", f"/tasks/{execution}/rerun", body=options))["execution_id"])

    async def delete(self, execution: str) -> None:
        """Cancel an execution if it runs, then remove every trace."""
        await self._calls.call("DELETE", f"/tasks/{execution}")

    async def reply(self, execution: str, request_id: str, answer: str) -> None:
        """Answer a permission or question of the agent."""
        await self._calls.call("POST", f"/tasks/{execution}/replies/{request_id}", body={"answer": answer})

    async def create_session(self, **session: Unpack[CreateSession]) -> str:
        """Create a session and return its id; tasks join it with `session_id`."""
        body = {"project_id": self._address.project, **session}
        return str((await self._calls.call("POST", "/sessions", body=body))["session_id"])

    async def get_session(self, session: str) -> dict[str, Any]:
        """Return the record of a session."""
        return cast(dict[str, Any], await self._calls.call("GET", f"/sessions/{session}"))

    async def list_sessions(self) -> list[dict[str, Any]]:
        """Return all sessions of the project, newest first."""
        return [one async for one in items_of(self._calls, "/sessions", "session_id")]

    async def attach_session(self, session: str, *, client_id: str | None = None) -> None:
        """Attach a client, which prevents expiry of the session."""
        await self._calls.call("POST", f"/sessions/{session}/attach", body={"client_id": client_id})

    async def detach_session(self, session: str, *, client_id: str | None = None) -> None:
        """Detach a client; the session stays."""
        await self._calls.call("POST", f"/sessions/{session}/detach", body={"client_id": client_id})

    async def destroy_session(self, session: str) -> None:
        """Cancel the executions of a session and remove all its data."""
        await self._calls.call("DELETE", f"/sessions/{session}")

    async def put_trigger(self, rule: Rule) -> None:
        """Store a rule, or replace the one of its name."""
        await self._calls.call("POST", "/triggers", body={"project_id": self._address.project, **rule})

    async def list_triggers(self) -> list[dict[str, Any]]:
        """Return the rules of the project, each with its matches."""
        found = await self._calls.call("GET", "/triggers", project_id=self._address.project)
        return cast(list[dict[str, Any]], found["triggers"])

    async def test_trigger(self, name: str, event: Mapping[str, Any]) -> Submits:
        """Return the submits that a rule would publish for a CloudEvent; nothing is published."""
        path = f"/triggers/{name}/test"
        return cast(Submits, await self._calls.call("POST", path, body=event, project_id=self._address.project))

    async def delete_trigger(self, name: str) -> None:
        """Remove a rule. Executions that it started go on."""
        await self._calls.call("DELETE", f"/triggers/{name}", project_id=self._address.project)
