"""Rules, events and hooks over HTTP: what is stored, what is refused, who may send."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent

from ocf.events import subjects
from ocf.events.sealing import Keyring, generate_key
from ocf.functions.gateway.settings import GatewaySettings
from tests.support.gateway import World, bearer, counted_alive
from tests.support.webhooks import example, github, signed

RULE = {
    "name": "fix",
    "on": {
        "type": "com.github.issues.labeled",
        "where": 'event.data.label.name == "bug"',
        "actors": {"permission": "any"},
    },
    "task": {
        "prompt": "Fix {{ event.data.issue.title }}",
        "workspace": {"source": "git", "url": "https://github.com/{{ event.data.repository.full_name }}.git"},
    },
}
EVENT = {"specversion": "1.0", "id": "7", "source": "/scanner", "type": "org.example.found", "data": {"title": "x"}}
ANY = {"name": "any", "on": {"type": "org.example.*"}, "task": {"prompt": "go"}}


def a_world(**deps: Any) -> World:
    return World(keyring=Keyring(generate_key()), **deps)


async def inbox(world: World, project: str = "default") -> list[tuple[str, Any]]:
    found = world.bus.history(subjects.INBOX, f"ocf.in.{project}.>")
    return [(message.subject, json.loads(message.data)) async for message in found]


async def test_a_rule_is_stored_replaced_listed_and_deleted() -> None:
    """201 for a new one, 200 for the next of its name."""
    world = a_world()
    assert (await world.client.post("/triggers", json=RULE)).status_code == 201
    assert (await world.client.post("/triggers", json=RULE | {"max_concurrent": 2})).status_code == 200
    (listed,) = (await world.client.get("/triggers")).json()["triggers"]
    assert (listed["name"], listed["max_concurrent"], listed["matched"]) == ("fix", 2, 0)
    assert listed["task"] == RULE["task"]
    assert (await world.client.get("/triggers/fix")).json() == listed
    assert (await world.client.delete("/triggers/fix")).status_code == 202
    assert (await world.client.delete("/triggers/fix")).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"on": {"type": "a", "where": "event.data.x.matches('a')"}}, "on.where"),
        ({"on": {}}, "on"),
        ({"reply": "comment"}, "reply"),
        ({"on": {"type": "a", "kind": "b"}}, "on.kind"),
        ({"task": {"prompt": "{% for x in event.data %}{% endfor %}"}}, "task.prompt"),
        ({"task": {"prompt": "x", "promt": "y"}}, "task.promt"),
        ({"task": {"prompt": "x", "limits": {"timeout_seconds": "ten"}}}, "task.limits.timeout_seconds"),
        ({"task": {"prompt": "x", "execution_id": "1"}}, "task.execution_id"),
        ({"task": {"prompt": "x", "network": {"allow": ["{{ event.data.host }}"]}}}, "task.network.allow.0"),
        ({"task": {}}, "task.prompt"),
        ({"name": "A b"}, "name"),
        ({"max_concurrent": 0}, "max_concurrent"),
    ],
)
async def test_a_wrong_rule_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    """Before it is stored."""
    world = a_world()
    answer = await world.client.post("/triggers", json=RULE | change)
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await world.client.get("/triggers")).json() == {"triggers": []}


async def test_the_secrets_of_a_rule_are_sealed() -> None:
    """Templates stay as they are."""
    world = a_world()
    workspace = {**RULE["task"]["workspace"], "token": "ghp_planted_token"}  # type: ignore[index]
    task = {"prompt": "{{ event.id }}", "workspace": workspace}
    assert (await world.client.post("/triggers", json=RULE | {"task": task})).status_code == 201
    stored = await world.triggers.get("rule.default.fix")
    assert stored is not None
    assert b"ghp_planted" not in stored.value
    kept = json.loads(stored.value)["task"]
    assert (kept["prompt"], kept["workspace"]["url"]) == (task["prompt"], workspace["url"])


async def test_a_test_shows_the_submits_and_publishes_nothing() -> None:
    """Or why the rule does not match."""
    world = a_world()
    await world.client.post("/triggers", json=ANY)
    shown = (await world.client.post("/triggers/any/test", json=EVENT)).json()
    assert [one["prompt"] for one in shown["submits"]] == ["go"]
    other = (await world.client.post("/triggers/any/test", json=EVENT | {"type": "a"})).json()
    assert other == {"submits": [], "mismatch": "type is a, not org.example.*"}
    assert await world.commands("submit") == []
    assert await inbox(world) == []


async def test_events_arrive_structured_binary_and_batched() -> None:
    """As the CloudEvents SDK sends them; the answer has the executions, the same for the same event."""
    world = a_world()
    await world.client.post("/triggers", json=ANY)
    event = CloudEvent({"type": "org.example.found", "source": "/scanner", "id": "7"}, {"title": "x"})
    answers = []
    for headers, body in (to_structured(event), to_binary(event)):
        answer = await world.client.post("/events", content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        answers.append(answer.json()["events"])
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    found = await world.client.post("/events", json=[EVENT, EVENT | {"id": "8", "type": "other"}], headers=batch)
    first, second = found.json()["events"]
    assert answers[0] == answers[1] == [first]
    assert (first["id"], first["source"], len(first["executions"]), second["executions"]) == ("7", "/scanner", 1, [])
    assert await inbox(world) == [("ocf.in.default.events", {"title": "x"})] * 4


async def test_a_batch_is_stored_whole_or_not_at_all() -> None:
    """An invalid event is named by its position."""
    world = a_world()
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    answer = await world.client.post("/events", json=[EVENT, {**EVENT, "id": ""}], headers=batch)
    assert (answer.status_code, answer.json()["detail"]) == (422, "1.id: missing; CloudEvents requires it")
    deep = json.loads("[" * 41 + "]" * 41)
    answer = await world.client.post("/events", json=[EVENT, EVENT | {"data": deep}], headers=batch)
    assert (answer.status_code, await inbox(world)) == (422, [])


async def test_events_of_another_project_need_its_token() -> None:
    """`POST /events?project_id=`, and rules too."""
    from pydantic import SecretStr

    from ocf.functions.gateway.settings import GatewaySettings
    from tests.support.gateway import SECRET

    world = World(GatewaySettings(jwt_secret=SecretStr(SECRET)))
    for path in ("/events?project_id=b", "/triggers/x/test?project_id=b"):
        assert (await world.client.post(path, json=EVENT, headers=bearer(["a"]))).status_code == 403
    assert (
        await world.client.post("/triggers", json=RULE | {"project_id": "b"}, headers=bearer(["a"]))
    ).status_code == 403
    assert (await world.client.post("/events", json=EVENT)).status_code == 401


async def test_the_latest_events_show_what_matched_and_why_not() -> None:
    """With the execution of each match, and whether it was started."""
    world = a_world()
    await world.client.post("/triggers", json=ANY)
    await world.client.post("/triggers", json=ANY | {"name": "other", "on": {"type": "org.other"}})
    await world.client.post(
        "/triggers", json=ANY | {"name": "wrong", "on": {"type": "org.*", "where": "event.data.title > 1"}}
    )
    answer = await world.client.post("/events", json=EVENT)
    (shown,) = (await world.client.get("/events")).json()["events"]
    assert (shown["id"], shown["type"]) == ("7", "org.example.found")
    matched, other, wrong = shown["rules"]
    assert matched == {
        "rule": "any", "mismatch": None, "execution_id": answer.json()["events"][0]["executions"][0], "started": False,
    }  # fmt: skip
    assert other == {"rule": "other", "mismatch": "type is org.example.found, not org.other"}
    assert "on.where" in wrong["problem"]


async def a_hook(world: World, kind: str = "github") -> dict[str, str]:
    made = await world.client.post("/hooks", json={"kind": kind})
    assert made.status_code == 201, made.text
    found: dict[str, str] = made.json()
    return found


async def test_a_signed_webhook_of_github_becomes_an_event() -> None:
    """A published payload, signed by GitHub's own library; a second delivery is the same event."""
    world = a_world()
    await world.client.post("/triggers", json=RULE)
    hook = await a_hook(world)
    assert hook["url"] == "http://localhost:3003/hooks/default/github"
    payload = example("issues", "labeled")
    headers, body = github("issues", payload, hook["secret"])
    first = await world.client.post("/hooks/default/github", content=body, headers=headers)
    assert first.status_code == 202, first.text
    (event,) = first.json()["events"]
    assert (event["source"], len(event["executions"])) == ("https://github.com/Codertocat/Hello-World", 1)
    again = await world.client.post(
        "/hooks/default/github", content=body, headers={**headers, "X-GitHub-Delivery": "another"}
    )
    assert again.json() == first.json()
    (message, _) = [one async for one in world.bus.history(subjects.INBOX, "ocf.in.default.github")]
    assert (message.headers["ce-type"], message.headers["ce-subject"]) == ("com.github.issues.labeled", "1")


