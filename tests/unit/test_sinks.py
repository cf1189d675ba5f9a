"""Life-cycle events to the outside: who is told, how it is signed, and what becomes of an event nobody takes."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable
from urllib.parse import unquote

import httpx2
import pytest
from structlog.testing import capture_logs

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBus
from ocf.events.envelope import decode, new_event
from ocf.events.fact_payloads import Accepted
from ocf.functions.dispatcher import sink_routes as wired
from ocf.functions.dispatcher.consumer import ConsumerLoop
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.delivery_result import SinkResult
from ocf.functions.dispatcher.http_target import Webhook, retry_after, sign
from ocf.functions.dispatcher.main import selected_routes
from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.settings.event_sinks import SINK_PAUSES, Sink, check, keys, sinks
from ocf.functions.settings.settings import Settings
from tests.support.clock import ManualClock

KEY = bytes(range(24))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
(ROW,) = wired.routes(sinks("acme=https://hooks.example.com/a"), 3)
Answer = Callable[[httpx2.Request], httpx2.Response]


def test_a_table_says_who_is_told_what() -> None:
    """A project or every one, all facts or some, a URL or Knative's; the name is the project's unless given."""
    found = sinks("acme=https://a.example/x?y=1, audit:*/ended+cleaned=http://b.svc/, *")
    assert found == (
        Sink("acme", "acme", (), "https://a.example/x?y=1"),
        Sink("audit", "*", ("completed", "failed", "cancelled", "timed_out", "rejected", "cleaned"), "http://b.svc/"),
        Sink("all", "*"),
    )
    assert found[0].subjects == ("ocf.evt.acme.*.*",)
    assert found[1].subjects[0] == "ocf.evt.*.*.completed"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("Acme=https://user:hidden@x/", "'Acme' is not the beginning of"),
        ("acme=ftp://hidden/", "'acme' is not the beginning of"),
        ("acme/finished=https://x/", "'finished' is not one of ended, accepted, rejected"),
        ("acme=https://x/,acme=https://y/", "two sinks are called 'acme'"),
        ("a.>=https://x/", "is not the beginning of"),
    ],
)
def test_a_malformed_row_is_named_without_its_url(table: str, said: str) -> None:
    """A URL may hold a password."""
    with pytest.raises(ValueError, match=said.replace(".", r"\.")) as caught:
        sinks(table)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("text", ["acme", "acme=whsec_%%", "acme=AAAA", "acme=whsec_QUJD", f"acme={SECRET}{'A' * 200}"])
def test_a_malformed_key_is_named_without_its_value(text: str) -> None:
    """Too short, too long, not base64, no prefix."""
    with pytest.raises(ValueError, match=r"acme|row") as caught:
        keys(text)
    assert text.partition("=")[2] not in str(caught.value) or "=" not in text


def test_a_sink_outside_must_be_signed_and_one_of_knatives_need_not() -> None:
    """A receiver on the network cannot tell our events from anybody's without; a Broker drops our headers."""
    with pytest.raises(ValueError, match="EVENT_SINK_SECRETS: no secret for the sink 'acme'"):
        check(sinks("acme=https://x/"), {}, None)
    with pytest.raises(ValueError, match="EVENT_SINKS: 'all' has no URL, and K_SINK is not set"):
        check(sinks("*"), {}, None)
    check(sinks("*, acme=https://x/"), keys(f"acme={SECRET}"), "http://broker-ingress/")


def test_a_process_serves_the_rows_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """All by default; `sinks`, or one of them; a sink that this process does not serve needs no key here."""
    told = {"EVENT_SINKS": "acme=https://x/,audit:*=https://y/", "EVENT_SINK_SECRETS": f"acme={SECRET},audit={SECRET}"}
    assert [row.consumer for row in selected_routes(Settings(**told))][-3:] == ["history", "sink-acme", "sink-audit"]
    assert len(selected_routes(Settings(**told))) == len(ROUTES) + 2
    assert [row.consumer for row in selected_routes(Settings(**told, DISPATCH_CONSUMERS="sinks"))] == [
        "sink-acme",
        "sink-audit",
    ]
    unsigned = {"EVENT_SINKS": told["EVENT_SINKS"], "EVENT_SINK_SECRETS": f"acme={SECRET}"}
    assert len(selected_routes(Settings(**unsigned, DISPATCH_CONSUMERS="submit,sink-acme"))) == 2
    for wrong in ("sinks", "sink-other"):
        with pytest.raises(SystemExit):
            selected_routes(Settings(**unsigned, DISPATCH_CONSUMERS=wrong))
    assert "no secret for the sink 'audit'" in capsys.readouterr().err


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The vector of the specification's own libraries; two keys give two signatures."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    said = sign((key, KEY), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}').split()
    assert said[0] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert len(said) == 2


