"""A gateway's client without asyncio. Generated from events/client/tasks.py by `make generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from ocf.events.client.api_types import Chunk, CreateSession, ExecuteTask, Rule, RunAgain, Submits, TaskPage, TaskStatus
from ocf.events.client.loop_thread import LoopThread
from ocf.events.client.tasks import Download


class Gateway(LoopThread):
    """`AsyncGateway` for code without asyncio: `with Gateway(url) as gateway`. Threads may share one."""

    def submit(self, **task: Unpack[ExecuteTask]) -> str:
        """Submit a task and return its execution id; the same `execution_id` with the same task is one execution."""
        return self._run(self._gateway.submit(**task))

    def status(self, execution: str) -> TaskStatus:
        """Return the state of an execution, without its output."""
        return self._run(self._gateway.status(execution))

    def list_tasks(self, *, limit: int | None = None, cursor: str | None = None, **filters: str) -> TaskPage:
        """Return a page of the history, newest first; `filters` are those of `GET /tasks`."""
        return self._run(self._gateway.list_tasks(limit=limit, cursor=cursor, **filters))

    def watch(self, execution: str, *, start: int = 1) -> Iterator[Chunk]:
        """Yield output from sequence `start` until the execution ends, each chunk once, over lost connections.

        Raises:
            GaveUp: The gateway was away for longer than `patience`; `resume` is the next sequence.
        """
        return self._iterate(self._gateway.watch(execution, start=start))

    def download(self, execution: str, what: Download, **query: str) -> Iterator[bytes]:
        """Yield the pieces of the output (NDJSON), the patch, the list of files, or the events of an execution."""
        return self._iterate(self._gateway.download(execution, what, **query))

    def cancel(self, execution: str, *, why: str | None = None) -> None:
        """Cancel an execution in any state. It is cancelled when `status` says so."""
        return self._run(self._gateway.cancel(execution, why=why))

    def rerun(self, execution: str, **options: Unpack[RunAgain]) -> str:
        """Run an ended execution again from its recording and return the new execution id."""
        return self._run(self._gateway.rerun(execution, **options))

    def delete(self, execution: str) -> None:
        """Cancel an execution if it runs, then remove every trace."""
        return self._run(self._gateway.delete(execution))

    def reply(self, execution: str, request_id: str, answer: str) -> None:
        """Answer a permission or question of the agent."""
        return self._run(self._gateway.reply(execution, request_id, answer))

    def create_session(self, **session: Unpack[CreateSession]) -> str:
        """Create a session and return its id; tasks join it with `session_id`."""
        return self._run(self._gateway.create_session(**session))

    def get_session(self, session: str) -> dict[str, Any]:
        """Return the record of a session."""
        return self._run(self._gateway.get_session(session))

    def list_sessions(self) -> list[dict[str, Any]]:
        """Return all sessions of the project, newest first."""
        return self._run(self._gateway.list_sessions())

    def attach_session(self, session: str, *, client_id: str | None = None) -> None:
        """Attach a client, which prevents expiry of the session."""
        return self._run(self._gateway.attach_session(session, client_id=client_id))

    def detach_session(self, session: str, *, client_id: str | None = None) -> None:
        """Detach a client; the session stays."""
        return self._run(self._gateway.detach_session(session, client_id=client_id))

    def destroy_session(self, session: str) -> None:
        """Cancel the executions of a session and remove all its data."""
        return self._run(self._gateway.destroy_session(session))

    def put_trigger(self, rule: Rule) -> None:
        """Store a rule, or replace the one of its name."""
        return self._run(self._gateway.put_trigger(rule))

    def list_triggers(self) -> list[dict[str, Any]]:
        """Return the rules of the project, each with its matches."""
        return self._run(self._gateway.list_triggers())

    def test_trigger(self, name: str, event: Mapping[str, Any]) -> Submits:
        """Return the submits that a rule would publish for a CloudEvent; nothing is published."""
        return self._run(self._gateway.test_trigger(name, event))

    def delete_trigger(self, name: str) -> None:
        """Remove a rule. Executions that it started go on."""
        return self._run(self._gateway.delete_trigger(name))