async def test_a_webhook_that_is_not_signed_is_refused() -> None:
    """Wrong secret, changed body, no signature, another kind's path, no hook."""
    world = a_world()
    hook = await a_hook(world)
    headers, body = github("issues", example("issues", "labeled"), hook["secret"])
    refused = [
        (headers | {"X-Hub-Signature-256": signed(body, "other")}, body),
        (headers, body.replace(b"labeled", b"deleted")),
        ({name: value for name, value in headers.items() if "Signature" not in name}, body),
        (headers | {"X-Hub-Signature-256": ""}, body),
    ]
    for sent, content in refused:
        assert (await world.client.post("/hooks/default/github", content=content, headers=sent)).status_code == 401
    assert (await world.client.post("/hooks/default/gitea", content=body, headers=headers)).status_code == 404
    assert (await world.client.post("/hooks/other/github", content=body, headers=headers)).status_code == 404
    assert await inbox(world) == []


async def test_both_secrets_are_valid_for_a_day_after_a_rotation() -> None:
    """And then the new one only. A deleted hook accepts neither."""
    world = a_world()
    old = (await a_hook(world))["secret"]
    new = (await world.client.post("/hooks/default/github/rotate")).json()["secret"]
    body = b'{"action": "labeled"}'

    async def status(secret: str) -> int:
        headers = {"X-GitHub-Event": "issues", "X-Hub-Signature-256": signed(body, secret)}
        return (await world.client.post("/hooks/default/github", content=body, headers=headers)).status_code

    assert [await status(old), await status(new)] == [202, 202]
    world.clock.skip(86_401)
    assert [await status(old), await status(new)] == [401, 202]
    (listed,) = (await world.client.get("/hooks")).json()["hooks"]
    assert [sorted(one) for one in listed["secrets"]] == [["created_at", "expires_at"]] * 2
    assert (await world.client.delete("/hooks/default/github")).status_code == 202
    assert await status(new) == 404