async def said(text: str):
    """A body as it comes from the network."""
    yield text.encode()


class World:
    """One sink, its receiver, and a fact."""

    def __init__(self, answer: Answer, *keyed: bytes) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock)
        self.seen: list[httpx2.Request] = []

        def receive(request: httpx2.Request) -> httpx2.Response:
            self.seen.append(request)
            return answer(request)

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(receive), follow_redirects=True)
        target = Webhook(ROW, "https://hooks.example.com/a", keyed, clock=self.clock, http=http)
        self.dispatcher = Dispatcher(ROW, target, bus=self.bus, clock=self.clock)

    async def said(self) -> str:
        """A fact of the sink's project; returns its subject."""
        await self.bus.fetch(ROW.spec(), 1, 0.01)
        execution = str(uuid.uuid4())
        data = Accepted(execution_id=execution, project_id="acme", labels={"ü": "."})
        event = new_event(
            "dev.ocf.task.accepted.v1", data, source="/ocf/submit", time=self.clock.now(), id_="a.b"
        ).with_extensions(sequence="1")
        subject = subjects.fact("acme", execution, "accepted")
        await self.bus.publish(subject, event.data, event.headers())
        return subject

    async def delivered(self) -> None:
        """Deliver what is due."""
        for delivery in await self.bus.fetch(ROW.spec(), 10, 0.01):
            await self.dispatcher.dispatch(delivery)

    async def dead(self) -> list:
        return [message async for message in self.bus.history(subjects.DLQ, "ocf.dlq.>")]


async def test_with_a_key_the_whole_event_is_what_is_signed() -> None:
    """Structured mode, type and all in the body; the id has no dot; nothing of ours is told beside it."""
    world = World(lambda _: httpx2.Response(204), KEY)
    await world.said()
    await world.delivered()
    (request,) = world.seen
    head = request.headers
    assert (head["webhook-id"], head["content-type"]) == ("a%2Eb", "application/cloudevents+json")
    assert sign((KEY,), "a%2Eb", head["webhook-timestamp"], request.content) == head["webhook-signature"]
    assert int(head["webhook-timestamp"]) == int(world.clock.now().timestamp())
    event = json.loads(request.content)
    assert (event["id"], event["type"], event["sequence"]) == ("a.b", "dev.ocf.task.accepted.v1", "1")
    assert event["data"]["labels"] == {"ü": "."}
    assert not [name for name in event if name.startswith("nats")]
    assert "ocf-dispatch-token" not in head


async def test_without_a_key_the_event_is_binary() -> None:
    """As any CloudEvents receiver takes it, a Knative Broker first of all."""
    world = World(lambda _: httpx2.Response(202))
    await world.said()
    await world.delivered()
    event = decode(world.seen[0].headers, world.seen[0].content)
    assert (event.id, event.extensions["sequence"]) == ("a.b", "1")
    assert "natssubject" not in event.extensions
    assert "webhook-signature" not in world.seen[0].headers


@pytest.mark.parametrize("status", [301, 400, 401, 404, 422, 429, 500, 503])
async def test_failed_answer_is_retried_then_becomes_a_dead_letter(status: int) -> None:
    """Somebody over there may mend it. The dead letter has the event, the reason and the fact's own subject."""
    there = {"location": "https://elsewhere.example.com/", "retry-after": "1"}
    world = World(lambda _: httpx2.Response(status, content=said("not now"), headers=there), KEY)
    subject = await world.said()
    for tries in range(1, 4):
        assert await world.dead() == []
        await world.delivered()
        assert len(world.seen) == tries
        await world.clock.advance(SINK_PAUSES[tries - 1] * 1.2)
    (letter,) = await world.dead()
    assert {request.url.host for request in world.seen} == {"hooks.example.com"}
    assert len({request.headers["webhook-id"] for request in world.seen}) == 1
    assert letter.headers["Ocf-Dlq-Subject"] == subject
    assert ("redirects" if status == 301 else "not now") in unquote(letter.headers["Ocf-Dlq-Reason"])
    await world.delivered()
    assert len(world.seen) == 3


