"""What OpenCode is told before it starts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocf.events.command_payloads import ModelConfigData
from ocf.functions.execute.agent.agent import question_answers
from ocf.functions.execute.agent.config import (
    ServerSpec,
    configuration,
    environment,
    link_instructions,
    permission_rules,
    prepare_home,
)
from ocf.functions.execute.agent.opencode_model import AgentModel, model_catalog
from ocf.functions.models.resolve import ModelSettings, resolve

SPEC = ServerSpec(
    binary=Path("/opt/opencode"),
    directory=Path("/w"),
    home=Path("/h"),
    model_proxy_url="http://127.0.0.1:4000/v1",
    model_proxy_token="random",
    models=(AgentModel("openai", "m1"), AgentModel("anthropic", "m2"), AgentModel("google", "m3")),
)


def decided(rules: list[dict[str, str]], permission: str, pattern: str = "x") -> str:
    """What OpenCode makes of the rules: the last that matches."""
    return [r["action"] for r in rules if r["permission"] in (permission, "*") and r["pattern"] in (pattern, "*")][-1]


def test_opencode_leaves_silence_to_the_broker() -> None:
    """By itself it hangs up after 300 s without a header or a chunk and asks again, for ever."""
    for provider in configuration(SPEC)["provider"].values():  # type: ignore[attr-defined]
        for name in ("timeout", "headerTimeout", "chunkTimeout"):
            assert provider["options"][name] is False


def test_headless_default_is_allow_and_questions_are_not_offered() -> None:
    """Inside the sandbox everything is allowed; a question nobody can answer is denied."""
    rules = permission_rules({}, can_answer=False)
    assert decided(rules, "bash") == "allow"
    assert decided(rules, "question") == "deny"
    assert decided(permission_rules({}, can_answer=True), "question") == "allow"


def test_the_particular_wins_over_the_general() -> None:
    """Whatever order the caller's JSON had: `*`, then tools, then patterns of tools."""
    rules = permission_rules({"bash:git push": "deny", "bash": "ask", "*": "deny"}, can_answer=True)
    assert decided(rules, "read") == "deny"
    assert decided(rules, "bash") == "ask"
    assert decided(rules, "bash", "git push") == "deny"


def test_an_answer_that_only_looks_like_a_list_is_a_text() -> None:
    """Not valid, or nested deeper than any answer is: it is what the person said."""
    assert question_answers('["a", ["b"]]', "one\ntwo") == [["a"], ["b"]]
    for text in ("[a", "[" * 100_000, "[" * 1000 + "]" * 1000):
        assert question_answers(text, "one") == [[text]]


@pytest.mark.parametrize("name", ["edit", "write", "patch", "apply_patch"])
def test_all_tools_that_write_files_share_one_permission(name: str) -> None:
    """OpenCode calls it `edit`."""
    assert decided(permission_rules({name: "deny"}, can_answer=True), "edit") == "deny"


def test_tools_that_are_not_enabled_stay_off() -> None:
    """A permission cannot bring back a tool that the model config leaves out; `*` means those that are enabled."""
    rules = permission_rules({"*": "ask", "webfetch": "allow"}, ["bash", "write"], can_answer=True)
    assert decided(rules, "bash") == "ask"
    assert decided(rules, "edit") == "ask"
    assert decided(rules, "webfetch") == "deny"
    assert decided(rules, "read") == "deny"
    assert decided(rules, "external_directory") == "allow"


def test_every_api_format_goes_to_the_model_proxy() -> None:
    """One provider per format, the random token, no other provider, nothing shared, nothing updated."""
    config = json.loads(json.dumps(configuration(SPEC)))
    assert config["model"] == "ocf-openai/m1"
    assert set(config["provider"]) == {"ocf-openai", "ocf-anthropic", "ocf-google"} == set(config["enabled_providers"])
    urls = {name: provider["options"]["baseURL"] for name, provider in config["provider"].items()}
    proxy = "http://127.0.0.1:4000"
    assert urls == {"ocf-openai": f"{proxy}/v1", "ocf-anthropic": f"{proxy}/v1", "ocf-google": f"{proxy}/v1beta"}
    assert all(provider["options"]["apiKey"] == "random" for provider in config["provider"].values())
    assert config["share"] == "disabled"
    assert config["autoupdate"] is False
    assert config["snapshot"] is False
    assert configuration(replace(SPEC, model_proxy_url="http://127.0.0.1:4000")) == configuration(SPEC)


def test_a_model_of_the_catalog_keeps_opencodes_own_provider() -> None:
    """Only URL and token are ours: its limits, prices and reasoning are the built-in ones."""
    config = ModelConfigData(provider="anthropic", model="claude-sonnet-4-5", max_tokens=100)
    target = resolve(config, ModelSettings())
    model = replace(AgentModel.of(target), max_tokens=target.max_tokens)
    spec = replace(SPEC, models=(model,))
    assert list(json.loads(json.dumps(configuration(spec)))["provider"]) == ["anthropic"]
    provider = json.loads(json.dumps(model_catalog(spec.models)))["anthropic"]
    entry = provider["models"]["claude-sonnet-4-5"]
    assert (provider["npm"], entry["cost"]["output"]) == ("@ai-sdk/anthropic", 15)
    assert entry["limit"] == {"context": 1_000_000, "output": 100}


