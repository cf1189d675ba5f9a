"""Gateway context shared by all calls: dependencies, authentication of the caller, look-up of executions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Header, Query
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.requests import HTTPConnection

from ocf.events import envelope, subjects, trace_context
from ocf.events.base_model import ExecutionId, Model, ProjectId
from ocf.events.command_payloads import MAX_COMMAND_BYTES, TaskRequest
from ocf.events.command_publisher import publish_command
from ocf.events.dataref import offload
from ocf.events.errors import OcfError, Unavailable
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.untrusted_json import KIB, MIB
from ocf.functions.core.evicted_executions import EndedExecutions
from ocf.functions.gateway.auth import Authenticator, Principal
from ocf.functions.gateway.execution_listing import Listing, unrecorded
from ocf.functions.gateway.gateway_deps import GatewayDeps
from ocf.functions.gateway.metrics import Metrics
from ocf.functions.gateway.problems import Problem, not_found
from ocf.functions.gateway.rate_limit import Bodies, RateLimit
from ocf.functions.rules.rulebook import RuleBook

SOURCE = "/ocf/gateway"


class Gateway:
    """One gateway: its dependencies and its state in memory."""

    def __init__(self, deps: GatewayDeps) -> None:
        self.deps = deps
        self.settings = deps.settings
        self.auth = Authenticator(deps.settings, deps.clock)
        self.limit = RateLimit(deps.settings.rate_limit, deps.settings.burst, deps.clock)
        self.bodies = Bodies(deps.settings.caller_bodies, deps.settings.all_bodies)
        #: Bodies whose signature is not checked yet take no memory from authenticated callers.
        self.unsigned_bodies = Bodies(deps.settings.hook_bodies, deps.settings.all_hook_bodies)
        #: Executions that ended longer ago.
        self.ended = EndedExecutions(deps.executions, deps.store)
        self.listing = Listing(deps.history, deps.executions, deps.bus, deps.clock)
        self.rulebook = RuleBook(deps.triggers)
        self.metrics = Metrics(CollectorRegistry())

    async def admit(self, authorization: str | None, address: str) -> Principal:
        """Return the caller, if it may call now.

        Raises:
            Problem: 401 for its token, 429 for its number of calls.
        """
        try:
            caller = await self.auth.principal(authorization)
        except Problem:
            # Guessing tokens is limited by address, so that it does not use up a caller's own allowance.
            self.limit.take(f"refused:{address}")
            raise
        self.limit.take(f"caller:{caller.allowance}" if self.settings.authenticated else f"address:{address}")
        return caller

    async def publish(
        self, type_: str, data: Model, traceparent: str | None, *, only_first: bool = False, **extensions: str
    ) -> str:
        """Publish a command; return its event's id once the bus stores it. Large ones go through the object store.

        Raises:
            Problem: 413, larger than a command may be.
            Conflict: `only_first`, and its subject has a message already.
            Unavailable: not stored.
        """
        event = envelope.new_event(type_, data, source=SOURCE, time=self.deps.clock.now())
        caused = traceparent if traceparent is not None and _is_trace(traceparent) else new_trace()
        # With tracing, the call's own span is the cause; it continues the caller's trace.
        event = event.with_extensions(**(trace_context.active() or {"traceparent": caused}), **extensions)
        if len(event.data) > MAX_COMMAND_BYTES:
            raise too_large(MAX_COMMAND_BYTES)
        project, entity = str(getattr(data, "project_id", "")), event.subject or ""
        event = await offload(event, f"{project}/{entity}", self.deps.store)
        await publish_command(self.deps.bus, event, project, only_first=only_first)
        return event.id

    async def submit(
        self, task: TaskRequest, ref: ExecutionRef, trace: str | None, *, only_first: bool = False, **extensions: str
    ) -> None:
        """Publish the submit of an execution, and count and list it. Raises as `publish` does."""
        await self.publish("dev.ocf.task.submit.v1", task, trace, only_first=only_first, **extensions)
        self.metrics.submitted.inc()
        await self.listing.submitted(ref)

    async def record(self, project: str, execution: str) -> Record | None:
        """Return the current record; None when there is none."""
        entry = await self.deps.executions.get(ExecutionRef(project, execution).record_key)
        if entry is None:
            return None
        try:
            return Record.read(entry.value)
        except ValidationError as error:
            raise OcfError(f"the record of {execution} cannot be read: {error.error_count()} errors") from None

    async def removed(self, project: str, execution: str) -> bool:
        """Return whether the execution was deleted."""
        return await self.deps.bus.last(subjects.EVENTS, subjects.fact(project, execution, "cleaned")) is not None

    async def find(self, caller: Principal, execution: str, asked: str | None) -> ExecutionHandle:
        """Return the execution, in the requested project or in the caller's only project that has it.

        Raises:
            Problem: 404 unknown, 403 not the caller's project, 409 several projects have it.
        """
        if asked is not None:
            return await self._found(caller.check(asked), execution)
        if caller.only_project is not None:
            return await self._found(caller.only_project, execution)
        known = await self._projects_of(execution, caller)
        if not known:
            raise not_found(execution)
        if len(known) > 1:
            raise Problem(409, "ambiguous", f"several projects have it; say which: ?project_id={known[0]}")
        return await self._found(known[0], execution)

    async def _projects_of(self, execution: str, caller: Principal) -> list[str]:
        """Return the caller's projects that have the execution: from the history, else from NATS.

        Raises:
            Unavailable: The database does not answer, and the execution may be one that has left NATS.
        """
        away: Unavailable | None = None
        found: set[str] = set()
        try:
            found = set(await self.deps.history.projects_of(execution))
        except Unavailable as error:
            away = error
        if not found:
            wanted = f"ocf.cmd.submit.*.{execution}"
            submits = [message.subject async for message in self.deps.bus.history(subjects.COMMANDS, wanted)]
            found = {subject.split(".")[3] for subject in submits}
        if away is not None and not found:
            # Reads the keys of all records, which the database saves.
            found = {entry.key.split(".")[0] async for entry in self.deps.executions.entries(f"*.{execution}")}
            if not found:
                raise away
        return sorted(project for project in found if caller.may(project))

    async def _found(self, project: str, execution: str) -> ExecutionHandle:
        record = await self.record(project, execution)
        if record is not None:
            return ExecutionHandle(project, execution, record)
        if await self.removed(project, execution):
            raise not_found(execution)
        # Its submit may be on the bus and not recorded yet.
        submit = await self.deps.bus.last(subjects.COMMANDS, subjects.command("submit", project, execution))
        if submit is not None:
            return ExecutionHandle(project, execution, None, _event_time(submit.headers) or self.deps.clock.now())
        ref = ExecutionRef(project, execution)
        # One whose archive has expired is only in the history.
        record = await self.ended.record(ref) or await self.deps.history.record(ref)
        if record is None:
            raise not_found(execution)
        return ExecutionHandle(project, execution, record)


@dataclass(frozen=True)
class ExecutionHandle:
    """An existing execution. `record` is None until the submit function has recorded it."""

    project: str
    execution: str
    record: Record | None
    submitted_at: datetime | None = None

    @property
    def state(self) -> State:
        """Return its state; pending while it has no record."""
        return self.record.state if self.record is not None else State.PENDING

    @property
    def ended(self) -> bool:
        """Return whether it has ended."""
        return self.record is not None and self.record.terminal

    @property
    def prefix(self) -> str:
        """Return the prefix of its objects."""
        return f"{self.project}/{self.execution}"

    def known(self, timeout: int) -> Record:
        """Return the record, or its expected form before it exists."""
        if self.record is not None:
            return self.record
        ref = ExecutionRef(self.project, self.execution)
        return unrecorded(ref, self.submitted_at or datetime.now(UTC), timeout)


def too_large(limit: int) -> Problem:
    """Return a 413 problem with the limit."""
    size = f"{limit // MIB} MiB" if limit >= MIB else f"{limit // KIB} KiB"
    return Problem(413, "too-large", f"at most {limit} bytes ({size}) are accepted")


def new_trace() -> str:
    """Return a new W3C `traceparent`."""
    return f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"


def _is_trace(value: str) -> bool:
    return 55 <= len(value) <= 128 and value.isascii() and value.isprintable()


def _event_time(headers: Mapping[str, str]) -> datetime | None:
    try:
        return datetime.fromisoformat(headers["ce-time"])
    except (KeyError, ValueError):
        return None  # a structured event has its time in the body; the current time is close enough


async def gateway_of(connection: HTTPConnection) -> Gateway:
    """Return the gateway that serves a call."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def caller_of(connection: HTTPConnection, gateway: Annotated[Gateway, Depends(gateway_of)]) -> Principal:
    """Return the caller, to whom the body of the call is charged. Raises as `Gateway.admit`."""
    address = connection.client.host if connection.client else "unknown"
    caller = await gateway.admit(connection.headers.get("authorization"), address)
    connection.state.allowance = caller.allowance if gateway.settings.authenticated else address
    return caller