async def test_answer_of_a_sink_is_in_the_dead_letter_and_in_no_log() -> None:
    """A receiver that repeats what it was sent would put the agent's answer there; so would a redirect's query."""
    echo = "the words of the agent"
    for status, there in ((500, {}), (410, {}), (302, {"location": f"https://x.example/login?from={echo}#{echo}"})):

        def answer(_: httpx2.Request, status: int = status, there: dict[str, str] = there) -> httpx2.Response:
            return httpx2.Response(status, content=said(echo), headers=there)

        world = World(answer, KEY)
        await world.said()
        with capture_logs() as lines:
            for tries in range(3):
                await world.delivered()
                await world.clock.advance(SINK_PAUSES[tries] * 1.2)
        assert lines
        assert echo not in str(lines)
        assert status == 410 or {line["status"] for line in lines} == {status}
        reasons = [unquote(letter.headers["Ocf-Dlq-Reason"]) for letter in await world.dead()]
        redirect = "redirects to https://x.example/login; redirects are not followed"
        assert reasons == {500: [echo], 410: [], 302: [redirect]}[status]


async def test_transport_error_of_a_sink_is_logged_by_its_kind() -> None:
    """An error's words may have those of the other side in them."""

    def away(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.RemoteProtocolError("illegal status line: the words of the agent")

    world = World(away, KEY)
    await world.said()
    with capture_logs() as lines:
        await world.delivered()
    assert [line["reason"] for line in lines] == ["RemoteProtocolError"]


async def test_no_answer_is_tried_again() -> None:
    """Refused, reset, a name that is none."""

    def away(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    world = World(away, KEY)
    await world.said()
    await world.delivered()
    await world.clock.advance(2)
    (again,) = await world.bus.fetch(ROW.spec(), 1, 0.01)
    assert again.message.deliveries == 2


async def test_a_receiver_that_is_gone_is_asked_no_more_and_nothing_is_lost() -> None:
    """410: the loop ends (Standard Webhooks); the event is there for whoever starts the dispatcher again."""
    world = World(lambda _: httpx2.Response(410, content=said("no")), KEY)
    await world.said()
    await world.delivered()
    assert world.dispatcher.closed
    loop = ConsumerLoop(ROW, world.dispatcher, world.bus, world.clock)
    await asyncio.wait_for(loop.run(), 5)
    assert len(world.seen) == 1
    assert await world.dead() == []
    await world.clock.advance(2)
    assert len(await world.bus.fetch(ROW.spec(), 1, 0.01)) == 1


async def test_an_answer_without_end_is_read_as_far_as_it_is_kept() -> None:
    """A receiver must not fill the dispatcher's memory."""
    given = 0

    async def endless():
        nonlocal given
        while True:
            given += 1
            yield b"x" * 1000

    world = World(lambda _: httpx2.Response(500, content=endless(), headers={"content-encoding": "gzip"}), KEY)
    await world.said()
    await world.delivered()
    assert given <= 3


async def test_a_fact_said_again_is_for_one_sink() -> None:
    """Redriven from the dead letters, it comes to that sink with the same id, and to no other consumer."""
    world = World(lambda _: httpx2.Response(204), KEY)
    subject = await world.said()
    message = await world.bus.last(subjects.EVENTS, subject)
    assert message is not None
    await world.bus.publish(subjects.redelivery_subject(subject, "sink-acme"), message.data, message.headers)
    await world.bus.publish(subjects.redelivery_subject(subject, "sink-other"), message.data, message.headers)
    await world.delivered()
    assert [request.headers["webhook-id"] for request in world.seen] == ["a%2Eb"] * 2
    assert subjects.base_subject(subjects.redelivery_subject(subject, "sink-acme")) == subject
    execution = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
    for mine in (subjects.command("submit", "again", execution), subjects.fact("again", execution, "completed")):
        assert subjects.base_subject(mine) == mine, "a project may be called `again`"
        assert subjects.base_subject(subjects.redelivery_subject(mine, "archive")) == mine or ".cmd." in mine


def test_pauses_grow_to_a_day_and_heed_the_receiver() -> None:
    """Two days in all; a tenth of spread; `Retry-After` when it is longer; functions may ask for half a minute."""
    answer = SinkResult(500, "", 0.0, "id")
    pauses = [answer.pause(failures) for failures in range(1, 14)]
    assert all(0.9 * plan <= pause <= 1.1 * plan for plan, pause in zip(SINK_PAUSES, pauses, strict=False))
    assert pauses[11] == pytest.approx(pauses[12], rel=0.25)
    assert SinkResult(503, "", 7_200.0, "id").pause(1) == 7_200
    assert retry_after({"retry-after": "999999"}, 30.0) == 30
    assert retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 86_400.0, 0.0) == 0
    assert retry_after({}, 30.0) == 1
