"""The gateway that a verb talks to: options, environment, contexts; and the token that it gets."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ocf.cli import where as where_module
from ocf.cli.app import app
from ocf.cli.common import NAMED_CONTEXT, NAMED_DIRECTORY, NAMED_GATEWAY
from ocf.cli.options.ids import EXECUTION, SESSION, whole_id
from ocf.cli.where import where
from ocf.events.client.gateway import Address
from ocf.events.client.gateway_retry import CallFailed

FIRST, SECOND = "0b5f2f0e-6a3b-4c1e-9d70-3a6f7b1c2d3e", "0b5f2f0e-0000-4c1e-9d70-3a6f7b1c2d3e"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No gateway, token or context of the person who runs this; returns the file of contexts."""
    for name in ("OCF_GATEWAY", "OCF_CONTEXT", "OCF_DATA_DIR", "OCF_TOKEN", "PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OCF_CONTEXTS", str(tmp_path / "config" / "contexts.json"))
    monkeypatch.chdir(tmp_path)
    for variable in (NAMED_CONTEXT, NAMED_DIRECTORY, NAMED_GATEWAY):
        variable.set(None)
    return tmp_path / "config" / "contexts.json"


def ocf(*words: str) -> tuple[int, str]:
    """Exit status and all output of a verb."""
    found = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    return found.exit_code, found.output


def test_contexts_are_added_used_listed_and_removed(alone: Path) -> None:
    """The first one is current; one that is removed is not; the file is its owner's alone."""
    assert ocf("context", "list") == (0, "no contexts; `ocf context add NAME --gateway URL` adds one\n")
    assert (
        ocf("context", "add", "prod", "--gateway", "https://ocf.example.com/", "--token-file", "t", "-p", "team")[0]
        == 0
    )
    assert ocf("context", "add", "dev", "--gateway", "http://h:1")[0] == 0
    assert (alone.stat().st_mode & 0o777, alone.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    listed: list[dict[str, Any]] = json.loads(ocf("context", "use", "dev", "--json")[1])
    assert [(one["name"], one["current"]) for one in listed] == [("dev", True), ("prod", False)]
    assert listed[1]["gateway"] == "https://ocf.example.com"
    assert ocf("context", "remove", "dev")[0] == 0
    assert json.loads(alone.read_text())["current"] is None
    assert "prod" in ocf("context", "list")[1]


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (["use", "x"], 1, "no context x (known: none); `ocf context add x --gateway URL` adds it"),
        (["use"], 2, "NAME or --none is required"),
        (["remove", "x"], 1, "no context x"),
        (["add", "a/b", "--gateway", "http://h"], 1, "'a/b' is not a name of a context"),
        (["add", "x", "--gateway", "h:3003"], 1, "--gateway: 'h:3003' is not a gateway URL such as"),
        (["add", "x", "--gateway", "http://h", "--token-file", "a", "--token-command", "b"], 2, "exclude each other"),
    ],
)
def test_a_wrong_context_is_named(words: list[str], status: int, problem: str, alone: Path) -> None:
    """And nothing is stored."""
    found = ocf("context", *words)
    assert (found[0], problem in found[1]) == (status, True)
    assert not alone.exists()


