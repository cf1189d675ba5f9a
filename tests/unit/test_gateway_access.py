"""Who may call: tokens, projects, hosts, origins, rates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from ocf.events.execution_ref import ExecutionRef, SessionRef
from ocf.events.lifecycle import Reason, State
from ocf.events.session_record import Session
from ocf.functions.core.address_rules import is_loopback
from ocf.functions.gateway.app import create_app
from ocf.functions.gateway.auth import Authenticator
from ocf.functions.gateway.execution_listing import encode_cursor
from ocf.functions.gateway.problems import Problem
from ocf.functions.gateway.settings import GatewaySettings, UnsafeBind, check_bind
from tests.support.clock import ManualClock
from tests.support.gateway import ID, OTHER, SECRET, World, bearer, token

LOCKED = GatewaySettings(jwt_secret=SecretStr(SECRET), jwt_issuer="me", jwt_audience="ocf")
GOOD: dict[str, Any] = {"iss": "me", "aud": "ocf"}

CALLS = [
    ("GET", "/models"),
    ("POST", "/tasks/execute"),
    ("GET", "/tasks"),
    ("GET", f"/tasks/{ID}/status"),
    ("POST", f"/tasks/{ID}/cancel"),
    ("DELETE", f"/tasks/{ID}"),
    ("GET", f"/tasks/{ID}/output"),
    ("GET", f"/tasks/{ID}/diff"),
    ("GET", f"/tasks/{ID}/files"),
    ("GET", f"/tasks/{ID}/events"),
    ("GET", f"/tasks/{ID}/compare/{ID}"),
    ("POST", f"/tasks/{ID}/rerun"),
    ("GET", f"/tasks/{ID}/bundle"),
    ("POST", "/bundles"),
    ("POST", f"/tasks/{ID}/token"),
    ("POST", f"/tasks/{ID}/replies/r"),
    ("POST", f"/tasks/{ID}/result"),
    ("POST", "/sessions"),
    ("GET", "/sessions"),
    ("GET", f"/sessions/{ID}"),
    ("POST", f"/sessions/{ID}/attach"),
    ("POST", f"/sessions/{ID}/detach"),
    ("DELETE", f"/sessions/{ID}"),
    ("POST", "/credentials"),
    ("GET", "/credentials"),
    ("DELETE", "/credentials/bot"),
    ("GET", "/events"),
    ("POST", "/events"),
    ("POST", "/hooks"),
    ("GET", "/hooks"),
    ("POST", "/hooks/p/github/rotate"),
    ("DELETE", "/hooks/p/github"),
    ("POST", "/triggers"),
    ("GET", "/triggers"),
    ("GET", "/triggers/bot"),
    ("DELETE", "/triggers/bot"),
    ("POST", "/triggers/bot/test"),
    ("POST", "/schedules"),
    ("GET", "/schedules"),
    ("GET", "/schedules/bot"),
    ("DELETE", "/schedules/bot"),
    ("POST", "/schedules/bot/pause"),
    ("POST", "/schedules/bot/resume"),
    ("GET", "/usage"),
    ("GET", "/dlq"),
    ("GET", "/dlq/1"),
    ("POST", "/dlq/1/redrive"),
    ("DELETE", "/dlq/1"),
]


async def test_every_call_of_the_document_is_in_the_list_above() -> None:
    """A new call cannot be forgotten by the two tests below."""
    document = (await World().client.get("/openapi.json")).json()
    said = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    names = {"execution_id": ID, "other": ID, "session_id": ID, "seq": "1", "request_id": "r", "name": "bot"}
    names |= {"project": "p", "source": "github", "kind": "github"}
    open_calls = {("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics")}
    # A signature or a token of their own.
    open_calls |= {("POST", "/hooks/p/github"), ("POST", "/events/p/github")}
    assert {(method, path.format(**names)) for method, path in said} - open_calls == set(CALLS)


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_no_call_without_a_token(method: str, path: str) -> None:
    """401 with the challenge, before anything is looked at."""
    answer = await World(LOCKED).client.request(method, path, json={"prompt": "x", "answer": "y"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if ID in call[1]])
@pytest.mark.parametrize("named", [False, True])
async def test_another_projects_execution_is_not_there(method: str, path: str, named: bool) -> None:
    """404 when it is not named, 403 when it is; nothing is published either way."""
    world = World(LOCKED)
    await world.record(project="team-a")
    await world.sessions.create(f"team-a.{ID}", b"{}")
    query = "?project_id=team-a" if named else ""
    headers = bearer(["team-b"], **GOOD)
    body = {"answer": "y"} if "replies" in path else {"client_id": "c"} if "tach" in path else {}
    answer = await world.client.request(method, path + query, headers=headers, json=body)
    assert answer.status_code == (403 if named else 404)
    assert [message async for message in world.bus.history("OCF_COMMANDS", ">")] == []


async def test_history_and_sessions_show_the_callers_projects_only() -> None:
    """Lists too; and a token for all projects sees all."""
    world = World(LOCKED)
    await world.record(project="team-a")
    await world.record(project="team-b")
    now = world.clock.now()
    for project in ("team-a", "team-b"):
        times = {"created_at": now, "updated_at": now, "expires_at": now, "ttl_seconds": 60}
        session = Session.model_validate({"session_id": ID, "project_id": project, **times})
        await world.sessions.create(f"{project}.{ID}", session.model_dump_json().encode())
        await world.history.save_session(session)
    for projects, wanted in ((["team-a"], ["team-a"]), ("*", ["team-a", "team-b"])):
        for path in ("/tasks", "/sessions"):
            items = (await world.client.get(path, headers=bearer(projects, **GOOD))).json()["items"]
            assert sorted(item["project_id"] for item in items) == wanted


async def test_the_database_keeps_two_projects_apart() -> None:
    """Both use one id, title, label, session and model: neither sees, counts, changes or removes a row of the other, by
    no filter and no cursor; nor does an announcement or a fact of the one reach the lists of the other."""
    world = World(LOCKED)
    same = {"title": "Secret plan", "labels": {"team": "x"}, "session_id": ID, "model": "m/n", "task_id": "t"}
    mine = await world.record(project="team-a", **same)
    await world.record(project="team-b", state=State.FAILED, reason=Reason.STALLED, **same)
    headers = bearer(["team-a"], **GOOD)
    cursor = encode_cursor((mine.submitted_at, "~", "team-z"))
    paths = ("", "?q=secret", "?label=team%3Dx", "?label=team", f"?session_id={ID}", "?task_id=t", "?status=failed")
    for path in (*paths, f"?id_prefix={ID[:4]}", f"?cursor={cursor}"):
        items = (await world.client.get(f"/tasks{path}", headers=headers)).json()["items"]
        assert [item["project_id"] for item in items] == (["team-a"] if "failed" not in path else []), path
    for group in ("project", "model", "day", "label"):
        usage = (await world.client.get(f"/usage?group_by={group}", headers=headers)).json()
        assert ([row["runs"] for row in usage["usage"]], usage["reasons"]) == ([1], {})
    # A record of `team-b` with a later change writes the rows of `team-b` alone; so does its deletion.
    await world.record(project="team-b", state=State.COMPLETED, title="Poison", labels={"team": "y"})
    (item,) = (await world.client.get("/tasks", headers=headers)).json()["items"]
    assert (item["title"], item["labels"], item["status"]) == ("Secret plan", {"team": "x"}, "running")
    await world.history.remove(ExecutionRef("team-b", ID))
    assert len((await world.client.get("/tasks", headers=headers)).json()["items"]) == 1
    await world.gateway.listing.submitted(ExecutionRef("team-b", OTHER))
    world.gateway.listing.sessions.add(SessionRef("team-b", OTHER))
    assert len((await world.client.get("/tasks", headers=headers)).json()["items"]) == 1
    assert (await world.client.get("/sessions", headers=headers)).json()["items"] == []


async def test_gateways_tell_each_other_of_submits() -> None:
    """What one takes is in the list of another at once, without a row or a record; so is a session by its fact."""
    world = World()
    other = create_app(world.deps)
    listening = asyncio.create_task(other.state.gateway.listing.listen())
    transport = httpx2.ASGITransport(other, client=("127.0.0.1", 5000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:3003") as client:
        await asyncio.sleep(0)
        made = (await world.client.post("/tasks/execute", json={"prompt": "x"})).json()["execution_id"]
        await world.bus.publish(f"ocf.evt.default.{ID}.created", b"{}", {})
        await asyncio.sleep(0)
        assert [item["execution_id"] for item in (await client.get("/tasks")).json()["items"]] == [made]
        await world.sessions.create(f"default.{ID}", b'{"created_at":"2026-01-01T00:00:00Z"}')
        assert [item["session_id"] for item in (await client.get("/sessions")).json()["items"]] == [ID]
    listening.cancel()


async def test_a_token_of_one_project_means_that_project() -> None:
    """No `project_id` is needed then; with several it is the default, which may be refused."""
    world = World(LOCKED)
    answer = await world.client.post("/tasks/execute", json={"prompt": "x"}, headers=bearer(["team-a"], **GOOD))
    assert answer.status_code == 202
    assert (await world.commands("submit"))[0]["project_id"] == "team-a"
    answer = await world.client.post("/tasks/execute", json={"prompt": "x"}, headers=bearer(["a", "b"], **GOOD))
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (lambda: token("*", ttl=-60, **GOOD), "expired"),
        (lambda: token("*", key="another-secret-of-at-least-32-bytes", **GOOD), "Signature"),
        (lambda: token("*", iss="you", aud="ocf"), "issuer"),
        (lambda: token("*", iss="me", aud="other"), "udience"),
        (lambda: token("*", iss="me"), "aud"),
        (lambda: token([], **GOOD), "projects"),
        (lambda: token(None, **GOOD), "projects"),
        (lambda: token(7, **GOOD), "projects"),
        (lambda: jwt.encode({"projects": "*", **GOOD}, SECRET, "HS256"), "exp"),
        (lambda: jwt.encode({"projects": "*", "exp": 9_999_999_999, **GOOD}, "", "none"), "alg "),
        (lambda: jwt.encode({"projects": "*", "exp": 9_999_999_999, **GOOD}, SECRET + "x" * 40, "HS512"), "alg "),
        (lambda: jwt.encode({"projects": "*", "exp": "9999999999", **GOOD}, SECRET, "HS256"), "exp"),
        (lambda: jwt.encode({"projects": "*", "exp": True, **GOOD}, SECRET, "HS256"), "expired"),
        (lambda: jwt.encode({"projects": "*", "exp": 1e300, **GOOD}, SECRET, "HS256"), "exp"),
        (lambda: jwt.encode({"projects": "*", "exp": 10**400, **GOOD}, SECRET, "HS256"), "exp"),
        (lambda: "rubbish", "not accepted"),
        (lambda: "", "send"),
    ],
)
async def test_a_wrong_token_is_refused_with_what_is_wrong(sent: Callable[[], str], said: str) -> None:
    """Expiry, signature, issuer, audience, projects, and no algorithm but the configured one."""
    answer = await World(LOCKED).client.get("/tasks", headers={"Authorization": f"Bearer {sent()}"})
    assert answer.status_code == 401
    assert said in answer.json()["detail"]


async def test_a_token_without_an_end_is_refused_whatever_else_is_configured() -> None:
    """`exp` is required of every token, also where neither issuer nor audience is."""
    endless = jwt.encode({"sub": "ann", "projects": "*"}, SECRET, "HS256")
    world = World(GatewaySettings(jwt_secret=SecretStr(SECRET)))
    answer = await world.client.get("/tasks", headers={"Authorization": f"Bearer {endless}"})
    assert answer.status_code == 401
    assert "exp" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [*CALLS, ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics")])
async def test_an_unknown_query_parameter_is_named(method: str, path: str) -> None:
    """422 with its name and those that the call has: a filter with a typing error does not list everything."""
    world = World()
    await world.record()
    answer = await world.client.request(method, f"{path}?statsu=running", json={"prompt": "x", "answer": "y"})
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert error["field"] == "query.statsu"
    known = {"/tasks": "project_id, q, rerun_of, session_id, since, status", "/dlq": "after"}.get(path, "")
    assert known in error["message"]


async def test_an_unknown_query_parameter_of_a_stream() -> None:
    """The same over a WebSocket, before it is accepted."""
    world = World()
    await world.record()
    async with world.socket(f"/tasks/{ID}/stream?form=3") as socket:
        assert (await socket.next())["status"] == 422


async def test_a_good_token_is_accepted() -> None:
    """So that the refusals above mean something."""
    assert (await World(LOCKED).client.get("/tasks", headers=bearer("*", **GOOD))).status_code == 200


class Issuer:
    """An issuer with a JWKS that rotates its key, and can be down."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.rotate()

    def rotate(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = f"k{self.asked}"

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        if self.down:
            return httpx2.Response(500)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return httpx2.Response(200, json={"keys": [{**public, "kid": self.kid, "alg": "RS256", "use": "sig"}]})

    def token(self) -> str:
        claims = {"sub": "ann", "projects": "*", "exp": datetime.now(UTC).timestamp() + 60}
        return jwt.encode(claims, self.key, "RS256", headers={"kid": self.kid})


async def test_keys_of_a_jwks_are_cached_and_follow_a_rotation() -> None:
    """One request for many tokens; an unknown key id asks again, but not at a caller's pace."""
    issuer, clock = Issuer(), ManualClock()
    settings = GatewaySettings(jwks_url="http://issuer/jwks")
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(issuer.answer)) as client:
        auth = Authenticator(settings, clock, client)
        for _ in range(3):
            assert (await auth.principal(f"Bearer {issuer.token()}")).projects is None
        assert issuer.asked == 1
        issuer.rotate()
        for _ in range(3):
            with pytest.raises(Problem, match="key id"):
                await auth.principal(f"Bearer {issuer.token()}")
        assert issuer.asked == 1
        await clock.advance(11)
        await auth.principal(f"Bearer {issuer.token()}")
        assert issuer.asked == 2
        issuer.down = True
        await clock.advance(1000)
        await auth.principal(f"Bearer {issuer.token()}")