def test_the_environment_is_whole_and_keeps_the_project_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this process's environment gets in; project configuration, plugins and downloads are off."""
    monkeypatch.setenv("SECRET_OF_THE_FUNCTION", "x")
    env = environment(SPEC, "password")
    assert "SECRET_OF_THE_FUNCTION" not in env
    assert env["HOME"] == "/h"
    assert env["OPENCODE_SERVER_PASSWORD"] == "password"
    for name in (
        "DISABLE_PROJECT_CONFIG",
        "PURE",
        "DISABLE_MODELS_FETCH",
        "DISABLE_AUTOUPDATE",
        "DISABLE_LSP_DOWNLOAD",
    ):
        assert env[f"OPENCODE_{name}"] == "1"


def test_a_prepared_home_looks_installed(tmp_path: Path) -> None:
    """OpenCode's npm install is skipped when node_modules is there and the lock file names its plugin package."""
    tool = tmp_path / "rg"
    tool.touch()
    home = tmp_path / "home"
    for _ in range(2):
        prepare_home(home, [tool])
    config = home / ".config/opencode"
    assert (config / "node_modules").is_dir()
    lock = json.loads((config / "package-lock.json").read_text())
    assert "@opencode-ai/plugin" in lock["packages"][""]["dependencies"]
    assert (home / "bin/rg").resolve() == tool


def test_opencode_reads_a_catalog_of_the_runs_models(tmp_path: Path) -> None:
    """The catalog that OpenCode is pointed to is in its home, and small: parsing its own costs a third of the boot."""
    prepare_home(tmp_path, models=SPEC.models)
    catalog = Path(environment(replace(SPEC, home=tmp_path), "password")["OPENCODE_MODELS_PATH"])
    assert catalog.parent == tmp_path
    assert set(json.loads(catalog.read_text())) == {"ocf-openai", "ocf-anthropic", "ocf-google"}


def test_the_first_instructions_file_is_linked(tmp_path: Path) -> None:
    """AGENTS.md before CLAUDE.md, as OpenCode does it; a link, which only the sandboxed agent follows."""
    home, workspace = tmp_path / "home", tmp_path / "w"
    workspace.mkdir()
    prepare_home(home)
    link_instructions(workspace, home)
    assert list((home / "instructions").iterdir()) == []
    (workspace / "CLAUDE.md").write_text("claude")
    link_instructions(workspace, home)
    assert [path.name for path in (home / "instructions").iterdir()] == ["CLAUDE.md"]
    (workspace / "AGENTS.md").write_text("agents")
    link_instructions(workspace, home)
    (link,) = (home / "instructions").iterdir()
    assert link.readlink() == workspace / "AGENTS.md"


@pytest.fixture
def nothing_deep_stays(tmp_path: Path) -> Iterator[None]:
    yield
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # pytest's own clean-up would recurse too deep


@pytest.mark.usefixtures("nothing_deep_stays")
@pytest.mark.parametrize("planted", ["link", "file", "missing", "full"])
def test_a_home_that_the_agent_had_is_not_trusted(tmp_path: Path, planted: str) -> None:
    """Between two prompts the agent puts a link in the folder's place, or anything else: nothing is touched outside,
    and the instructions are linked."""
    home, workspace, other = tmp_path / "home", tmp_path / "w", tmp_path / "other"
    for folder in (workspace, other):
        folder.mkdir()
    (other / "precious").write_text("x")
    (workspace / "AGENTS.md").write_text("agents")
    prepare_home(home)
    folder = home / "instructions"
    if planted == "full":
        deep = os.open(folder, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("a", dir_fd=deep)
            deep, above = os.open("a", os.O_RDONLY, dir_fd=deep), deep
            os.close(above)
        os.close(deep)
        (folder / "AGENTS.md").symlink_to(other / "precious")
    else:
        folder.rmdir()
    if planted == "link":
        folder.symlink_to(other)
    elif planted == "file":
        folder.write_text("x")
    link_instructions(workspace, home)
    assert [path.name for path in other.iterdir()] == ["precious"]
    (link,) = folder.iterdir()
    assert link.readlink() == workspace / "AGENTS.md"


@pytest.mark.parametrize(
    ("answer", "title", "expected"),
    [
        ("blue", "Which colour?", [["blue"]]),
        ("blue\nbig", "Which colour?\nWhich size?", [["blue"], ["big"]]),
        ("blue", "Which colour?\nWhich size?", [["blue"], []]),
        ('["blue", ["big", "small"]]', "Which colour?\nWhich sizes?", [["blue"], ["big", "small"]]),
        ("two\nlines", "Why?", [["two\nlines"]]),
    ],
)
def test_answers_to_questions(answer: str, title: str, expected: list[list[str]]) -> None:
    """One question takes the text as it is; several take a line each, or a JSON list."""
    assert question_answers(answer, title) == expected