async def test_secrets_of_hooks_are_sealed_and_not_shown_again() -> None:
    """A token of a URI is stored as its digest."""
    world = a_world()
    for kind in ("github", "gitlab", "gitea", "generic", "knative"):
        made = await a_hook(world, kind)
        secret = made["secret"] or made["url"].rpartition("=")[2]
        stored = await world.triggers.get(f"hook.default.{kind}")
        assert stored is not None
        assert secret.encode() not in stored.value
        assert secret not in (await world.client.get("/hooks")).text
        assert (await world.client.post("/hooks", json={"kind": kind})).status_code == 409


async def test_gitlab_and_gitea_are_known_by_their_own_headers() -> None:
    """GitLab's token, Gitea's signature."""
    world = a_world()
    await world.client.post("/triggers", json=ANY)
    token = (await a_hook(world, "gitlab"))["secret"]
    body = json.dumps(
        {
            "object_kind": "issue",
            "user": {"username": "ann"},
            "project": {"web_url": "https://gitlab.example/a/b"},
            "object_attributes": {"action": "open", "iid": 23},
        }
    ).encode()
    for given, status in ((token, 202), ("x", 401)):
        headers = {"X-Gitlab-Event": "Issue Hook", "X-Gitlab-Token": given}
        assert (await world.client.post("/hooks/default/gitlab", content=body, headers=headers)).status_code == status
    secret = (await a_hook(world, "gitea"))["secret"]
    body = b'{"action": "opened", "repository": {"html_url": "https://gitea.example/a/b"}, "issue": {"number": 4}}'
    headers = {"X-Gitea-Event": "issues", "X-Gitea-Signature": hmac.new(secret.encode(), body, "sha256").hexdigest()}
    assert (await world.client.post("/hooks/default/gitea", content=body, headers=headers)).status_code == 202
    stored = [one async for one in world.bus.history(subjects.INBOX, "ocf.in.default.>")]
    assert [(one.headers["ce-type"], one.headers["ce-subject"]) for one in stored] == [
        ("com.gitlab.issue.open", "23"),
        ("com.gitea.issues.opened", "4"),
    ]


async def test_a_standard_webhook_is_refused_once_its_time_is_over() -> None:
    """A replay five minutes later; a time that was changed is not signed."""
    world = a_world()
    secret = (await a_hook(world, "generic"))["secret"]
    key, body = base64.b64decode(secret.removeprefix("whsec_")), b'{"type": "build.failed"}'

    def sent(when: int) -> dict[str, str]:
        digest = hmac.digest(key, f"msg_1.{when}.".encode() + body, "sha256")
        signature = f"v1,bm90IHRoaXM= v1,{base64.b64encode(digest).decode()}"
        return {"webhook-id": "msg_1", "webhook-timestamp": str(when), "webhook-signature": signature}

    now = int(world.clock.now().timestamp())
    path = "/hooks/default/generic"
    answer = await world.client.post(path, content=body, headers=sent(now))
    assert answer.json()["events"] == [{"id": "msg_1", "source": path, "executions": []}]
    changed = sent(now) | {"webhook-timestamp": str(now + 1)}
    assert (await world.client.post(path, content=body, headers=changed)).status_code == 401
    world.clock.skip(301)
    assert (await world.client.post(path, content=body, headers=sent(now))).status_code == 401