async def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked in the background, and not again for a while; who brings an unknown key does not stop the others."""
    monkeypatch.setattr("ocf.functions.gateway.auth._REFRESH_WAIT", 0.01)
    issuer, clock, hangs = Issuer(), ManualClock(), asyncio.Event()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        said = issuer.answer(request)
        if issuer.asked > 1:
            await hangs.wait()
        return said

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        auth = Authenticator(GatewaySettings(jwks_url="http://issuer/jwks"), clock, client)
        await auth.principal(f"Bearer {issuer.token()}")
        known = issuer.token()
        await clock.advance(301)
        async with asyncio.timeout(3):
            await asyncio.gather(*(auth.principal(f"Bearer {known}") for _ in range(6)))
            await clock.advance(11)
            issuer.rotate()
            strangers = [asyncio.ensure_future(auth.principal(f"Bearer {issuer.token()}")) for _ in range(3)]
            await asyncio.sleep(0)
            for _ in range(6):
                await auth.principal(f"Bearer {known}")
        assert issuer.asked == 3
        hangs.set()
        await asyncio.gather(*strangers)
        await auth.close()


async def test_a_key_that_the_issuer_has_withdrawn_is_not_accepted_once_more() -> None:
    """Also when nobody called for a day: the first who does waits for the newer keys."""
    issuer, clock = Issuer(), ManualClock()
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(issuer.answer)) as client:
        auth = Authenticator(GatewaySettings(jwks_url="http://issuer/jwks"), clock, client)
        old = issuer.token()
        await auth.principal(f"Bearer {old}")
        issuer.rotate()
        await clock.advance(86_400)
        with pytest.raises(Problem, match="key id"):
            await auth.principal(f"Bearer {old}")


async def test_an_issuer_that_never_answered_is_a_503() -> None:
    """It is not the caller's fault, so it is not a 401."""
    issuer = Issuer()
    issuer.down = True
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(issuer.answer)) as client:
        auth = Authenticator(GatewaySettings(jwks_url="http://issuer/jwks"), ManualClock(), client)
        with pytest.raises(Problem) as raised:
            await auth.principal(f"Bearer {issuer.token()}")
        assert raised.value.status == 503
        for _ in range(3):
            with pytest.raises(Problem, match="are unavailable"):
                await auth.principal(f"Bearer {issuer.token()}")
    assert issuer.asked == 1


