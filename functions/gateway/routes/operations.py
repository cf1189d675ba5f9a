"""Routes for operators: health, readiness, metrics, dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.responses import Response

from ocf.events import dead_letters as letters
from ocf.events import subjects
from ocf.events.errors import InvalidEvent
from ocf.events.ports import Message
from ocf.functions.gateway import response_schemas
from ocf.functions.gateway.auth import Principal
from ocf.functions.gateway.context import Caller, Gateway, Gw, timed
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.request_body import StrictRoute
from ocf.functions.observability.metrics import came_through_a_proxy, exposition

router = APIRouter(tags=["operations"], route_class=StrictRoute)


@router.get("/health", response_model=response_schemas.Health)
async def health(gateway: Gw) -> response_schemas.Health:
    """Report that the process answers. Nothing else is checked: a restart does not repair a dependency."""
    return response_schemas.Health(open=not gateway.settings.authenticated, instance=gateway.settings.instance)


@router.get("/ready", response_model=response_schemas.Readiness, responses={503: {"model": response_schemas.Readiness}})
async def ready(gateway: Gw) -> Response:
    """Report whether calls can be served now, with each check by name; 503 when one fails."""
    checks: dict[str, Awaitable[object]] = {
        "nats": gateway.deps.bus.ready(),
        "s3": gateway.deps.store.ready(),
        "executions": gateway.deps.executions.get("ready"),
        "history": gateway.listing.ready(),
    }
    results = await asyncio.gather(*(timed(check) for check in checks.values()))
    view = response_schemas.Readiness(
        # Without its database the gateway serves everything but lists, so this does not take it out of service.
        ready=all(ok for name, (ok, _, _) in zip(checks, results, strict=True) if name != "history"),
        offline_model=gateway.settings.offline_model,
        checks={
            name: response_schemas.Check(ok=ok, detail=detail, ms=ms)
            for name, (ok, detail, ms) in zip(checks, results, strict=True)
        },
    )
    return Response(
        view.model_dump_json(), 200 if view.ready else 503, {"Cache-Control": "no-store"}, "application/json"
    )


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(request: Request, gateway: Gw) -> Response:
    """Return the metrics of the gateway and of the functions in the same process, in Prometheus' text format.

    They are for whoever reaches the process itself: 404 for a request that came through a proxy, as the public route.
    """
    if came_through_a_proxy(request.headers):
        raise Problem(404, "not-found", "metrics are served to direct requests only, not through a proxy")
    text = generate_latest(gateway.metrics.registry) + exposition()
    return Response(text, 200, {"Content-Type": CONTENT_TYPE_LATEST})


#: A stream sequence, in JetStream's range.
Sequence = Annotated[int, Path(ge=1, le=2**63 - 1)]


class DeadLetter(response_schemas.View):
    """An event that could not be handled: the reason, and the event itself."""

    seq: int
    consumer: str
    subject: str
    project_id: str | None
    reason: str
    status: int | None = None
    deliveries: int
    failed_at: str
    type: str | None = None
    event_id: str | None = None
    data: str | None = None
    size: Annotated[int, Field(description="bytes of the event's data, if it was not stored")] | None = None
    sha256: Annotated[str, Field(description="SHA-256 of that data, in hex")] | None = None


class DeadLetters(response_schemas.View):
    """One page, oldest first. `next` is the `after` of the next page."""

    items: list[DeadLetter]
    next: int | None = None


@router.get("/dlq", response_model=DeadLetters, response_model_exclude_none=True)
async def dead_letters(
    gateway: Gw,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="sequence of the last dead letter of the previous page")
    ] = 0,
) -> DeadLetters:
    """List the events of the caller's projects that could not be handled."""
    wanted = [letters.ALL] if caller.projects is None else map(letters.of_project, sorted(caller.projects))
    # By project: those of others are not even read.
    found = [letter for subject in wanted for letter in await _first(gateway, caller, subject, after, limit + 1)]
    found.sort(key=lambda letter: letter.seq)
    return DeadLetters(items=found[:limit], next=found[limit - 1].seq if len(found) > limit else None)


async def _first(gateway: Gateway, caller: Principal, subject: str, after: int, limit: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    async for message in gateway.deps.bus.history(subjects.DLQ, subject, after=after):
        letter = _letter(message)
        if _may(caller, letter):
            found.append(letter)
        if len(found) == limit:
            break
    return found


@router.get("/dlq/{seq}", response_model=DeadLetter)
async def dead_letter(gateway: Gw, caller: Caller, seq: Sequence) -> DeadLetter:
    """Return one dead letter with the event's data."""
    message = await _message(gateway, caller, seq)
    letter = _letter(message)
    return letter if letter.sha256 else letter.model_copy(update={"data": message.data.decode("utf-8", "replace")})


@router.post("/dlq/{seq}/redrive", status_code=202, response_model=DeadLetter)
async def redrive(gateway: Gw, caller: Caller, seq: Sequence) -> DeadLetter:
    """Publish the event again on its original subject, byte for byte, then drop the dead letter.

    A life-cycle event that one consumer (a sink, or archive) failed to handle goes to that consumer alone.
    """
    message = await _message(gateway, caller, seq)
    letter = _letter(message)
    if not letter.subject.startswith("ocf."):
        raise Problem(409, "no-subject", "it does not name its original subject")
    if letter.sha256 is not None:
        raise Problem(
            409, "no-data", "it could not be read, and its data was not stored: publish a correct event instead"
        )
    # Without its message id: the stream would take it for a duplicate of the first try.
    headers = letters.event_headers(message)
    fact = letter.subject.startswith("ocf.evt.")
    subject = subjects.redelivery_subject(letter.subject, letter.consumer) if fact else letter.subject
    await gateway.deps.bus.publish(subject, message.data, headers)
    await gateway.deps.bus.remove(subjects.DLQ, seq)
    return letter


@router.delete("/dlq/{seq}", status_code=204, response_class=Response)
async def drop(gateway: Gw, caller: Caller, seq: Sequence) -> Response:
    """Drop a dead letter for good."""
    await _message(gateway, caller, seq)
    await gateway.deps.bus.remove(subjects.DLQ, seq)
    return Response(status_code=204)


async def _message(gateway: Gateway, caller: Principal, seq: int) -> Message:
    async for message in gateway.deps.bus.history(subjects.DLQ, letters.ALL, after=seq - 1):
        if message.sequence == seq and _may(caller, _letter(message)):
            return message
        break
    raise Problem(404, "unknown-dead-letter", f"no dead letter {seq}")


def _letter(message: Message) -> DeadLetter:
    letter = letters.read(message)
    headers = {name.lower(): value for name, value in message.headers.items()}
    return DeadLetter(
        seq=message.sequence,
        consumer=letter.consumer,
        subject=letter.subject,
        project_id=_project(letter.subject),
        reason=letter.reason,
        status=letter.status or None,
        deliveries=letter.deliveries,
        failed_at=letter.failed_at,
        type=headers.get("ce-type"),
        event_id=headers.get("ce-id"),
        size=letter.size,
        sha256=letter.sha256,
    )


def _project(subject: str) -> str | None:
    try:
        return subjects.parse(subject).project
    except InvalidEvent:
        return None


def _may(caller: Principal, letter: DeadLetter) -> bool:
    # A dead letter without a project is the operator's.
    return caller.projects is None if letter.project_id is None else caller.may(letter.project_id)
