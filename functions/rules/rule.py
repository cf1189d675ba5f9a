"""Rules: on which event which task starts. Everything about a rule that can be wrong is found when it is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from ocf.events.base_model import FreeObject, Model, ProjectId
from ocf.events.fact_payloads import FieldError
from ocf.events.task_forge_fields import ApiUrl, CredentialName, ForgeKind, RepositoryName
from ocf.functions.rules.condition import Condition, InvalidCondition
from ocf.functions.rules.text_template import InvalidTemplate, Text, is_template

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"), Field(examples=["fix"])]
#: An attribute's value; `*` at the end stands for any rest.
Pattern = Annotated[str, StringConstraints(pattern=r"^[^*\s]+\*?$", max_length=500)]
#: Fields of a task whose texts are templates, and those whose values from the event are marked as foreign text.
_TEMPLATES = re.compile(
    r"prompt|code|context|task_id|labels\..+|workspace\.(url|ref)"
    r"|result\.(branch|base|commit_message|pull_request\.(title|body))"
)
_MARKED = ("prompt", "code", "context")
#: Of all templates of a task together.
_MAX_BYTES, _MAX_EXPRESSIONS = 400_000, 400
_LITERAL_HOST = re.compile(r"(https?|ssh)://[^/{}]+/")


class Actors(Model):
    """Users who may cause the event on a forge, which is asked for their permission. Bots and own accounts may not."""

    permission: Literal["write", "triage", "any"] = "write"
    credential: Annotated[
        CredentialName | None,
        Field(description="by default that of workspace, result or poll"),
    ] = None
    users: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=100)] = Field(
        default_factory=list
    )


class On(Model):
    """The events of a rule. Every given field must match."""

    type: Annotated[Pattern, Field(examples=["com.github.issues.labeled"])] | None = None
    source: Pattern | None = None
    subject: Pattern | None = None
    where: Annotated[
        str | None, Field(max_length=2_000, examples=['event.data.label.name == "agent"'], description="CEL")
    ] = None
    actors: Actors = Actors()


class Poll(Model):
    """The questions to a forge that cannot send webhooks here, and their interval."""

    forge: ForgeKind
    api_url: ApiUrl | None = None
    repository: Annotated[RepositoryName, Field(examples=["team/app"])]
    what: Literal["issues", "comments", "pull_requests"]
    every: Annotated[
        str,
        Field(pattern=r"^([1-9][0-9]{1,4}s|[1-9][0-9]{0,3}m|[1-9][0-9]?h)$", description="10s at least"),
    ] = "60s"
    credential: CredentialName


class Rule(Model):
    """One rule of a project. Texts of `task` are templates over `event`."""

    name: Name
    project_id: ProjectId | None = None
    on: On
    task: Annotated[FreeObject, Field(description="a body of POST /tasks/execute, without ids")]
    poll: Annotated[Poll | None, Field(description="ask the forge instead of waiting for its webhook")] = None
    reply: Literal["comment"] | None = None
    follow_up: bool = False
    max_concurrent: Annotated[int, Field(ge=1, le=100)] | None = None
    cooldown_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    daily_budget_usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    own_events: Annotated[bool, Field(description="also events that executions of this system caused")] = False

    @property
    def credential(self) -> str | None:
        """Return the name of its forge credential: that of `actors`, else of workspace, result or poll."""
        parts = (self.task.get("workspace"), self.task.get("result"))
        named = [part.get("credential") for part in parts if isinstance(part, dict)]
        polled = self.poll.credential if self.poll is not None else None
        return next((str(one) for one in (self.on.actors.credential, *named, polled) if one), None)


class InvalidRule(ValueError):
    """The rule cannot be used; `errors` has each wrong field."""

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))


def compile_texts(task: Mapping[str, Any]) -> dict[str, Text]:
    """Return the compiled templates of a task by the path of their field.

    Raises:
        InvalidRule: A template is not in the allowed subset, or together they are too long or too many.
    """
    found: dict[str, Text] = {}
    errors: list[FieldError] = []
    size = expressions = 0

    def compiled(path: str, text: str) -> str:
        nonlocal size, expressions
        size += len(text.encode(errors="replace"))
        if size > _MAX_BYTES or expressions > _MAX_EXPRESSIONS:
            message = (
                f"the task's templates have more than {_MAX_BYTES} bytes or {_MAX_EXPRESSIONS} expressions and ifs"
            )
            errors.append(FieldError(field=f"task.{path}", message=message))
            return text
        try:
            found[path] = Text(text, marked=path in _MARKED)
            expressions += found[path].expressions
        except InvalidTemplate as error:
            errors.append(FieldError(field=f"task.{path}", message=str(error)))
        return text

    replace_texts(task, compiled)
    url = dict(task.get("workspace") or {}).get("url")
    if "workspace.url" in found and not _LITERAL_HOST.match(str(url)):
        # An event must not choose the host to which a repository's credential is sent.
        message = (
            "must begin with its scheme and host, such as https://github.com/{{ event.data.repository.full_name }}"
        )
        errors.append(FieldError(field="task.workspace.url", message=message))
    if errors:
        raise InvalidRule(errors)
    return found


def replace_texts(
    task: Mapping[str, Any], replaced: Callable[[str, str], str], *, every: bool = False
) -> dict[str, Any]:
    """Return a copy of a task in which `replaced(path, text)` stands for each template, or for every text."""

    def walk(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, Mapping):
            return {name: walk(one, f"{path}.{name}" if path else str(name)) for name, one in value.items()}
        if isinstance(value, str) and (every or (is_template(value) and _TEMPLATES.fullmatch(path))):
            return replaced(path, value)
        return value

    walked: dict[str, Any] = walk(task, "")
    return walked


def compile_condition(rule: Rule) -> Condition | None:
    """Return the compiled condition of a rule.

    Raises:
        InvalidRule: It is not valid, the rule would match every event, or it cannot reply.
    """
    on = rule.on
    if on.type is None and on.source is None and on.subject is None:
        raise InvalidRule([FieldError(field="on", message="must name at least one of type, source and subject")])
    if rule.reply is not None and rule.credential is None:
        message = "needs a credential of the forge: on.actors.credential, workspace.credential or result.credential"
        raise InvalidRule([FieldError(field="reply", message=message)])
    try:
        return None if on.where is None else Condition(on.where)
    except InvalidCondition as error:
        raise InvalidRule([FieldError(field="on.where", message=str(error))]) from None
