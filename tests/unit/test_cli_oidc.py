"""Login by the device flow and its renewal: each answer of an issuer, and the message that the user gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from typer.testing import CliRunner

from ocf.cli import login_store, oidc
from ocf.cli.app import app
from ocf.events.client.gateway_retry import CallFailed, Unreachable

ISSUER = "https://login.example.com/realm"
CLIENT = oidc.OidcClient(ISSUER, "ocf", "openid", "urn:gateway")
CONFIGURATION = {
    "issuer": ISSUER,
    "token_endpoint": f"{ISSUER}/token",
    "device_authorization_endpoint": f"{ISSUER}/device",
}
DEVICE = {
    "device_code": "device-secret",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://login.example.com/d",
    "expires_in": 60,
}
TOKENS = {"access_token": "access-secret", "token_type": "Bearer", "expires_in": 400, "refresh_token": "refresh-secret"}
PENDING = (400, {"error": "authorization_pending"})
Answer = tuple[int, Any] | Exception


class Issuer:
    """Answers of an issuer, in order for its token endpoint, and the time that passes while somebody waits for it."""

    def __init__(self, *answers: Answer, configuration: Any = CONFIGURATION, device: Any = DEVICE) -> None:
        self.answers = list(answers)
        self.fixed = {"/realm/.well-known/openid-configuration": configuration, "/realm/device": device}
        self.asked: list[dict[str, list[str]]] = []
        self.now, self.slept = 1_000.0, list[float]()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        fixed = self.fixed.get(request.url.path)
        if request.url.path.endswith("/token"):
            self.asked.append(parse_qs(request.content.decode()))
        answer = self.answers.pop(0) if fixed is None else fixed if isinstance(fixed, tuple) else (200, fixed)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return httpx2.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    @property
    def http(self) -> httpx2.Client:
        return httpx2.Client(transport=httpx2.MockTransport(self))

    def log_in(self) -> oidc.Tokens:
        return oidc.log_in(CLIENT, lambda _: None, self.http, lambda: self.now, self.sleep)


def test_polls_keep_to_the_issuers_interval() -> None:
    """Five seconds unless it names them, five more for each `slow_down`, twice as many when it is away."""
    issuer = Issuer(PENDING, (400, {"error": "slow_down"}), httpx2.ConnectError("gone"), (503, b""), (200, TOKENS))
    issuer.fixed["/realm/device"] = {**DEVICE, "expires_in": 600}
    assert issuer.log_in() == oidc.Tokens("access-secret", "refresh-secret", 1_080 + 340, 1_080 + 400)
    assert issuer.slept == [5, 5, 10, 20, 40]
    assert issuer.asked[0] == {
        "client_id": ["ocf"],
        "resource": ["urn:gateway"],
        "audience": ["urn:gateway"],
        "device_code": ["device-secret"],
        "grant_type": ["urn:ietf:params:oauth:grant-type:device_code"],
    }


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([(400, {"error": "access_denied"})], "the login was refused in the browser, or by issuer"),
        ([(400, {"error": "expired_token"})], "the code has expired before it was entered; log in again"),
        ([PENDING] * 12, "the code has expired before it was entered"),
        (
            [(401, {"error": "invalid_client", "error_description": "unknown"})],
            f"issuer {ISSUER} refuses the login: invalid_client: unknown",
        ),
        ([(404, b"<html>")], "refuses the login: status 404"),
        ([(200, b"<html>")], "/token: "),
        ([(200, b'{"access_token": "access-secret"')], "/token: "),
        ([(200, [1])], "the answer is not a JSON object"),
        ([(200, b" " * 300_000)], "/token: the answer has more than 262144 bytes"),
        ([(200, b"[" * 1_000)], "/token"),
        ([(200, {**TOKENS, "token_type": "DPoP"})], "token_type is not Bearer"),
        ([(200, {**TOKENS, "expires_in": None})], "expires_in is not a number of seconds"),
        ([(200, {**TOKENS, "expires_in": True})], "expires_in is not a number of seconds"),
        ([(200, {**TOKENS, "access_token": "access-secret\n x"})], "is not a bearer token"),
        ([(200, {"token_type": "Bearer", "expires_in": 1})], "access_token is missing or not a text"),
    ],
)
def test_a_login_that_fails_says_why(answers: list[Answer], problem: str) -> None:
    """And never shows a code or token."""
    with pytest.raises(CallFailed) as caught:
        Issuer(*answers).log_in()
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("configuration", "problem"),
    [
        ({**CONFIGURATION, "issuer": "https://evil.example"}, "its configuration is that of issuer 'https://evil.exam"),
        ({**CONFIGURATION, "token_endpoint": "http://login.example.com/t"}, "token_endpoint .* is not an https URL"),
        (
            {**CONFIGURATION, "device_authorization_endpoint": "ftp://x"},
            "device_authorization_endpoint .* not an https",
        ),
        ({"issuer": ISSUER, "token_endpoint": f"{ISSUER}/t"}, "offers no device flow"),
        ({"issuer": ISSUER}, "token_endpoint is missing"),
        ((404, b""), "has no OpenID configuration: status 404"),
        ((301, b""), "has no OpenID configuration: status 301"),
    ],
)
def test_a_wrong_configuration_is_named(configuration: Any, problem: str) -> None:
    """A redirect is not followed; tokens are asked for over https only."""
    with pytest.raises(CallFailed, match=problem):
        Issuer(configuration=configuration).log_in()


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ((400, {"error": "invalid_scope"}), "refuses a login: invalid_scope"),
        ({**DEVICE, "user_code": 7}, "user_code is missing or not a text"),
        ({**DEVICE, "interval": -1}, "interval is not a number of seconds"),
    ],
)
def test_a_wrong_start_of_a_login_is_named(device: Any, problem: str) -> None:
    """The field is in the error."""
    with pytest.raises(CallFailed, match=problem):
        Issuer(device=device).log_in()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No context of the person who runs this; returns the folder of contexts."""
    monkeypatch.setenv("OCF_CONTEXTS", str(tmp_path / "contexts.json"))
    return tmp_path


