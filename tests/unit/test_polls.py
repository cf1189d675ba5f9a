"""Polls of forges: the events of webhooks, once each, none for old items, and no forge that stops another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from ocf.events import subjects
from ocf.events.adapters.memory_bus import MemoryBucket
from ocf.events.envelope import Event, decode
from ocf.events.errors import Drop
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.forges import http
from ocf.functions.forges.credentials import Credential, ForgeCredentials
from ocf.functions.rules import poll_schedule
from ocf.functions.rules.forge_cloudevents import actor_of, comment_of, forge_event, place_of
from ocf.functions.rules.rule import Rule
from ocf.functions.rules.rulebook import view
from ocf.functions.trigger import polls
from tests.support.clock import ManualClock
from tests.support.handlers import trigger
from tests.support.parts import PROJECT, Bench, bench
from tests.support.webhooks import example
from tests.unit.test_forges import forge, reply

START = datetime(2026, 1, 1, tzinfo=UTC)


def stamp(minutes: float) -> str:
    """A time of the forge, whose clock is five minutes ahead of ours."""
    return (START + timedelta(minutes=5 + minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Hub:
    """GitHub's API in memory: issues, comments, label events; with ETags, and faults on demand."""

    def __init__(self) -> None:
        self.issues: list[dict[str, Any]] = []
        self.comments: list[dict[str, Any]] = []
        self.events: dict[int, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        self.fault: httpx2.Response | Exception | None = None

    def open(self, number: int, minutes: float, **more: Any) -> None:
        about = {"id": 9_000 + number, "number": number, "title": f"issue {number}", "user": {"login": "ann"}}
        self.issues.append({**about, "created_at": stamp(minutes), "updated_at": stamp(minutes), **more})

    def label(self, number: int, name: str, minutes: float, who: str = "ann") -> None:
        entry = {"event": "labeled", "actor": {"login": who}, "label": {"name": name}, "created_at": stamp(minutes)}
        self.events.setdefault(number, []).append(entry)
        next(one for one in self.issues if one["number"] == number)["updated_at"] = stamp(minutes)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.asked.append(path)
        if isinstance(self.fault, Exception):
            raise self.fault
        if self.fault is not None:
            return self.fault
        if path.endswith("/events"):
            return reply(200, self.events.get(int(path.split("/")[-2]), []))
        if path.rpartition("/")[2] not in ("issues", "comments"):
            number = path.rpartition("/")[2]
            page = {"full_name": "team/app", "html_url": "https://github.com/team/app", "clone_url": "https://x/y.git"}
            return reply(200, self.issues[0] if number.isdecimal() else page)
        found = self.comments if path.endswith("comments") else self.issues
        found = [one for one in found if one["updated_at"] >= request.url.params["since"]]
        items = sorted(found, key=lambda one: str(one["updated_at"]), reverse=True)
        etag = f'"{hash(json.dumps(items))}"'
        if request.headers.get("if-none-match") == etag:
            return reply(304)
        size = int(request.url.params["per_page"])
        first = (int(request.url.params["page"]) - 1) * size
        return reply(200, items[first : first + size], {"etag": etag})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    client = lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(made.handle))  # noqa: E731
    monkeypatch.setattr(polls, "forge_client", client)
    return made


POLL = {"forge": "github", "repository": "team/app", "what": "issues", "credential": "bot"}


async def polling_bench(*rules: str, **poll: Any) -> Bench:
    """Parts with rules that poll."""
    clock = ManualClock()
    keyring = Keyring(generate_key())
    credentials = ForgeCredentials(MemoryBucket(clock), clock, keyring)
    sealed = keyring.seal("token-1", PROJECT)
    given = {"name": "bot", "project_id": PROJECT, "forge": "github", "created_at": clock.now()}
    await credentials.put(Credential.model_validate({**given, "token": sealed}))
    b = bench(clock).having(credentials=credentials)
    for name in rules or ("fix",):
        fields = {"name": name, "on": {"type": "com.github.*", "actors": {"permission": "any"}}}
        rule = Rule.model_validate({**fields, "poll": {**POLL, **poll}, "task": {"prompt": "go"}})
        await b.deps.rulebook.put(rule, PROJECT)
    return b