async def test_a_public_key_is_no_secret() -> None:
    """A token signed with HS256 and the issuer's public key as its secret is refused."""
    issuer = Issuer()
    public = json.dumps(jwt.algorithms.RSAAlgorithm.to_jwk(issuer.key.public_key()))
    forged = jwt.encode({"projects": "*", "exp": 9_999_999_999}, public, "HS256", headers={"kid": issuer.kid})
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(issuer.answer)) as client:
        auth = Authenticator(GatewaySettings(jwks_url="http://issuer/jwks"), ManualClock(), client)
        with pytest.raises(Problem) as raised:
            await auth.principal(f"Bearer {forged}")
    assert raised.value.status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3003", "127.0.0.1.evil.example", "10.0.0.7", ""])
async def test_without_authentication_foreign_hosts_are_refused(host: str) -> None:
    """DNS rebinding: a name of somebody else that points to us."""
    answer = await World().client.get("/health", headers={"Host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:3003", "127.0.0.1:3003", "[::1]:3003", "ocf.localhost"])
async def test_without_authentication_loopback_names_are_served(host: str) -> None:
    """Every way to name this machine."""
    assert (await World().client.get("/health", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost:5173", 202),
        ("https://app.example", 202),
    ],
)
async def test_without_authentication_foreign_pages_are_refused(origin: str, status: int) -> None:
    """Cross-site requests carry their origin; only loopback and the allow-list pass."""
    world = World(GatewaySettings(cors_origins=("https://app.example",)))
    answer = await world.client.post("/tasks/execute", json={"prompt": "x"}, headers={"Origin": origin})
    assert answer.status_code == status