def answered_by(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """That issuer answers, at its time."""

    @contextmanager
    def connected(_: str) -> Iterator[httpx2.Client]:
        yield issuer.http

    monkeypatch.setattr(oidc, "connected", connected)
    monkeypatch.setattr(login_store, "time", lambda: issuer.now)


def test_a_token_is_renewed_before_its_end(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for many calls; a refresh token that is not replaced stays; an issuer that is away does not matter yet."""
    rest = {name: value for name, value in TOKENS.items() if name != "refresh_token"}
    issuer = Issuer(httpx2.ConnectError("gone"), (200, {**rest, "access_token": "second"}))
    answered_by(issuer, monkeypatch)
    login_store.write(alone / "x", oidc.Tokens("first", "refresh-secret", 1_100, 1_200))
    assert login_store.token(alone / "x", CLIENT, "x") == "first"
    issuer.now = 1_150
    assert login_store.token(alone / "x", CLIENT, "x") == "first"  # the issuer is away
    assert [login_store.token(alone / "x", CLIENT, "x") for _ in range(3)] == ["second"] * 3
    assert [asked["refresh_token"] for asked in issuer.asked] == [["refresh-secret"]] * 2
    assert login_store.read(alone / "x") == oidc.Tokens("second", "refresh-secret", 1_150 + 340, 1_150 + 400)
    assert ((alone / "x").stat().st_mode & 0o777, (alone / "x/login.json").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_login_that_ended_says_how_to_log_in_again(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an issuer that is away is worth a further try: of the errors it alone is Unreachable."""
    issuer = Issuer(httpx2.ConnectError("gone"), (400, {"error": "invalid_grant"}))
    answered_by(issuer, monkeypatch)
    with pytest.raises(CallFailed, match="context x: not logged in; `ocf context login x` logs in"):
        login_store.token(alone / "x", CLIENT, "x")
    ended = oidc.Tokens("first", "refresh-secret", 900, 950)
    login_store.write(alone / "x", ended)
    with pytest.raises(Unreachable, match="context x: no answer from the issuer"):
        login_store.token(alone / "x", CLIENT, "x")
    with pytest.raises(CallFailed, match="does not renew the login: invalid_grant; `ocf context login x`") as caught:
        login_store.token(alone / "x", CLIENT, "x")
    assert not isinstance(caught.value, Unreachable)
    assert login_store.read(alone / "x") is None
    login_store.write(alone / "x", replace(ended, refresh_token=None))
    with pytest.raises(CallFailed, match=r"the login ended at .* gave nothing to renew it; `ocf context login x`"):
        login_store.token(alone / "x", CLIENT, "x")
    (alone / "x/login.json").write_text("{}")
    with pytest.raises(CallFailed, match=r"login\.json: is not a login; remove it and log in again"):
        login_store.token(alone / "x", CLIENT, "x")


def ocf(*words: str) -> tuple[int, str]:
    """Exit status and all output of a verb."""
    found = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    return found.exit_code, found.output


def test_contexts_say_whether_they_are_logged_in(alone: Path) -> None:
    """And until when; a context that is replaced or removed has no login any more; no token is shown."""
    add = ["context", "add", "x", "--gateway", "http://h", "--oidc-issuer", ISSUER, "--oidc-client-id", "ocf"]
    assert f"not logged in at {ISSUER}" in ocf(*add)[1]
    login_store.write(alone / "logins/x", oidc.Tokens("access-secret", "refresh-secret", 1, 4_000_000_000))
    assert "logged in until 2096-10-02" in ocf("context", "list")[1]
    _, listed = ocf("context", "list", "--json")
    found = json.loads(listed)[0]
    assert (found["oidc_scope"], found["login"]["renewed"]) == ("openid offline_access", True)
    assert found["login"]["expires_at"].startswith("2096-10-02")
    assert "secret" not in listed
    assert ocf(*add, "--oidc-scope", "a", "--oidc-scope", "b")[0] == 0
    assert json.loads(ocf("context", "list", "--json")[1])[0]["login"] is None
    login_store.write(alone / "logins/x", oidc.Tokens("access-secret", None, 1, 2))
    assert "login ended, valid until 1970-01-01" in ocf("context", "list")[1]
    assert ocf("context", "remove", "x")[0] == 0
    assert not (alone / "logins/x").exists()


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (["add", "x", "--gateway", "http://h", "--oidc-issuer", ISSUER], 2, "need each other"),
        (["add", "x", "--gateway", "http://h", "--oidc-scope", "a"], 2, "need each other"),
        (
            ["add", "x", "--gateway", "http://h", "--oidc-issuer", "http://h", "--oidc-client-id", "ocf"],
            1,
            "--oidc-issuer: 'http://h' is not an https URL (http is for loopback only)",
        ),
        (
            [
                "add",
                "x",
                "--gateway",
                "http://h",
                "--oidc-issuer",
                ISSUER,
                "--oidc-client-id",
                "o",
                "--token-file",
                "f",
            ],
            2,
            "exclude each",
        ),
        (["login"], 1, "no context is the current one: name one"),
        (["login", "x"], 1, "no context x"),
    ],
)
def test_a_wrong_issuer_or_login_is_named(words: list[str], status: int, problem: str, alone: Path) -> None:
    """And nothing is stored."""
    found = ocf("context", *words)
    assert (found[0], problem in found[1]) == (status, True)
    assert not (alone / "contexts.json").exists()


def test_a_context_without_issuer_has_no_login(alone: Path) -> None:
    """The error says what adds one."""
    ocf("context", "add", "x", "--gateway", "http://h")
    status, said = ocf("context", "login")
    assert (status, "context x has no issuer: add it again with --oidc-issuer" in said) == (1, True)