@pytest.mark.parametrize(
    "verb",
    [["up"], ["up", "--detach"], ["down"], ["creds"], ["doctor"], ["encrypt-key", "secret"], ["history", "rebuild"]],
    ids=" ".join,
)
@pytest.mark.parametrize("option", ["--gateway", "--context"])
def test_a_local_verb_acts_for_no_gateway(
    option: str, verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is named on the command line is an error before anything is done; the environment has no part in it."""
    monkeypatch.setenv("ENCRYPTION_KEY", "A" * 43 + "=")
    status, said = ocf(option, "https://prod", *verb)
    assert (status, said.count("\n")) == (2, 1)
    assert f"{option} https://prod: this verb acts on a data directory of this machine" in said
    assert "--data-dir DIR" in said
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_in_the_environment_leaves_local_verbs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop and seal here, whatever other verbs talk to."""
    monkeypatch.setenv("OCF_GATEWAY", "https://prod")
    monkeypatch.setenv("OCF_CONTEXT", "none")
    assert ocf("down", "--json")[0] == 0
    assert "no stack has run in .ocf" in ocf("creds")[1]


@pytest.mark.parametrize("text", ["{", "[]", '{"current": null}', '{"current": 1, "contexts": {"a": {"gateway": 3}}}'])
def test_a_damaged_file_of_contexts_is_named(text: str, alone: Path) -> None:
    """It is not overwritten, and verbs that name their gateway work."""
    alone.parent.mkdir()
    alone.write_text(text)
    for words in (["context", "list"], ["context", "add", "x", "--gateway", "http://h"], ["list"]):
        status, said = ocf(*words)
        assert (status, f"{alone}: is not a file of contexts" in said) == (1, True)
    assert alone.read_text() == text
    NAMED_GATEWAY.set("http://h")
    assert where(None).url == "http://h"


def test_the_first_that_names_a_gateway_decides(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, environment, the current context; each is named in the error when nothing answers there."""
    ocf("context", "add", "a", "--gateway", "http://a", "-p", "team")
    ocf("context", "add", "b", "--gateway", "http://b")
    assert where(None) == Address("http://a", None, "team", None, "named by context a")
    assert where("mine").project == "mine"
    monkeypatch.setenv("OCF_CONTEXT", "b")
    assert where(None) == Address("http://b", None, "default", None, "named by context b")
    monkeypatch.setenv("OCF_GATEWAY", "http://c")
    assert where(None).origin == "named by OCF_GATEWAY"
    NAMED_CONTEXT.set("a")
    assert where(None).url == "http://a"
    NAMED_GATEWAY.set("http://d")
    with pytest.raises(CallFailed, match="--gateway and --context exclude each other"):
        where(None)
    NAMED_CONTEXT.set(None)
    assert where(None).origin == "named by --gateway"


def test_a_directory_is_stronger_than_the_current_context(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OCF_DATA_DIR or --data-dir name a stack, no other gateway is asked."""
    ocf("context", "add", "a", "--gateway", "http://a")
    for name in ("option", "environment"):
        with monkeypatch.context() as patch:
            if name == "environment":
                patch.setenv("OCF_DATA_DIR", "x")
            with pytest.raises(where_module.NoStack, match="no stack runs in x"):
                where(None, Path("x") if name == "option" else None)


def test_a_token_comes_from_a_file_or_a_command(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read at each call, and that of the environment does not go to a context that has its own."""
    monkeypatch.setenv("OCF_TOKEN", "environment")
    token = tmp_path / "token"
    token.write_text("one\n")
    ocf("context", "add", "file", "--gateway", "http://a", "--token-file", str(token))
    assert where(None).headers == {"Authorization": "Bearer one"}
    token.write_text("two")
    assert where(None).token == "two"
    ocf("context", "add", "command", "--gateway", "http://a", "--token-command", "printf %s-%s a b")
    ocf("context", "add", "neither", "--gateway", "http://a")
    for name, wanted in (("command", "a-b"), ("neither", "environment")):
        NAMED_CONTEXT.set(name)
        assert where(None).token == wanted
    assert "a-b" not in alone.read_text()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (["--token-file", "/none"], "context x: token file /none: No such file or directory"),
        (["--token-command", "false"], "context x: token command 'false': exit status 1"),
        (["--token-command", "/none"], "context x: token command '/none': .*No such file"),
        (["--token-command", "'"], "No closing quotation"),
        (["--token-command", ""], "context x: token command ''"),
        (["--token-command", "echo two words"], "context x: output of its token command: is not a bearer token"),
        (["--token-command", "true"], "is not a bearer token"),
    ],
)
def test_a_token_that_cannot_be_had_is_an_error(source: list[str], problem: str) -> None:
    """It names the context and its source, and never quotes what may be a secret."""
    assert ocf("context", "add", "x", "--gateway", "http://h", *source)[0] == 0
    with pytest.raises(CallFailed, match=problem):
        where(None)


def test_a_token_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line feed in it would otherwise be an internal error."""
    monkeypatch.setenv("OCF_TOKEN", "a\nb")
    NAMED_GATEWAY.set("http://h")
    with pytest.raises(CallFailed, match="OCF_TOKEN: is not a bearer token"):
        where(None)


class Listed:
    """A gateway with two executions; it remembers what it was asked."""

    address = Address("http://h")

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def call(self, _: str, path: str, **query: Any) -> Any:
        self.asked.append(query)
        field = "execution_id" if path == "/tasks" else "session_id"
        return {
            "items": [
                {field: one} for one in (FIRST, SECOND) if path == "/sessions" or one.startswith(query["id_prefix"])
            ]
        }


async def test_a_beginning_that_only_one_has_is_an_id() -> None:
    """A whole id needs no call; upper case is that of another program."""
    gateway: Any = Listed()
    assert await whole_id(gateway, EXECUTION, "0B5F2F0E-6") == FIRST
    assert await whole_id(gateway, SESSION, "0b5f2f0e-0") == SECOND
    gateway.asked.clear()
    assert await whole_id(gateway, EXECUTION, FIRST) == FIRST
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("0b5f", f"more than one execution of project default has an id that begins with 0b5f: {FIRST}, {SECOND}"),
        ("ffff", "no execution of project default has an id that begins with ffff"),
        ("../health", "'../health' is not an id of executions"),
        ("", "'' is not an id of executions"),
    ],
)
async def test_a_beginning_that_is_not_unique_is_an_error(given: str, problem: str) -> None:
    """It names the candidates; what cannot be an id is not asked for."""
    gateway: Any = Listed()
    with pytest.raises(CallFailed) as caught:
        await whole_id(gateway, EXECUTION, given)
    assert problem in str(caught.value)


class Pages:
    """A gateway with two pages of sessions; the first one also has what began a moment ago."""

    address = Address("http://h")

    async def call(self, _: str, path: str, limit: int, cursor: str | None = None) -> Any:
        assert (path, limit) == ("/sessions", 500)
        new, old = ({"session_id": one, "state": "open"} for one in (FIRST, SECOND))
        return {"items": [new, old], "next": None} if cursor == "2" else {"items": [new], "next": "2"}


async def test_an_old_session_counts_when_a_beginning_is_looked_up() -> None:
    """Otherwise `ocf session destroy` of a beginning that two have would destroy the newer one."""
    gateway: Any = Pages()
    assert await whole_id(gateway, SESSION, "0b5f2f0e-0") == SECOND
    with pytest.raises(CallFailed, match=f"more than one session .* begins with 0b5f: {FIRST}, {SECOND}"):
        await whole_id(gateway, SESSION, "0b5f")


def test_sessions_of_every_page_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, or the newest."""
    monkeypatch.setattr("ocf.cli.verb.connected", lambda work, *_: asyncio.run(work(Pages())))
    assert [one["session_id"] for one in json.loads(ocf("session", "list", "--json")[1])] == [FIRST, SECOND]
    monkeypatch.setattr(Pages, "call", one_page)
    assert [one["session_id"] for one in json.loads(ocf("session", "list", "--json", "-n", "1")[1])] == [FIRST]
    assert ocf("session", "list", "-n", "1")[1].endswith("there are more: leave out --limit\n")


async def one_page(_: Pages, method: str, path: str, limit: int, cursor: str | None = None) -> Any:
    """Answer with one session more than was asked for, as a gateway that has just heard of it."""
    assert (method, path, limit, cursor) == ("GET", "/sessions", 2, None)
    return {"items": [{"session_id": FIRST}, {"session_id": SECOND}], "next": "2"}


def test_the_version_is_that_of_the_distribution() -> None:
    """As `pip` knows it."""
    from importlib.metadata import version

    assert ocf("--version") == (0, f"ocf {version('opencode-functions')}\n")


def test_the_file_of_contexts_is_where_configuration_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CONFIG_HOME, else `~/.config`; with `use --none` the stack on this machine is used again."""
    monkeypatch.delenv("OCF_CONTEXTS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert ocf("context", "add", "x", "--gateway", "http://h")[0] == 0
    assert os.listdir(tmp_path / "xdg/ocf") == ["contexts.json"]
    assert ocf("context", "use", "--none")[0] == 0
    with pytest.raises(where_module.NoStack, match=r"no stack runs in \.ocf"):
        where(None)
