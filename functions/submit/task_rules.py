"""Rules of a task beyond its schema: the operator's settings, its model, and fields that depend on each other."""

from __future__ import annotations

from collections.abc import Iterator

from ocf.events.command_payloads import GitWorkspace, Submit
from ocf.events.fact_payloads import FieldError
from ocf.events.optional_task_fields import DefinitionFolder, Definitions, RemoteMcp
from ocf.functions.core import task_limits
from ocf.functions.core.agent_definitions import (
    BUILT_IN_AGENTS,
    InvalidDefinition,
    agent_definition,
    command_definition,
    skill_definition,
)
from ocf.functions.forges.addresses import forge_address
from ocf.functions.forges.http import ForgeRefused
from ocf.functions.models.endpoint_check import BadEndpoint
from ocf.functions.models.resolve import NoModel, model_settings, resolve
from ocf.functions.settings.host_rules import InvalidRule, host_allowed, origin_of
from ocf.functions.settings.settings import Settings


def broken_rules(data: Submit, settings: Settings) -> list[FieldError]:
    """Return the fields that exceed the operator's settings or do not fit each other."""
    found = [*task_limits.exceeded(data.limits, settings), *_network(data, settings)]
    found += [*_model(data, settings), *_definitions(data), *_agent(data, settings), *_output_schema(data)]
    found += _result(data, settings)
    return [FieldError(field=field, message=message) for field, message in found]


def _result(data: Submit, settings: Settings) -> Iterator[tuple[str, str]]:
    result, source = data.result, data.workspace
    if result is None:
        return
    if result.allow_ci_changes and not settings.allow_ci_changes:
        yield "result.allow_ci_changes", "the operator does not allow it (ALLOW_CI_CHANGES)"
    if isinstance(source, GitWorkspace):
        if result.credential is None and source.credential is None and source.token is None:
            yield "result.credential", "is required: the workspace has no credential or token"
        try:
            if result.credential is None and source.credential is None:
                forge_address(result.forge, result.api_url, source.url).repository(source.url)
        except ForgeRefused as error:
            yield "result.forge", str(error)
        if result.branch == (source.ref or "").removeprefix("refs/heads/"):
            yield "result.branch", "is the branch that the workspace is cloned from"
    elif data.session_id is None:
        yield "result", "needs a workspace with source: git"


def _network(data: Submit, settings: Settings) -> Iterator[tuple[str, str]]:
    for index, host in enumerate(data.network.allow):
        if (problem := _against_network(host, settings.network_allow)) is not None:
            yield f"network.allow.{index}", problem
    if data.rerun is not None:
        return  # its recording answers for these
    urls = {f"secrets.{name}.url": secret.url for name, secret in data.secrets.items()}
    urls |= {f"mcp.{name}.url": server.url for name, server in data.mcp.items() if isinstance(server, RemoteMcp)}
    for field, url in urls.items():
        try:
            problem = _against_network("{}:{}".format(*origin_of(url)), settings.network_allow)
        except InvalidRule as error:
            problem = str(error)
        if problem is not None:
            yield field, problem


def _against_network(host: str, ceiling: tuple[str, ...]) -> str | None:
    try:
        return None if host_allowed(host, ceiling) else f"{host} is not within the operator's NETWORK_ALLOW"
    except InvalidRule as error:
        return str(error)


def _model(data: Submit, settings: Settings) -> Iterator[tuple[str, str]]:
    """Check what the task asks of its model against the model's facts."""
    variant = data.model.variant if data.model is not None else None
    if variant is None and all(one.modality == "text" for one in data.attachments):
        return
    try:
        target = resolve(data.model, model_settings(settings))
    except (NoModel, BadEndpoint):
        return  # the worker states why; it may have other settings
    name, facts = target.display_name, target.facts
    if variant is not None and (facts is None or facts.variants is None):
        yield "model_config.variant", f"the variants of {name} are not known; name them in model_config.facts.variants"
    elif variant is not None and facts is not None and variant not in (facts.variants or ()):
        known = ", ".join(facts.variants or ())
        yield "model_config.variant", f"must be one of {known}" if known else f"{name} has no variants; leave it out"
    # Nothing is known of many models at an own endpoint: then the caller knows.
    inputs = None if facts is None else facts.input
    for number, one in enumerate(data.attachments):
        if inputs is not None and one.modality not in ("text", *inputs):
            yield f"attachments.{number}.media_type", f"{name} takes {', '.join(inputs)} only"


def _definitions(data: Submit) -> Iterator[tuple[str, str]]:
    """Parse what the task has by content; references are read by the worker."""
    for name, text in _contents(data.agents):
        try:
            agent_definition(name, text)
        except InvalidDefinition as error:
            yield f"agents.{name}", str(error)
    for name, text in _contents(data.skills):
        try:
            skill_definition(name, {"SKILL.md": text.encode()})
        except InvalidDefinition as error:
            yield f"skills.{name}", str(error)
    for name, text in _contents(data.commands):
        try:
            command_definition(text)
        except InvalidDefinition as error:
            yield f"commands.{name}", str(error)


def _contents(definitions: Definitions) -> Iterator[tuple[str, str]]:
    if not isinstance(definitions, DefinitionFolder):
        yield from ((name, one.content) for name, one in definitions.items() if one.content is not None)


def _agent(data: Submit, settings: Settings) -> Iterator[tuple[str, str]]:
    if data.agent is None or settings.allow_repository_config or isinstance(data.agents, DefinitionFolder):
        return
    known = (*BUILT_IN_AGENTS, *data.agents)
    if data.agent not in known:
        yield "agent", f"must be one of {', '.join(known)}"


def _output_schema(data: Submit) -> Iterator[tuple[str, str]]:
    if data.output_schema is None:
        return
    # Imported only here: few tasks have one, and it would slow every start of the function.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(data.output_schema)
    except SchemaError as error:
        yield "output_schema", f"is not a JSON Schema (draft 2020-12): {error.json_path}: {error.message[:300]}"
        return
    if data.output_schema.get("type") != "object":
        yield "output_schema", 'must have "type": "object": models give structured output as an object'
