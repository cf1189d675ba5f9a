"""Publishing of events of other systems: measured, stored on the project's subject, with the executions they start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ocf.events import subjects, trace_context, untrusted_json
from ocf.events.envelope import JSON, STRUCTURED, Event, decode
from ocf.events.errors import InvalidEvent
from ocf.functions.gateway.context import Gateway
from ocf.functions.rules.rulebook import RuleFailed, execution_id, view

BATCH = "application/cloudevents-batch+json"
MAX_BATCH = 100


def decoded(headers: Mapping[str, str], body: bytes) -> list[Event]:
    """Return the events of a request: structured, binary or batched (CloudEvents HTTP binding 1.0.2), or plain JSON.

    Raises:
        InvalidEvent: One is not a CloudEvent; names the attribute, and in a batch its position.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != BATCH:
        plain = media_type == JSON and "ce-specversion" not in headers
        return [decode({"content-type": STRUCTURED} if plain else headers, body)]
    events = untrusted_json.parse_json(body, untrusted_json.REQUEST, "batch")
    if not isinstance(events, list) or len(events) > MAX_BATCH:
        raise InvalidEvent(f"batch: must be a list of at most {MAX_BATCH} events")
    found = []
    for number, one in enumerate(events):
        try:
            found.append(decode({"content-type": STRUCTURED}, json.dumps(one).encode()))
        except InvalidEvent as error:
            raise InvalidEvent(f"{number}.{error}") from None
    return found


async def publish(gateway: Gateway, project: str, source: str, events: Sequence[Event]) -> dict[str, Any]:
    """Store events on `ocf.in.<project>.<source>`; return them with the executions that they start.

    An execution of the answer does not start if a guard of its rule holds the event back.

    Raises:
        InvalidEvent: A payload is larger or deeper than an event of another system may be.
    """
    views = [view(event) for event in events]  # every check before the first is stored
    rules = await gateway.rulebook.rules(project)
    answers = []
    for event, seen in zip(events, views, strict=True):
        event = event.with_extensions(**trace_context.active())
        await gateway.deps.bus.publish(subjects.inbox(project, source), event.data, event.headers())
        started = []
        for rule in rules:
            await seen.pause()
            try:
                if rule.mismatch(seen) is None:
                    started.append(execution_id(project, rule.rule.name, event))
            except RuleFailed:
                continue  # the trigger function writes the dead letter
        answers.append({"id": event.id, "source": event.source, "executions": started})
    return {"events": answers}
