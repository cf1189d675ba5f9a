"""Messages that cannot be read: each is settled at once, is somebody's answer, and stands in nobody's way."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ocf.events import dead_letters, subjects
from ocf.events.envelope import Event, decode, parse
from ocf.events.errors import InvalidEvent, Unavailable
from ocf.events.lifecycle import State
from ocf.events.ports import Message
from ocf.functions.dispatcher.delivery import Dispatcher
from ocf.functions.dispatcher.http_target import FunctionTarget
from ocf.functions.dispatcher.routes import ROUTES, Route
from tests.support.clock import ManualClock
from tests.support.handlers import submit
from tests.support.parts import PROJECT, Bench, bench
from tests.support.poison import STRUCTURED, WORDS, Poison, poisons

ROWS = {row.consumer: row for row in ROUTES}
SUBMIT = "dev.ocf.task.submit.v1"
KINDS = poisons(SUBMIT, {"execution_id": str(uuid.uuid4()), "project_id": PROJECT})

_texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["\ud83d", "a\udc00", "\x00", "\r\nx: y", "9" * 5_000, "application/x\r\n+json", "%ff", "\u202e"]),
)
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=8,
)
_names = st.one_of(
    st.sampled_from(
        ["id", "source", "type", "specversion", "subject", "time", "datacontenttype", "data", "data_base64"]
    ),
    _texts,
)


@pytest.mark.parametrize("poison", KINDS, ids=lambda poison: poison.name)
async def test_a_poison_message_is_an_invalid_event_that_quotes_nothing(poison: Poison) -> None:
    """It raises InvalidEvent with what is wrong; the reason holds nothing of the content."""
    with pytest.raises(InvalidEvent) as caught:
        Dispatcher(ROWS["submit"], _nobody(), bus=bench().bus, clock=ManualClock())._event(
            Message(subjects.command("submit", PROJECT, str(uuid.uuid4())), poison.data, poison.headers, 1)
        )
    assert poison.said in str(caught.value)
    assert WORDS not in str(caught.value)


@pytest.mark.parametrize("text", ["\\ud83d", "\\udc00x", "x\\uD83D\\ud83d", "\\\\\\ud83d"])
@pytest.mark.parametrize("field", ["prompt", "context.note", "labels.team"])
def test_half_a_surrogate_pair_names_its_field(text: str, field: str) -> None:
    """Text that was cut within a character is refused by the name of its field, in either mode."""
    name, _, inner = field.partition(".")
    data = {name: {inner: "@"} if inner else "@"}
    body = json.dumps(data).replace("@", text).encode()
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": SUBMIT}
    envelope = {"specversion": "1.0", "id": "1", "source": "/t", "type": SUBMIT, "data": 0}
    for given_headers, given_body in (
        (headers, body),
        (STRUCTURED, json.dumps(envelope).encode().replace(b'"data": 0', b'"data": ' + body)),
    ):
        with pytest.raises(InvalidEvent, match=f"^{field}: contains half a surrogate pair"):
            decode(given_headers, given_body)


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\\\\ud83d", "\U0001f600", "\\u00e4"])
def test_whole_characters_are_let_in(text: str) -> None:
    """A pair is one character; an escaped backslash begins no escape."""
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": SUBMIT}
    body = f'{{"prompt": "{text}"}}'.encode()
    assert decode(headers, body).data == body


@settings(max_examples=50)
@given(st.dictionaries(_names, _values, max_size=8), st.booleans())
def test_a_hostile_structured_event_is_an_event_or_invalid(members: dict[str, Any], whole: bool) -> None:
    """Whatever JSON comes: what is let in can be written again in every form, and parsed or refused by name."""
    known = {"specversion": "1.0", "id": "1", "source": "/t", "type": "dev.ocf.task.cancel.v1"}
    body = json.dumps({**members, **known} if whole else {**known, **members}).encode()
    _survives(lambda: decode(STRUCTURED, body))
    _survives(lambda: decode({}, body))


@settings(max_examples=50)
@given(st.dictionaries(_texts, _texts, max_size=6), _values, st.sampled_from(["utf-8", "utf-16", "latin-1", "utf-32"]))
def test_a_hostile_binary_event_is_an_event_or_invalid(headers: dict[str, str], data: object, encoding: str) -> None:
    """Whatever headers and data come, in whatever encoding."""
    known = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": "dev.ocf.task.cancel.v1"}
    body = json.dumps(data, ensure_ascii=True).encode(encoding)
    _survives(lambda: decode({**known, **{f"ce-{name}": value for name, value in headers.items()}}, body))
    _survives(lambda: decode({**headers, **known}, body))


def _survives(read: Callable[[], Event]) -> None:
    try:
        event = read()
    except InvalidEvent as error:
        str(error).encode()
        return
    again = decode(event.headers(), event.data)
    assert (again.id, again.time, again.extensions) == (event.id, event.time, event.extensions)
    for name, value in event.http_headers().items():
        f"{name}: {value}".encode("ascii")
    json.dumps(event.structured(), ensure_ascii=False).encode()
    try:
        parse(event)
    except InvalidEvent as error:
        str(error).encode()


def _nobody() -> FunctionTarget:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise AssertionError("no function may see it")

    return FunctionTarget(
        ROWS["submit"], "http://function/", None, httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    )


def _dispatcher(b: Bench, row: Route, target: Any = None) -> Dispatcher:
    return Dispatcher(row, target or _nobody(), bus=b.bus, clock=b.bus.clock, reject=b.deps.rejections.reject_message)


async def _settled(b: Bench, row: Route, target: Any = None) -> Dispatcher:
    """Dispatch whatever is due, until nothing is."""
    dispatcher = _dispatcher(b, row, target)
    while deliveries := await b.bus.fetch(row.spec(), 100, 0.01):
        for delivery in deliveries:
            await dispatcher.dispatch(delivery)
    return dispatcher


async def test_every_kind_of_poison_is_settled_at_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One delivery each: `rejected` with the errors, a record that says so, a dead letter without the content; nothing
    is repeated and no log holds what it said."""
    b = bench()
    ids: dict[str, Poison] = {}
    for poison in poisons(SUBMIT, {"execution_id": str(uuid.uuid4()), "project_id": PROJECT}):
        execution = str(uuid.uuid4())
        ids[execution] = poison
        await b.bus.publish(subjects.command("submit", PROJECT, execution), poison.data, poison.headers)
    await _settled(b, ROWS["submit"])
    for execution, poison in ids.items():
        assert await b.said(execution) == ["rejected"], poison.name
        record = await b.deps.records.require(PROJECT, execution)
        assert record.state is State.REJECTED
        assert record.errors, poison.name
        (letter,) = [m async for m in b.bus.history(subjects.DLQ, f"ocf.dlq.submit.{PROJECT}.{execution}")]
        assert letter.data == b""
        assert WORDS not in json.dumps(dict(letter.headers))
        assert dead_letters.read(letter).deliveries == 1
        fact = await b.fact(execution, "rejected")
        assert WORDS not in fact.data.decode()
        assert WORDS not in record.model_dump_json()
    assert (await b.bus.backlog(ROWS["submit"].spec())).unsettled == 0
    output = capsys.readouterr()
    assert "dispatch.dead_letter" in output.out + output.err
    assert WORDS not in output.out + output.err + caplog.text