async def test_a_knative_source_is_known_by_the_token_of_its_uri() -> None:
    """Only the project and source that the token was made for."""
    world = a_world()
    made = await world.client.post("/hooks", json={"kind": "knative", "source": "broker"})
    url = made.json()["url"].removeprefix("http://localhost:3003")
    headers = {"Content-Type": "application/cloudevents+json"}
    answer = await world.client.post(url, json=EVENT, headers=headers)
    # A Broker takes a body that is no CloudEvent for a failed delivery (502), and sends the event again.
    assert (answer.status_code, answer.content) == (202, b"")
    assert (await world.client.post(url + "x", json=EVENT, headers=headers)).status_code == 401
    assert (await world.client.post(url.split("?")[0], json=EVENT, headers=headers)).status_code == 401
    assert (await world.client.post(url.replace("default", "other"), json=EVENT, headers=headers)).status_code == 404
    assert [subject for subject, _ in await inbox(world)] == ["ocf.in.default.broker"]


@pytest.mark.parametrize("kind", ["github", "knative"])
async def test_a_webhook_that_is_too_large_is_refused_before_it_is_read(kind: str) -> None:
    """By its stated length, or once that much has come: whoever cannot sign makes nobody read on."""
    world = a_world()
    url = (await a_hook(world, kind))["url"].removeprefix("http://localhost:3003")
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(800):
            read += 1_000
            yield b"x" * 1_000

    stated = await world.client.post(url, content=b"x" * 800_000)
    chunked = await world.client.post(url, content=pieces(), headers={"X-Hub-Signature-256": "sha256=00"})
    assert (stated.status_code, chunked.status_code) == (413, 413)
    assert "768 KiB" in chunked.json()["detail"]
    assert world.gateway.unsigned_bodies.held == 0


async def test_unsigned_bodies_take_no_memory_from_callers_and_other_hooks() -> None:
    """A hook whose bodies do not end is full by itself; tasks and other hooks are served."""
    world = a_world(settings=GatewaySettings(hook_bodies=1_000, all_hook_bodies=2_000, all_bodies=500))
    await a_hook(world)
    await a_hook(world, "gitea")
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 800
        await go_on.wait()

    first = asyncio.ensure_future(world.client.post("/hooks/default/github", content=slowly()))
    while not world.gateway.unsigned_bodies.held:
        await asyncio.sleep(0)
    statuses = [
        (await world.client.post(path, content=b"x" * 300)).status_code
        for path in ("/hooks/default/github", "/hooks/default/gitea")
    ]
    assert statuses == [429, 401]
    assert (await world.client.post("/tasks/execute", json={"prompt": "y" * 300})).status_code == 202
    go_on.set()
    assert (await first).status_code == 401
    assert (world.gateway.unsigned_bodies.held, world.gateway.bodies.held) == (0, 0)


async def test_the_latest_events_are_held_one_at_a_time() -> None:
    """Each may have 768 KiB: of 60 the decisions of the latest 50 are kept, newest first, not the events."""
    world = a_world()
    for number in range(60):
        await world.client.post("/events", json=EVENT | {"id": str(number)})
    with counted_alive(world) as most:
        shown = (await world.client.get("/events")).json()["events"]
    assert [one["id"] for one in shown] == [str(number) for number in range(59, 9, -1)]
    assert 0 < most[0] <= 3


@pytest.mark.parametrize(
    ("limit", "path", "bodies"),
    [
        ("hooks.MAX_HOOKS", "/hooks", [{"kind": "knative", "source": name} for name in "ab"]),
        (
            "schedules.MAX_SCHEDULES",
            "/schedules",
            [{"name": name, "cron": "0 6 * * *", "task": {"prompt": "x"}} for name in "ab"],
        ),
        (
            "credentials.MAX_CREDENTIALS",
            "/credentials",
            [{"name": name, "forge": "github", "token": "ghp_12345678"} for name in "ab"],
        ),
    ],
)
async def test_a_project_has_no_more_than_so_many(
    monkeypatch: pytest.MonkeyPatch, limit: str, path: str, bodies: list[dict[str, Any]]
) -> None:
    """409 for a further hook, schedule or credential; one that is there may be replaced."""
    monkeypatch.setattr(f"ocf.functions.gateway.routes.{limit}", 1)
    world = a_world()
    assert (await world.client.post(path, json=bodies[0])).status_code == 201
    answer = await world.client.post(path, json=bodies[1])
    assert (answer.status_code, "delete one" in answer.json()["detail"]) == (409, True)
    if path != "/hooks":
        assert (await world.client.post(path, json=bodies[0])).status_code == 200