async def _project(
    project_id: Annotated[
        ProjectId | None, Query(description="whose execution; needed only when the token gives several projects")
    ] = None,
) -> str | None:
    return project_id


async def _found(
    execution_id: ExecutionId,
    gateway: Annotated[Gateway, Depends(gateway_of)],
    caller: Annotated[Principal, Depends(caller_of)],
    project_id: Annotated[str | None, Depends(_project)],
) -> ExecutionHandle:
    return await gateway.find(caller, execution_id, project_id)


async def _trace(traceparent: Annotated[str | None, Header(include_in_schema=False)] = None) -> str | None:
    return traceparent


Gw = Annotated[Gateway, Depends(gateway_of)]
Caller = Annotated[Principal, Depends(caller_of)]
Execution = Annotated[ExecutionHandle, Depends(_found)]
AskedProject = Annotated[str | None, Depends(_project)]
Trace = Annotated[str | None, Depends(_trace)]


async def timed(check: Awaitable[object], seconds: float = 2.0) -> tuple[bool, str, float]:
    """Await one readiness check; return whether it passed, its error, and its milliseconds."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            await check
        result = (True, "")
    except TimeoutError:
        result = (False, f"no answer within {seconds:g} s")
    except OcfError as error:
        result = (False, str(error))
    return (*result, (time.perf_counter() - started) * 1000)