async def test_poison_on_a_session_is_a_session_rejected() -> None:
    """Whoever waits for the session learns of it; no record of an execution is made."""
    b = bench()
    session = str(uuid.uuid4())
    await b.bus.publish(subjects.command("session", PROJECT, session), b"{", STRUCTURED)
    await _settled(b, ROWS["session"])
    fact = await b.fact(session, "rejected")
    assert fact.type == "dev.ocf.session.rejected.v1"
    assert await b.deps.records.get(PROJECT, session) is None


async def test_poison_on_a_cancel_or_about_nobody_is_only_a_dead_letter() -> None:
    """A cancel that cannot be read says nothing about its execution; a subject of odd tokens names nobody."""
    b = bench()
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    await b.bus.publish(subjects.command("cancel", PROJECT, execution), b"{", STRUCTURED)
    await b.bus.publish("ocf.cmd.submit.p.a.b", b"{", STRUCTURED)
    await b.bus.publish("ocf.cmd.submit.p\u00e4.x*", b"{", STRUCTURED)
    await _settled(b, ROWS["cancel"])
    await _settled(b, ROWS["submit"])
    assert await b.said(execution) == ["accepted"]
    assert (await b.deps.records.require(PROJECT, execution)).state is State.PENDING
    found = {m.subject async for m in b.bus.history(subjects.DLQ, dead_letters.ALL)}
    assert found == {f"ocf.dlq.cancel.{PROJECT}.{execution}", "ocf.dlq.submit._._", "ocf.dlq.submit.p%C3%A4.x%2A"}


async def test_poison_under_an_id_that_runs_changes_nothing_of_it() -> None:
    """It is said to be rejected; the run that has the id goes on."""
    b = bench()
    execution = str(uuid.uuid4())
    await submit(b.deps, b.submit(execution))
    await b.bus.publish(subjects.command("submit", PROJECT, execution), b"{", STRUCTURED)
    await _settled(b, ROWS["submit"])
    assert await b.said(execution) == ["accepted", "rejected"]
    assert (await b.deps.records.require(PROJECT, execution)).state is State.PENDING


async def test_poison_for_what_was_deleted_says_nothing() -> None:
    """`cleaned` stays the only trace of an execution."""
    b = bench()
    execution = str(uuid.uuid4())
    await b.bus.publish(subjects.fact(PROJECT, execution, "cleaned"), b"{}", {})
    await b.bus.publish(subjects.command("submit", PROJECT, execution), b"{", STRUCTURED)
    await _settled(b, ROWS["submit"])
    assert await b.said(execution) == ["cleaned"]
    assert await b.deps.records.get(PROJECT, execution) is None