async def tick(b: Bench, name: str = "fix", skip: float = 60) -> None:
    """A tick as the dispatcher delivers it."""
    if isinstance(b.deps.clock, ManualClock):
        b.deps.clock.skip(skip)
    marks = {"natssubject": subjects.poll(PROJECT, name)}
    await trigger(b.deps, Event(poll_schedule.POLL, "/x", name, b.deps.clock.now(), b"{}", extensions=marks))


async def inbox(b: Bench) -> list[Event]:
    """The events that polls published."""
    return [decode(one.headers, one.data) async for one in b.bus.history(subjects.INBOX, f"ocf.in.{PROJECT}.github")]


async def problem(b: Bench, name: str = "fix") -> str:
    state = await poll_schedule.read_state(b.deps.triggers, PROJECT, name)
    assert state is not None
    return state.problem


async def test_old_items_start_nothing_and_each_new_one_is_one_event(hub: Hub) -> None:
    """Also what changed in the minute before the first poll, and what a poll reads twice."""
    hub.open(1, -300)
    hub.label(1, "agent", -299)
    hub.open(2, -1)
    hub.label(2, "agent", -0.5)
    b = await polling_bench()
    await tick(b)
    await tick(b)
    assert await inbox(b) == []
    hub.open(3, 2)
    hub.label(3, "agent", 2.1)
    hub.label(1, "agent", 2.2)
    for _ in range(3):
        await tick(b)
    hub.issues[-1]["updated_at"] = stamp(2.5)  # a comment: the same issue is listed again
    await tick(b)
    found = await inbox(b)
    assert sorted((one.type, one.subject) for one in found) == [
        ("com.github.issues.labeled", "1"),
        ("com.github.issues.labeled", "3"),
        ("com.github.issues.opened", "3"),
    ]
    assert len({one.id for one in found}) == 3


async def test_an_unchanged_list_costs_one_call(hub: Hub) -> None:
    """Its ETag is sent, and 304 ends the poll."""
    hub.open(1, -300)
    b = await polling_bench()
    await tick(b)
    await tick(b)
    hub.asked.clear()
    await tick(b)
    assert hub.asked == ["/repos/team/app/issues"]


@pytest.mark.parametrize(
    ("name", "action", "what"),
    [
        ("issues", "opened", "issues"),
        ("issues", "labeled", "issues"),
        ("issue_comment", "created", "comments"),
    ],
)
async def test_a_poll_and_a_webhook_are_one_event(hub: Hub, name: str, action: str, what: str) -> None:
    """Type, source, subject and id are those of GitHub's published payload about the same change."""
    payload = example(name, action)
    webhook = forge_event("github", name, payload, json.dumps(payload).encode(), START)
    b = await polling_bench(what=what)
    await tick(b)
    item = payload["comment" if what == "comments" else "issue"]
    kept = payload["issue"] if action == "labeled" else item
    hub.issues, hub.comments = [payload["issue"]], [payload["comment"]] if what == "comments" else []
    if action == "labeled":
        when = kept["updated_at"]
        entry = {"event": "labeled", "actor": payload["sender"], "label": payload["label"], "created_at": when}
        hub.events = {kept["number"]: [entry]}
    state = await poll_schedule.read_state(b.deps.triggers, PROJECT, "fix")
    assert state is not None
    earlier = state.model_copy(update={"since": datetime(2015, 1, 1, tzinfo=UTC)})
    entry_ = await b.deps.triggers.get(poll_schedule.state_key(PROJECT, "fix"))
    assert entry_ is not None
    await b.deps.triggers.update(entry_.key, earlier.model_dump_json().encode(), entry_.revision)
    real, hub_page = payload["repository"], hub.handle

    def with_repository(request: httpx2.Request) -> httpx2.Response:
        return reply(200, real) if request.url.path == "/repos/team/app" else hub_page(request)

    hub.handle = with_repository  # type: ignore[method-assign]
    await tick(b)
    assert await problem(b) == ""
    same = [one for one in await inbox(b) if one.type == webhook.type]
    assert [(one.id, one.source, one.subject) for one in same] == [(webhook.id, webhook.source, webhook.subject)]


