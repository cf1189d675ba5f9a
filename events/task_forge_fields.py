"""Fields of a task that concern a forge: the pull request to open, the place of a comment, names of credentials."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ocf.events.base_model import Model, Text, no_credentials

ForgeKind = Literal["github", "gitlab", "gitea"]
CredentialName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"), Field(examples=["team-bot"])
]
#: `owner/name`; GitLab: `group/.../name`.
RepositoryName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+$", max_length=400)
]
ApiUrl = Annotated[
    str,
    Field(
        pattern=r"^https?://[^\s?#]+$",
        max_length=2_000,
        examples=["https://git.example.com/api/v1"],
        json_schema_extra={"pattern": r"^https?://(?![^/?#]*@)[^\s?#]+$"},
    ),
    AfterValidator(no_credentials),
]

#: git-check-ref-format(1); the pattern also refuses what a command line would take for an option.
_NOT_A_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-+/.]|/\.|[/.]$|\.lock(/|$)|^@$|^HEAD$|^refs/", re.IGNORECASE
)


def _branch(value: str) -> str:
    if _NOT_A_BRANCH.search(value):
        raise ValueError("must be the plain name of a branch such as fix/issue-12 (git-check-ref-format)")
    return value


Branch = Annotated[str, Field(min_length=1, max_length=200, examples=["ocf/issue-12"]), AfterValidator(_branch)]
_Login = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\[\]-]{0,99}$")]


class PullRequestFields(Model):
    """Texts of the pull request. The title is the task's first line unless given, the body the agent's last message."""

    title: Annotated[Text, Field(min_length=1, max_length=250)] | None = None
    body: Annotated[Text, Field(max_length=60_000)] | None = None
    draft: bool = False
    labels: Annotated[list[Annotated[Text, Field(min_length=1, max_length=100)]], Field(max_length=20)] = []
    reviewers: Annotated[list[_Login], Field(max_length=20)] = []


class TaskResult(Model):
    """A branch with the changes of a completed execution, and a pull request from it to `base`."""

    branch: Branch
    base: Annotated[Branch, Field(description="the workspace's branch, else the default branch")] | None = None
    commit_message: Annotated[Text, Field(min_length=1, max_length=20_000)] | None = None
    author: (
        Annotated[
            str,
            Field(
                pattern=r"^[^<>\x00-\x1f\x7f]{1,200} <[^<>\s\x00-\x1f\x7f]{1,200}>$", examples=["Ada <ada@example.com>"]
            ),
        ]
        | None
    ) = None
    pull_request: PullRequestFields = PullRequestFields()
    forge: ForgeKind | None = None
    api_url: ApiUrl | None = None
    credential: CredentialName | None = None
    allow_ci_changes: Annotated[bool, Field(description="within the operator's ALLOW_CI_CHANGES")] = False

    @model_validator(mode="after")
    def _apart(self) -> TaskResult:
        if self.branch == self.base:
            raise ValueError("branch must differ from base")
        return self


class ReplyTo(Model):
    """The issue or pull request on which the end of the execution becomes a comment."""

    credential: CredentialName
    repository: RepositoryName
    kind: Literal["issue", "pull_request"] = "issue"
    number: Annotated[int, Field(ge=1, le=2**53)]