class _Failing:
    """A target with an error of the dispatcher's own for one execution."""

    def __init__(self, victim: str, error: Exception) -> None:
        self.victim, self.error = victim, error
        self.seen: list[str] = []

    async def post(self, event: Event) -> Any:
        self.seen.append(event.subject or "")
        if event.subject == self.victim:
            raise self.error
        return _Done()


class _Done:
    status, too_early, busy, done, kind, retried, endpoint_gone = 200, False, False, True, "2xx", False, False
    reason = loggable_reason = ""


async def test_an_error_of_the_dispatcher_ends_with_its_message() -> None:
    """A few tries, then a dead letter without the content and `rejected`; the others are handled meanwhile."""
    clock = ManualClock()
    b = bench(clock)
    victim = b.submit(prompt=WORDS)
    others = [b.submit() for _ in range(3)]
    for event in (victim, *others):
        await b.bus.publish(subjects.command("submit", PROJECT, event.subject or ""), event.data, event.headers())
    target = _Failing(victim.subject or "", UnicodeEncodeError("utf-8", WORDS, 0, 1, "surrogates not allowed"))
    dispatcher = _dispatcher(b, ROWS["submit"], target)
    with capture_logs() as said:
        for _ in range(8):
            for delivery in await b.bus.fetch(ROWS["submit"].spec(), 100, 0.01):
                await dispatcher.dispatch(delivery)
            clock.skip(31)
    assert target.seen.count(victim.subject or "") == 5
    assert {event.subject for event in others} < set(target.seen)
    (letter,) = [m async for m in b.bus.history(subjects.DLQ, dead_letters.ALL)]
    assert (letter.data, dead_letters.read(letter).status) == (b"", 500)
    assert await b.said(victim.subject or "") == ["rejected"]
    assert [line["action"] for line in said] == ["dispatch.crashed"] * 5 + ["dispatch.dead_letter"]
    assert all(line["reason"] == "UnicodeEncodeError" for line in said[:5])


async def test_nats_away_is_no_error_of_the_message() -> None:
    """The dead letter cannot be written: the message stays unsettled and comes again, and is not counted."""
    b = bench()
    await b.bus.publish(subjects.command("submit", PROJECT, str(uuid.uuid4())), b"{", STRUCTURED)
    (delivery,) = await b.bus.fetch(ROWS["submit"].spec(), 1, 0.01)
    dispatcher = _dispatcher(b, ROWS["submit"])
    working = b.bus.publish

    async def away(*_: object, **__: object) -> int:
        raise Unavailable("NATS is away")

    b.bus.publish = away  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await dispatcher.dispatch(delivery)
    b.bus.publish = working  # type: ignore[method-assign]
    assert dispatcher._failed == {}
    await dispatcher.dispatch(delivery)
    assert len([m async for m in b.bus.history(subjects.DLQ, dead_letters.ALL)]) == 1


Answer = Callable[[httpx2.Request], Awaitable[httpx2.Response] | httpx2.Response]


@pytest.mark.parametrize("status", [422, 503])
async def test_a_submit_that_is_given_up_is_rejected(status: int) -> None:
    """Refused by the function for good, or never handled within its deliveries: `rejected`, recorded, and its dead
    letter keeps the event, because it was read."""
    clock = ManualClock()
    b = bench(clock)
    event = b.submit()
    execution = event.subject or ""
    await b.bus.publish(subjects.command("submit", PROJECT, execution), event.data, event.headers())
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(status, text="not today")))
    target = FunctionTarget(ROWS["submit"], "http://function/", None, http)
    dispatcher = _dispatcher(b, ROWS["submit"], target)
    for _ in range(ROWS["submit"].max_deliveries + 1):
        for delivery in await b.bus.fetch(ROWS["submit"].spec(), 100, 0.01):
            await dispatcher.dispatch(delivery)
        clock.skip(31)
    assert await b.said(execution) == ["rejected"]
    record = await b.deps.records.require(PROJECT, execution)
    assert record.state is State.REJECTED
    assert "not today" in record.errors[0].message
    (letter,) = [m async for m in b.bus.history(subjects.DLQ, dead_letters.ALL)]
    assert letter.data == event.data


async def test_a_submit_that_was_recorded_and_never_handed_on_is_rejected() -> None:
    """Accepted is not said, no worker has it: its record ends as rejected instead of being pending for ever."""
    clock = ManualClock()
    b = bench(clock)
    event = b.submit()
    execution = event.subject or ""
    await submit(b.deps, event)
    await b.bus.purge(subjects.COMMANDS, subjects.command("execute", PROJECT, execution))  # as if it had died before
    message = Message(subjects.command("submit", PROJECT, execution), event.data, event.headers(), 7)
    await b.deps.rejections.reject_message(message, event, [])
    assert (await b.deps.records.require(PROJECT, execution)).state is State.REJECTED