async def test_a_burst_is_read_in_portions_without_loss(hub: Hub) -> None:
    """Sixty issues within a second: no poll takes them all, none is left out, none doubled."""
    b = await polling_bench()
    await tick(b)
    for number in range(1, 61):
        hub.open(number, 1)
    for _ in range(4):
        await tick(b)
    found = await inbox(b)
    assert sorted(int(one.subject or 0) for one in found) == list(range(1, 61))


def slowly(hub: Hub, monkeypatch: pytest.MonkeyPatch, wait: Callable[[str], float], limit: float) -> None:
    """Make each call last as long as `wait` says of its path; a poll has `limit` seconds."""
    monkeypatch.setattr(polls, "_SECONDS", limit)

    async def handle(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(wait(request.url.path))
        return hub.handle(request)

    client = lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(handle))  # noqa: E731
    monkeypatch.setattr(polls, "forge_client", client)


async def test_a_slow_forge_is_read_as_far_as_the_time_allows(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next poll goes on there: nothing is lost, nothing doubled, and in the order of the changes."""
    b = await polling_bench()
    await tick(b)
    for number in range(1, 31):
        hub.open(number, number / 60)
    slowly(hub, monkeypatch, lambda _: 0.02, 0.4)
    counts = [0]
    while counts[-1] < 30 and len(counts) < 60:
        await tick(b)
        counts.append(len(await inbox(b)))
    assert counts[-1] == 30
    await tick(b)
    assert [one.subject for one in await inbox(b)] == [str(number) for number in range(1, 31)]
    assert await problem(b) == ""


async def test_a_slow_forge_starts_nothing_for_old_items(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first poll that needs more than its time goes on as the first one."""
    b = await polling_bench()
    for number in range(1, 31):
        hub.open(number, number / 60)
    slowly(hub, monkeypatch, lambda _: 0.02, 0.4)
    positions: list[datetime | None] = [None]
    while positions[-1] is None and len(positions) < 30:
        await tick(b)
        state = await poll_schedule.read_state(b.deps.triggers, PROJECT, "fix")
        assert state is not None
        positions.append(state.since)
    assert positions[-1] is not None
    assert len(positions) > 2
    hub.label(1, "agent", 0.6)
    for _ in range(3):
        await tick(b)
    assert [(one.type, one.subject) for one in await inbox(b)] == [("com.github.issues.labeled", "1")]


@pytest.mark.parametrize("away", [False, True], ids=["too slow", "no answer"])
async def test_an_item_that_needs_all_the_time_stops_no_other(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """It is tried in two polls, as the forge may be slow for once; then it is left out, and a problem."""
    b = await polling_bench()
    await tick(b)
    for number in range(1, 4):
        hub.open(number, number / 60)
    if away:
        monkeypatch.setattr(http, "_SECONDS", 0.5)
    slowly(hub, monkeypatch, lambda path: 5 if path.endswith("/2/events") else 0, 0.8)
    problems = []
    for _ in range(4):
        await tick(b)
        problems.append(await problem(b))
    assert [one.subject for one in await inbox(b)] == ["1", "3"]
    assert sum("an item was left out" in one for one in problems) == 1
    assert sum("did not answer" in one and "left out" not in one for one in problems) >= 1
    assert problems[-1] == ""


async def test_a_forge_that_fails_fast_loses_no_item(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failures may end, so they leave nothing out."""
    b = await polling_bench()
    await tick(b)
    hub.open(1, 1)
    healthy = hub.handle

    def failing(request: httpx2.Request) -> httpx2.Response:
        return reply(502, {}) if request.url.path.endswith("/events") else healthy(request)

    monkeypatch.setattr(hub, "handle", failing)
    slowly(hub, monkeypatch, lambda _: 0, 5)
    for _ in range(4):
        await tick(b)
    assert "502" in await problem(b)
    monkeypatch.setattr(hub, "handle", healthy)
    await tick(b)
    assert [one.subject for one in await inbox(b)] == ["1"]


async def test_a_rate_limit_is_waited_for(hub: Hub) -> None:
    """By every rule with that credential, until the time that the forge names by its own clock."""
    b = await polling_bench("fix", "other")
    now = START + timedelta(hours=3)
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(now.timestamp()) + 600)}
    hub.fault = reply(403, {"message": "rate limit"}, {**headers, "date": format_datetime(now, usegmt=True)})
    await tick(b)
    hub.fault = None
    await tick(b)
    await tick(b, "other")
    assert len(hub.asked) == 1
    assert "rate limit" in await problem(b)
    await tick(b, skip=700)
    assert await problem(b) == ""


@pytest.mark.parametrize(
    "fault",
    [
        httpx2.ConnectTimeout("too slow"),
        reply(404, {"message": "Not Found"}),
        reply(200, [{"id": 1, "updated_at": "yesterday"}]),
    ],
    ids=["away", "refused", "strange time"],
)
async def test_a_failing_forge_is_a_problem_of_its_rule_only(hub: Hub, fault: httpx2.Response | Exception) -> None:
    """The tick is done, the reason stands in the rule's state, and what was missed is read later."""
    b = await polling_bench()
    await tick(b)
    hub.open(1, 1)
    hub.fault = fault
    await tick(b)
    assert await problem(b)
    hub.fault = None
    await tick(b)
    assert await problem(b) == ""
    assert [one.subject for one in await inbox(b)] == ["1"]


@pytest.mark.parametrize(("many", "size"), [(40, 2_048), (1, 72_000)], ids=["large", "one giant"])
async def test_large_items_of_others_hide_no_item(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, many: int, size: int
) -> None:
    """A page over the limit of an answer is read in smaller ones; an item over it is left out, and a problem."""
    monkeypatch.setattr(http, "ANSWER", replace(http.ANSWER, bytes=64 * 1024))
    b = await polling_bench()
    await tick(b)
    for number in range(2, 32):
        hub.open(number, 1)
    hub.open(1, 1)
    for number in range(100, 100 + many):
        hub.open(number, 1, body="x" * size)
    problems = set()
    for _ in range(5):
        await tick(b)
        problems.add(await problem(b))
    found = {int(one.subject or 0) for one in await inbox(b)}
    assert set(range(1, 32)) <= found
    assert len(found) == (71 if many == 40 else 31)
    assert any("too large" in one for one in problems) is (many == 1)


async def test_an_item_that_cannot_be_read_stops_no_other(hub: Hub) -> None:
    """A label of a user who was deleted is nobody's; an item in another form is left out, and a problem."""
    b = await polling_bench()
    await tick(b)
    hub.open(1, 1)
    hub.events[1] = [{"event": "labeled", "actor": None, "label": {"name": "a"}, "created_at": stamp(1)}]
    await tick(b)
    assert await problem(b) == ""
    hub.open(2, 2)
    hub.events[2] = [{"event": "labeled", "created_at": stamp(2)}]
    hub.open(3, 2)
    await tick(b)
    assert "an item was left out: the answer is not one of github: KeyError" in await problem(b)
    found = sorted((one.type.rpartition(".")[2], one.subject) for one in await inbox(b))
    assert found == [("labeled", "1"), ("opened", "1"), ("opened", "3")]


async def test_a_crash_before_the_state_is_stored_repeats_the_same_events(hub: Hub) -> None:
    """A rule starts one execution for them."""
    b = await polling_bench()
    await tick(b)
    hub.open(1, 1)
    before = await b.deps.triggers.get(poll_schedule.state_key(PROJECT, "fix"))
    await tick(b)
    after = await b.deps.triggers.get(poll_schedule.state_key(PROJECT, "fix"))
    assert before is not None
    assert after is not None
    await b.deps.triggers.update(after.key, before.value, after.revision)
    await tick(b)
    assert len({one.id for one in await inbox(b)}) == 1


async def test_another_repository_is_read_from_now_on(hub: Hub) -> None:
    """A rule that is applied again with the same settings goes on where it was."""
    b = await polling_bench()
    await tick(b)
    hub.open(1, 1)
    fields = {"name": "fix", "on": {"type": "com.github.*"}, "task": {"prompt": "go"}}
    again = Rule.model_validate({**fields, "poll": {**POLL, "every": "10s"}})
    await b.deps.rulebook.put(again, PROJECT)
    await tick(b)
    assert len(await inbox(b)) == 1
    hub.open(2, 2)
    other = again.model_copy(update={"poll": again.poll and again.poll.model_copy(update={"repository": "team/other"})})
    await b.deps.rulebook.put(other, PROJECT)
    await tick(b)
    assert len(await inbox(b)) == 1


async def test_the_schedule_of_a_deleted_rule_removes_itself(hub: Hub) -> None:
    """At its next tick, if the deletion itself was cut off."""
    b = await polling_bench()
    (compiled,) = await b.deps.rulebook.rules(PROJECT)
    await poll_schedule.arm(b.bus, compiled.rule, PROJECT, START)
    schedule = subjects.timetable(PROJECT, "poll_fix")
    assert await b.bus.last(subjects.INBOX, schedule) is not None
    await b.deps.rulebook.delete(PROJECT, "fix")
    with pytest.raises(Drop):
        await tick(b)
    assert await b.bus.last(subjects.INBOX, schedule) is None
    assert hub.asked == []


async def test_two_projects_that_poll_one_repository_both_get_its_events(hub: Hub) -> None:
    """An id of an event says nothing about whose inbox it is in."""
    b = await polling_bench()
    (compiled,) = await b.deps.rulebook.rules(PROJECT)
    await b.deps.rulebook.put(compiled.rule, "other")
    keyring = Keyring(generate_key())
    credentials = ForgeCredentials(MemoryBucket(b.deps.clock), b.deps.clock, keyring)
    for project in (PROJECT, "other"):
        given = {"name": "bot", "project_id": project, "forge": "github", "created_at": b.deps.clock.now()}
        await credentials.put(Credential.model_validate({**given, "token": keyring.seal("token-1", project)}))
    b = b.having(credentials=credentials)
    for minutes in (0.0, 1.0):
        if minutes:
            hub.open(1, minutes)
        for project in (PROJECT, "other"):
            marks = {"natssubject": subjects.poll(project, "fix")}
            await trigger(b.deps, Event(poll_schedule.POLL, "/x", "fix", START, b"{}", extensions=marks))
    assert await b.bus.last(subjects.INBOX, f"ocf.in.{PROJECT}.github") is not None
    assert await b.bus.last(subjects.INBOX, "ocf.in.other.github") is not None


GITLAB = {
    "id": 5,
    "name": "app",
    "web_url": "https://gitlab.com/team/app",
    "path_with_namespace": "team/app",
    "default_branch": "main",
    "http_url_to_repo": "https://gitlab.com/team/app.git",
}


def gitlab(request: httpx2.Request) -> httpx2.Response:
    """GitLab's API with one issue, its label event, and one comment on it, all of now."""
    new = {"created_at": "2026-03-01T10:00:00.000Z"}
    author, path = {"username": "ann"}, request.url.raw_path.decode().partition("?")[0]
    issue = {"id": 77, "iid": 3, "title": "It fails", "labels": ["agent"], "author": author, **new}
    issue |= {"web_url": "https://gitlab.com/team/app/-/issues/3", "updated_at": "2026-03-01T10:00:05.000Z"}
    if path.endswith("resource_label_events"):
        labelled = {"id": 1, "user": {"username": "bob"}, "action": "add", "label": {"name": "agent"}, **new}
        return reply(200, [labelled, {**labelled, "action": "remove"}])
    if path.endswith("/events"):
        note = {"id": 9, "body": "again", "noteable_type": "Issue", "noteable_iid": 3, "system": False}
        return reply(200, [{"id": 1, "author": author, "note": note, **new}])
    if path.endswith("/issues"):
        return reply(200, [issue])
    return reply(200, issue if path.endswith("/issues/3") else GITLAB)


async def test_gitlab_is_polled_in_the_form_of_its_webhooks() -> None:
    """Types, users, place and comment are what rules read of a webhook; a removed label is no change."""
    client = forge(gitlab, "gitlab")
    seen = []
    for what in ("issues", "comments"):
        listing = await client.listing("team/app", what, START)
        for change in await client.changes("team/app", what, listing.items, START):
            event = forge_event("gitlab", change.name, change.payload, json.dumps(change.payload).encode(), START)
            about = view(event)
            actor, place = actor_of(about), place_of(about)
            assert actor is not None
            assert place is not None
            assert (actor.url, place.repository, place.number) == (GITLAB["http_url_to_repo"], "team/app", 3)
            seen.append((event.type, event.source, actor.login, comment_of(about)))
    source = GITLAB["web_url"]
    assert seen == [
        ("com.gitlab.issue.open", source, "ann", None),
        ("com.gitlab.issue.update", source, "bob", None),
        ("com.gitlab.note.create", source, "ann", "again"),
    ]
