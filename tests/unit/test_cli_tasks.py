"""The body that `ocf run`, `ocf submit` and `ocf session create` make of their options."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ocf.cli.app import app
from ocf.cli.options.task import TASK_OPTIONS
from ocf.functions.gateway.request_schemas import CreateSession, ExecuteTask
from ocf.functions.rules.schedule_store import Schedule

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"


@dataclass
class Asked:
    """A gateway that keeps what it was sent."""

    body: dict[str, Any] = field(default_factory=dict)
    address: Any = None

    async def call(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        if method == "GET":
            return {"items": [{"execution_id": ID, "session_id": ID}], "next": None}
        self.body = body
        return {"execution_id": ID, "session_id": ID, "status": "open"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.delenv("PROJECT_ID", raising=False)
    gateway = Asked()

    def connected(work: Any, project: str | None, _: object) -> None:
        gateway.address = SimpleNamespace(project=project or "default")
        asyncio.run(work(gateway))

    monkeypatch.setattr("ocf.cli.verb.connected", connected)
    return gateway


def submit(*words: str, stdin: str | bytes | None = None) -> str:
    """Error output of `ocf submit`, in one line without the box."""
    found = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["submit", *words], input=stdin)
    return " ".join(found.stderr.replace("│", " ").split())


#: Each option with a value, and what it makes of the body.
OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--git", "https://h/r.git"], {"workspace": {"source": "git", "url": "https://h/r.git"}}),
    (["--snapshot", ID], {"workspace": {"source": "snapshot", "execution_id": ID}}),
    (
        ["--git", "https://h/r.git", "--ref", "main", "--depth", "3", "--submodules"],
        {"workspace": {"source": "git", "url": "https://h/r.git", "ref": "main", "depth": 3, "submodules": True}},
    ),
    (["--session", ID], {"session_id": ID}),
    (
        ["-m", "local/a/b", "--endpoint", "https://h/v1"],
        {"model_config": {"provider": "local", "model": "a/b", "api_endpoint": "https://h/v1"}},
    ),
    (
        ["-m", "local/m", "--variant", "high", "--agent", "plan"],
        {"model_config": {"provider": "local", "model": "m", "variant": "high"}, "agent": "plan"},
    ),
    (
        [
            "-m",
            "local/m",
            "--model-version",
            "2",
            "--temperature",
            "0.5",
            "--max-tokens",
            "9",
            "--tool",
            "read",
            "--tool",
            "grep",
        ],
        {
            "model_config": {
                "provider": "local",
                "model": "m",
                "model_version": "2",
                "temperature": 0.5,
                "max_tokens": 9,
                "enabled_tools": ["read", "grep"],
            }
        },
    ),
    (
        ["--shared", "team/app", "--keep-ignored"],
        {"workspace": {"source": "shared", "path": "team/app", "keep_ignored": True}},
    ),
    (["--task-id", "T-1"], {"task_id": "T-1"}),
    (["--timeout", "60", "--silence", "9"], {"limits": {"timeout_seconds": 60, "silence_seconds": 9}}),
    (["--answer-time", "5", "--max-total-tokens", "7"], {"limits": {"answer_seconds": 5, "max_total_tokens": 7}}),
    (["--max-cost", "0.5", "--max-memory", "2GiB"], {"limits": {"max_cost_usd": 0.5, "max_memory_bytes": 2 * 2**30}}),
    (
        ["--max-workspace", "5GB", "--max-output", "10k", "--max-processes", "8"],
        {"limits": {"max_workspace_bytes": 5 * 10**9, "max_output_bytes": 10_000, "max_processes": 8}},
    ),
    (["--max-attempts", "3"], {"retry": {"max_attempts": 3}}),
    (
        ["--permission", "bash:git log --format=*=allow", "--permission", "edit=deny"],
        {"permissions": {"bash:git log --format=*": "allow", "edit": "deny"}},
    ),
    (["--allow-host", "pypi.org", "--allow-host", "h:1"], {"network": {"allow": ["pypi.org", "h:1"]}}),
    (["-l", "a=b", "--label", "c=d=e"], {"labels": {"a": "b", "c": "d=e"}}),
]


@pytest.mark.parametrize(("words", "body"), OPTIONS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_an_option_sets_its_field(words: list[str], body: dict[str, Any], asked: Asked) -> None:
    """And the gateway takes the result."""
    assert submit("do it", *words) == ""
    assert asked.body == {"prompt": "do it", "project_id": "default", **body}
    ExecuteTask.model_validate(asked.body)


def test_secrets_come_from_files(asked: Asked, tmp_path: Path) -> None:
    """Token and key are in no argument, which every user of the machine can read; a final line feed is not theirs."""
    token, directory = tmp_path / "token", tmp_path / "work"
    token.write_text("t0ken\n")
    directory.mkdir()
    words = ["x", "--git", "https://h/r.git", "--git-token-file", str(token), "-m", "p/m", "--key-file", "-"]
    assert submit(*words, stdin="k3y\n") == ""
    assert asked.body["workspace"]["token"] == "t0ken"
    assert asked.body["model_config"] == {"provider": "p", "model": "m", "api_key": "k3y"}
    submit("x", "--dir", str(directory))
    assert asked.body["workspace"] == {"source": "directory", "path": str(directory)}


def test_files_become_attachments_schema_and_servers(asked: Asked, tmp_path: Path) -> None:
    """The media type is that of the name, or plain text; what no model reads is refused."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "Makefile").write_text("all:")
    (tmp_path / "x.json").write_text('{"type": "object"}')
    (tmp_path / "mcp.json").write_text('{"docs": {"type": "local", "command": ["docs"]}}')
    (tmp_path / "bin").write_bytes(b"\xff\xfe")
    words = ["--attach", f"{tmp_path}/a.png", "--attach", f"{tmp_path}/Makefile", "--schema", f"{tmp_path}/x.json"]
    assert submit("x", *words, "--mcp", f"{tmp_path}/mcp.json") == ""
    assert [(one["name"], one["media_type"]) for one in asked.body["attachments"]] == [
        ("a.png", "image/png"),
        ("Makefile", "text/plain"),
    ]
    assert asked.body["output_schema"] == {"type": "object"}
    ExecuteTask.model_validate(asked.body)
    assert "bin: must be text, JSON, a PDF" in submit("x", "--attach", f"{tmp_path}/bin")


