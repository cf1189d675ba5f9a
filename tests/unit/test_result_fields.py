"""`result`, `reply_to` and `workspace.credential` of a task: what the schema and the rules of submit refuse."""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ocf.events.command_payloads import Submit
from ocf.events.task_forge_fields import Branch, TaskResult
from ocf.functions.submit.task_rules import broken_rules
from tests.support.parts import PROJECT, bench

BRANCH = TypeAdapter(Branch)
URL = "https://github.com/team/app.git"


@pytest.mark.parametrize(
    "name",
    [
        "-f",
        "--upload-pack=touch x",
        "--force",
        "refs/heads/x",
        "HEAD",
        "@",
        "a..b",
        "a b",
        "a:b",
        "+main",
        "a~1",
        "a^",
        "a@{1}",
        "a.lock",
        "a.lock/b",
        ".a",
        "a/.b",
        "/a",
        "a/",
        "a//b",
        "a.",
        "a\\b",
        "a\nb",
        "a*",
        "a[0]",
        "",
    ],
)
def test_a_branch_is_a_plain_name(name: str) -> None:
    """Nothing that git would take for an option, a refspec, another ref or a revision."""
    with pytest.raises(ValidationError):
        TaskResult(branch=name)


@given(st.text(alphabet="abAZ0/.-_@{}~^: *[\\lock+", min_size=1, max_size=12))
def test_what_the_schema_accepts_git_accepts(name: str) -> None:
    """git-check-ref-format is the judge."""
    try:
        BRANCH.validate_python(name)
    except ValidationError:
        return
    done = subprocess.run(["git", "check-ref-format", "--branch", name], capture_output=True, check=False)
    assert done.returncode == 0, name
    assert not name.startswith(("-", "+"))


def errors(**task: Any) -> dict[str, str]:
    """The fields that the rules of submit refuse."""
    body = {"prompt": "x", "execution_id": str(uuid.uuid4()), "project_id": PROJECT, **task}
    settings = bench(**body.pop("settings", {})).deps.settings
    return {error.field: error.message for error in broken_rules(Submit.model_validate(body), settings)}


def git(**more: Any) -> dict[str, Any]:
    return {"source": "git", "url": URL, "credential": "bot", **more}


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ({"result": {"branch": "a"}}, "result"),
        ({"result": {"branch": "a"}, "workspace": {"source": "git", "url": URL}}, "result.credential"),
        ({"result": {"branch": "a"}, "workspace": git(ref="a")}, "result.branch"),
        ({"result": {"branch": "a", "allow_ci_changes": True}, "workspace": git()}, "result.allow_ci_changes"),
    ],
)
def test_a_result_that_cannot_be_pushed_is_refused_at_submit(task: dict[str, Any], field: str) -> None:
    """By field, before anything starts."""
    assert list(errors(**task)) == [field]


def test_the_forge_of_a_token_must_be_known() -> None:
    """By its host, or by name."""
    sealed = {"kid": "x", "nonce": "x", "ciphertext": "x"}
    workspace = {"source": "git", "url": "https://git.example/team/app", "token": sealed}
    assert list(errors(result={"branch": "a"}, workspace=workspace)) == ["result.forge"]
    assert errors(result={"branch": "a", "forge": "gitea"}, workspace=workspace) == {}
    elsewhere = {"branch": "a", "forge": "gitea", "api_url": "https://evil.example/api/v1"}
    assert list(errors(result=elsewhere, workspace=workspace)) == ["result.forge"]


def test_a_good_result_is_accepted() -> None:
    """With a credential; with the operator's leave for CI files."""
    assert errors(result={"branch": "a"}, workspace=git()) == {}
    ci = {"branch": "a", "allow_ci_changes": True}
    assert errors(result=ci, workspace=git(), settings={"ALLOW_CI_CHANGES": True}) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"branch": "a", "base": "a"},
        {"branch": "a", "author": "no address"},
        {"branch": "a", "author": "x\n <a@b>"},
        {"branch": "a", "pull_request": {"reviewers": ["../x"]}},
        {"branch": "a", "credential": "../../other"},
        {"branch": "a", "api_url": "https://user:pass@host/"},
    ],
)
def test_a_wrong_field_of_a_result_is_refused(fields: dict[str, Any]) -> None:
    """What would reach git's or a forge's arguments."""
    with pytest.raises(ValidationError):
        TaskResult.model_validate(fields)


def test_a_repository_has_one_secret() -> None:
    """A credential or a token."""
    sealed = {"kid": "x", "nonce": "x", "ciphertext": "x"}
    with pytest.raises(ValidationError, match="not both"):
        errors(workspace=git(token=sealed))
