"""A backend in any language: CloudEvents published with nats-py alone, nothing of `events/` in between.

What it needs to know is in schemas/dev.ocf.task.submit.v1.json and docs/reference/events.md.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import nats
import pytest

from tests.support.stack import Stack

TYPE = "dev.ocf.task.submit.v1"
SOURCE = "/billing/backend"


def structured(id: str, data: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The whole event as JSON (CloudEvents NATS binding, 3.2)."""
    event = {"specversion": "1.0", "type": TYPE, "source": SOURCE, "id": id, "data": data}
    return json.dumps(event).encode(), {"Content-Type": "application/cloudevents+json"}


def binary(id: str, data: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Attributes as headers, the data as the message (CloudEvents NATS binding, 3.1)."""
    attributes = {"ce-specversion": "1.0", "ce-type": TYPE, "ce-source": SOURCE, "ce-id": id}
    return json.dumps(data).encode(), {**attributes, "Content-Type": "application/json"}


@pytest.mark.parametrize("mode", [structured, binary])
async def test_an_event_of_any_cloudevents_sdk_runs_to_completed(stack: Stack, mode: Any) -> None:
    """Published to its subject with nats-py, structured or binary, it is accepted, started and completed; the facts
    come back as events whose `ce-` headers name their type, and the output carries a gapless sequence."""
    execution, project = str(uuid.uuid4()), "plain"
    nc = await nats.connect(stack.answer["nats"], user_credentials=stack.answer["nats_creds"])
    try:
        facts = await nc.subscribe(f"ocf.evt.{project}.{execution}.*")
        output = await nc.subscribe(f"ocf.out.{project}.{execution}")
        body, headers = mode(f"order-{execution}", {
            "execution_id": execution, "project_id": project, "prompt": "say hello", "labels": {"team": "billing"},
        })  # fmt: skip
        await nc.publish(f"ocf.cmd.submit.{project}.{execution}", body, headers=headers)
        seen = {}
        async with asyncio.timeout(30):
            while "dev.ocf.task.archived.v1" not in seen:
                message = await facts.next_msg(timeout=30)
                assert message.headers is not None
                assert message.headers["ce-specversion"] == "1.0"
                seen[message.headers["ce-type"]] = json.loads(message.data)
        assert seen["dev.ocf.task.accepted.v1"]["labels"] == {"team": "billing"}
        assert seen["dev.ocf.task.completed.v1"]["result"] == "Done: hello.txt is written."
        assert "dev.ocf.task.started.v1" in seen
        sequences = []
        while output.pending_msgs:
            said = await output.next_msg()
            assert said.headers is not None
            sequences.append(int(said.headers["ce-sequence"]))
        assert sequences == list(range(1, seen["dev.ocf.task.completed.v1"]["last_sequence"] + 1))
    finally:
        await nc.drain()
