"""The OpenAPI document and the gateway say the same: schemathesis calls every operation with what the document allows,
and with what it does not.

Bounded: a few examples per operation besides the systematic ones, from a fixed seed.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ocf.events.lifecycle import State
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.gateway.routes import sessions
from tests.support.gateway_server import serving
from tests.support.nats import NatsServer

pytestmark = pytest.mark.slow

CONFIG = {
    "seed": 1,
    "generation": {"max-examples": 3},
    "phases": {"stateful": {"enabled": False}},
}


@schemathesis.serializer("application/x-tar")
def serialized(_: schemathesis.SerializationContext, value: object) -> object:
    """Return the bytes of a bundle, which the document calls binary."""
    return value if isinstance(value, bytes) else str(value).encode()


schema = schemathesis.openapi.from_path(
    str(Path(__file__).parents[2] / "schemas/openapi.json"), config=SchemathesisConfig.from_dict(CONFIG)
)


@pytest.fixture(scope="module")
def gateway_url(nats_server: NatsServer) -> Iterator[str]:
    """A gateway in a thread of its own: schemathesis waits for its answers. No function makes sessions here."""
    patience = pytest.MonkeyPatch()
    patience.setattr(sessions, "CREATE_SECONDS", 0.05)
    ready, stop = threading.Event(), asyncio.Event()
    found: list[str] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving(nats_server, keyring=Keyring(generate_key())) as served:
            execution = str(uuid.UUID(int=0))
            await served.record(execution)
            await served.say(execution, 1, 3)
            await served.record(execution, state=State.COMPLETED, last_sequence=3)
            found.append(served.url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20), "the gateway did not start"
        yield found[0]
    finally:
        patience.undo()
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@schema.parametrize()
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_the_gateway_does_what_its_document_says(case: schemathesis.Case, gateway_url: str) -> None:
    """No 5xx, no undocumented status, media type or shape; what the document forbids is refused, the rest taken."""
    # The document cannot say which strings are a cursor, which bytes are an image, nor that two branches differ.
    ruled = case.method == "POST" and case.path.startswith(_RULED)
    given = "cursor" in (case.query or {}) or _has_opaque_fields(case.body) or ruled
    opaque = [positive_data_acceptance] if given else []
    case.call_and_validate(base_url=gateway_url, excluded_checks=opaque)


def test_a_server_error_would_be_seen() -> None:
    """The check that the suite stands on is among those that run."""
    assert not_a_server_error in schemathesis.checks.CHECKS.get_all()


#: Calls whose bodies have rules that JSON Schema cannot state: archives, CEL, templates, cron, CloudEvents, signatures.
_RULED = ("/bundles", "/triggers", "/schedules", "/events", "/hooks", "/credentials")


def _has_opaque_fields(body: object) -> bool:
    return isinstance(body, dict) and bool(body.get("attachments") or body.get("result"))