def test_setup_secrets_and_definitions_come_from_files(asked: Asked, tmp_path: Path, monkeypatch: Any) -> None:
    """The name of a definition is its file's, or its skill's folder; a secret's value is in no argument."""
    monkeypatch.setenv("TRACKER", "tok-0123456789")
    for name, text in (
        ("setup.sh", "npm ci"),
        ("reviewer.md", "You review."),
        ("release/SKILL.md", "---\nname: release\n---"),
        ("secrets.json", '{"GIT": {"value": "0123456789", "url": "https://h/", "inject": {"header": "X-Key"}}}'),
        ("system.txt", "Be brief."),
        ("facts.json", '{"context": 9, "output": 3}'),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    words = ["--setup", f"{tmp_path}/setup.sh", "--setup-timeout", "9", "--setup-cache", "k", "--code",
             f"{tmp_path}/system.txt", "--context", f"{tmp_path}/system.txt", "--agent-file", f"{tmp_path}/reviewer.md",
             "--skill-file", f"{tmp_path}/release/SKILL.md", "--command-file", f"go={tmp_path}/reviewer.md",
             "--secret", "TRACKER=https://api.example.com/v1/", "--secrets", f"{tmp_path}/secrets.json",
             "-m", "own/m", "--system-prompt", f"{tmp_path}/system.txt",
             "--facts", f"{tmp_path}/facts.json"]  # fmt: skip
    assert submit(*words) == ""
    body = asked.body
    ExecuteTask.model_validate(body)
    assert body["setup"] == {"run": "npm ci", "timeout_seconds": 9, "cache_key": "k"}
    assert (list(body["agents"]), list(body["skills"]), list(body["commands"])) == (["reviewer"], ["release"], ["go"])
    assert body["secrets"]["TRACKER"] == {
        "value": "tok-0123456789",
        "url": "https://api.example.com/v1/",
        "inject": {"header": "Authorization", "format": "Bearer {}"},
    }
    assert list(body["secrets"]) == ["TRACKER", "GIT"]
    assert body["model_config"]["system_prompt"] == body["code"] == body["context"] == "Be brief."
    assert "the environment variable NONE must hold its value" in submit("x", "--secret", "NONE=https://h/")


BY_OTHERS = {"project_id", "execution_id", "reply_to", "result", "rerun"}


def _paths(schema: dict[str, Any], defs: dict[str, Any], at: str = "") -> set[str]:
    """Return the fields of a task, and of its objects that have fixed fields."""
    found = set()
    for name, about in schema["properties"].items():
        kinds = [defs[one["$ref"].rsplit("/", 1)[-1]] for one in (about, *about.get("anyOf", ())) if "$ref" in one]
        inner = [one for one in kinds if "properties" in one and at == ""]
        found |= set().union(*(_paths(one, defs, f"{name}.") for one in inner)) if inner else {f"{at}{name}"}
    return found


def test_every_field_of_the_task_has_an_option_and_every_option_a_field() -> None:
    """No field needs a file of the whole task, and no row is refused by the gateway at each use."""
    schema = ExecuteTask.model_json_schema(by_alias=True)
    fields = {option.field for option in TASK_OPTIONS} | {"model_config.provider", "model_config.model"}
    # The project is an option of every verb; an execution gets its id from the gateway; rules set where to comment.
    assert {name.split(".")[0] for name in _paths(schema, schema["$defs"]) - fields} <= BY_OTHERS
    known = _paths(schema, schema["$defs"])
    odd = {field for field in fields - known - {"", "model_config", "result"} if not field.startswith("workspace.")}
    assert odd == set()


def test_a_file_is_the_body_and_options_override_it(asked: Asked, tmp_path: Path) -> None:
    """Every field can be given in the file; objects of names are merged, a workspace is replaced."""
    task = {
        "project_id": "team", "prompt": "old", "context": {"a": 1}, "labels": {"a": "1", "b": "2"},
        "limits": {"timeout_seconds": 1, "max_processes": 9}, "model_config": {"provider": "p", "model": "m"},
        "workspace": {"source": "git", "url": "https://h/r.git", "token": "t"},
    }  # fmt: skip
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task))
    assert submit("--file", str(path)) == ""
    assert asked.body == task
    assert (
        submit("-f", "-", "new", "-l", "b=3", "--timeout", "7", "--ref", "v1", "-p", "other", stdin=json.dumps(task))
        == ""
    )
    assert asked.body == task | {
        "project_id": "other", "prompt": "new", "labels": {"a": "1", "b": "3"},
        "limits": {"timeout_seconds": 7, "max_processes": 9}, "workspace": {**task["workspace"], "ref": "v1"},  # type: ignore[dict-item]
    }  # fmt: skip
    assert submit("-f", str(path), "--git", "https://other/r.git") == ""
    assert asked.body["workspace"] == {"source": "git", "url": "https://other/r.git"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "PROMPT, --code or --file is required"),
        (["x", "--ref", "main"], "--ref (field workspace.ref): belongs to --git"),
        (["x", "--git", "u", "--snapshot", ID], "--git and --snapshot exclude each other: each names a workspace"),
        (["-", "--file", "-"], "--file and PROMPT exclude each other: each reads standard input"),
        (["x", "-m", "gpt"], "--model (field model_config): must be provider/model, for example"),
        (["x", "--variant", "high"], "--variant: needs --model provider/model beside it"),
        (["x", "-l", "a"], "--label (field labels): 'a' must be KEY=VALUE"),
        (["x", "--permission", "bash"], "--permission (field permissions): 'bash' must be NAME=allow"),
        (["x", "--max-memory", "2 cows"], "--max-memory (field limits.max_memory_bytes): must be a number of bytes"),
        (["x", "--timeout", "0"], "'--timeout': 0 is not in the range x>=1"),
        (["x", "--key-file", "/none"], "--key-file (field model_config.api_key): /none: No such file or directory"),
        (["--file", "/none"], "--file: /none: No such file or directory"),
    ],
)
def test_a_wrong_option_is_named_with_its_field(words: list[str], problem: str, asked: Asked) -> None:
    """One sentence that says what would be right, before anything is sent."""
    assert problem in submit(*words)
    assert asked.address is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", "--file: -: not valid JSON"),
        (b"[]", "--file: -: must be a JSON object"),
        (b"[" * 100 + b"]" * 100, "nested deeper than"),
        (b"\xff", "not UTF-8"),
        (b'{"limits": 3}', "--timeout (field limits.timeout_seconds): limits must be an object in --file"),
    ],
)
def test_a_wrong_file_is_named(text: bytes, problem: str, asked: Asked) -> None:
    """Also one that would cost memory to parse."""
    assert problem in submit("--file", "-", "--timeout", "5", stdin=text)
    assert asked.address is None


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--session", "0b9f"], "session_id", ID),
        (
            ["--snapshot", "0b9f", "--keep-ignored"],
            "workspace",
            {"source": "snapshot", "execution_id": ID, "keep_ignored": True},
        ),
    ],
)
def test_the_beginning_of_an_id_becomes_the_id(words: list[str], field: str, value: Any, asked: Asked) -> None:
    """Where the task has it, of its own or in a schedule; what else was given stays; standard input is read once."""
    assert submit("-", *words, stdin="0b9f") == ""
    assert asked.body == {"project_id": "default", "prompt": "0b9f", field: value}
    create = ["schedule", "create", "nightly", "-", "--cron", "0 3 * * *", *words]
    found = CliRunner().invoke(app, create, input="0b9f")
    assert (found.exit_code, found.stderr) == (0, "")
    Schedule.model_validate(asked.body)
    assert asked.body == {
        "project_id": "default", "name": "nightly", "cron": "0 3 * * *", "task": {"prompt": "0b9f", field: value},
    }  # fmt: skip


def test_a_session_takes_the_options_of_its_body(asked: Asked) -> None:
    """Workspace, labels, lifetime; from an execution instead of a workspace."""
    runner = CliRunner()
    assert runner.invoke(app, ["session", "create", "--git", "https://h/r", "-l", "a=b", "--ttl", "9"]).exit_code == 0
    workspace = {"source": "git", "url": "https://h/r"}
    assert asked.body == {"project_id": "default", "workspace": workspace, "labels": {"a": "b"}, "ttl_seconds": 9}
    CreateSession.model_validate(asked.body)
    found = runner.invoke(app, ["session", "create", "--from", ID, "--snapshot", ID])
    assert found.exit_code == 2
    assert "exclude each other" in found.stderr