async def test_cors_allows_the_listed_origins_only() -> None:
    """A preflight of a listed origin is granted, of another it is not."""
    world = World(GatewaySettings(cors_origins=("https://app.example",), jwt_secret=SecretStr(SECRET)))
    for origin, granted in (("https://app.example", True), ("https://evil.example", False)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = await world.client.options("/tasks/execute", headers=headers)
        assert (answer.headers.get("access-control-allow-origin") == origin) is granted


def test_an_open_gateway_binds_to_loopback_only() -> None:
    """One line that names what to set."""
    for host in ("127.0.0.1", "::1", "localhost"):
        check_bind(host, GatewaySettings())
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.com"):
        with pytest.raises(UnsafeBind, match="GATEWAY_JWT_SECRET") as raised:
            check_bind(host, GatewaySettings())
        assert "\n" not in str(raised.value)
        check_bind(host, LOCKED)
    with pytest.raises(UnsafeBind, match="32 bytes"):
        check_bind("127.0.0.1", GatewaySettings(jwt_secret=SecretStr("short")))
    assert not is_loopback("localhost.example")


async def test_each_caller_has_a_rate_of_its_own() -> None:
    """429 with Retry-After for the one who calls too much; others and health are not touched."""
    world = World(GatewaySettings(rate_limit=2, jwt_secret=SecretStr(SECRET)))
    ann, bob = bearer("*"), bearer("*", sub="bob")
    codes = [(await world.client.get("/tasks", headers=ann)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert (await world.client.get("/tasks", headers=bob)).status_code == 200
    assert (await world.client.get("/health")).status_code == 200
    refused = await world.client.get("/tasks", headers=ann)
    assert refused.headers["retry-after"] == "1"
    await world.clock.advance(1)
    assert (await world.client.get("/tasks", headers=ann)).status_code == 200


async def test_tokens_without_a_subject_share_no_allowance_across_projects() -> None:
    """Nor do equal subjects of two issuers: one tenant's calls must not use up another's."""
    world = World(GatewaySettings(rate_limit=1, jwt_secret=SecretStr(SECRET)))
    callers = [bearer(["a"], sub=""), bearer(["b"], sub=""), bearer(["a"], iss="x"), bearer(["a"], iss="y")]
    for headers in callers:
        codes = [(await world.client.get("/tasks", headers=headers)).status_code for _ in range(2)]
        assert codes == [200, 429]


async def test_guessing_tokens_is_limited_by_address() -> None:
    """Bad tokens use up nobody's allowance but the guesser's."""
    world = World(GatewaySettings(rate_limit=2, jwt_secret=SecretStr(SECRET)))
    wrong = {"Authorization": "Bearer x"}
    codes = [(await world.client.get("/tasks", headers=wrong)).status_code for _ in range(3)]
    assert codes == [401, 401, 429]
    assert (await world.client.get("/tasks", headers=bearer("*"))).status_code == 200
