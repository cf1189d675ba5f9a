"""Definitions of agents, skills and commands: Markdown with YAML front matter, as OpenCode 1.18 reads it.

They come from tenants and repositories, so OpenCode never reads the files: each is parsed here within limits and
becomes an entry of its configuration. The front matter chooses no model, no provider options and no plugin; its
permissions apply where the task says nothing (`narrowed`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ocf.events.command_payloads import PERMISSIONS
from ocf.events.errors import OcfError
from ocf.events.optional_task_fields import MAX_DEFINITION_BYTES, MCP_TOOL, NAME
from ocf.events.untrusted_json import KIB

#: Agents of OpenCode itself that can run a task.
BUILT_IN_AGENTS = ("build", "plan")
#: Those that cannot be redefined: OpenCode uses them for its own work, or the task relies on them.
RESERVED_AGENTS = frozenset({*BUILT_IN_AGENTS, "general", "explore", "compaction", "title", "summary"})
#: The plan agent's own rule, which OpenCode's configuration `"*": "allow"` would override.
PLAN_PERMISSIONS: Mapping[str, str] = {"edit": "deny"}

_FRONT_MATTER_BYTES = 16 * KIB
_FRONT_MATTER_EVENTS = 2_000
_FRONT_MATTER_DEPTH = 8
_FENCE = re.compile(r"\A---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_SHELL = re.compile(r"!`[^`]+`")
_EDITS = ("edit", "write", "patch", "apply_patch", "multiedit")
_MODES = ("primary", "subagent", "all")
_ACTIONS = ("allow", "ask", "deny")


class InvalidDefinition(OcfError):
    """A definition cannot be used; the message names the fault."""


@dataclass(frozen=True)
class AgentDefinition:
    """An agent: its system prompt and the settings that OpenCode may use. `permissions` as in a task."""

    description: str
    prompt: str
    mode: str = "all"
    permissions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CommandDefinition:
    """A command: the template of a prompt. `agent` runs it."""

    template: str
    description: str = ""
    agent: str | None = None
    subtask: bool | None = None


@dataclass(frozen=True)
class SkillDefinition:
    """A skill: `files` by their path below its folder; one is `SKILL.md`."""

    files: Mapping[str, bytes]


@dataclass(frozen=True)
class TaskDefinitions:
    """Definitions by name. `ignored` names those of the repository that are not usable, with the reasons."""

    agents: Mapping[str, AgentDefinition] = field(default_factory=dict)
    skills: Mapping[str, SkillDefinition] = field(default_factory=dict)
    commands: Mapping[str, CommandDefinition] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.agents or self.skills or self.commands)

    @property
    def runners(self) -> list[str]:
        """Return the agents that can run a task."""
        return [*BUILT_IN_AGENTS, *(name for name, agent in self.agents.items() if agent.mode != "subagent")]

    def permissions_of(self, agent: str | None) -> Mapping[str, str]:
        """Return an agent's own permissions."""
        if agent == "plan":
            return PLAN_PERMISSIONS
        return self.agents[agent].permissions if agent is not None and agent in self.agents else {}


def is_name(text: str) -> bool:
    """Return whether `text` can name a definition."""
    return len(text) <= 64 and re.fullmatch(NAME, text) is not None


def permission_key(key: str) -> str:
    """Return a key of `permissions` by OpenCode's names: it has one permission for all tools that write files."""
    tool, colon, pattern = key.partition(":")
    return f"{'edit' if tool in _EDITS else tool}{colon}{pattern}"


def narrowed(own: Mapping[str, str], task: Mapping[str, str]) -> dict[str, str]:
    """Return the permissions of an agent in a task: an own entry applies where the task has no general one for it."""
    asked = {permission_key(key): action for key, action in task.items()}
    if "*" in asked:
        return asked
    kept = {permission_key(key): action for key, action in own.items()}
    return {key: action for key, action in kept.items() if key.partition(":")[0] not in asked} | asked


def agent_definition(name: str, text: str) -> AgentDefinition:
    """Parse an agent. Raises InvalidDefinition."""
    if name in RESERVED_AGENTS:
        raise InvalidDefinition(f"{name} is an agent of OpenCode itself; use another name")
    meta, prompt = _parsed(text)
    mode = meta.get("mode", "all")
    if mode not in _MODES:
        raise InvalidDefinition(f"mode must be one of {', '.join(_MODES)}")
    settings: dict[str, Any] = {key: _number(meta, key, 0, 2) for key in ("temperature", "top_p") if key in meta}
    if (steps := meta.get("steps", meta.get("maxSteps"))) is not None:
        settings["steps"] = int(_number({"steps": steps}, "steps", 1, 10_000))
    return AgentDefinition(_text(meta, "description") or name, prompt.strip(), mode, _permissions(meta), settings)


def command_definition(text: str) -> CommandDefinition:
    """Parse a command. Raises InvalidDefinition."""
    meta, template = _parsed(text)
    subtask = meta.get("subtask")
    if not isinstance(subtask, bool | None):
        raise InvalidDefinition("subtask must be true or false")
    if not template.strip():
        raise InvalidDefinition("the template below the front matter is empty")
    return CommandDefinition(template.strip(), _text(meta, "description"), _text(meta, "agent") or None, subtask)


def skill_definition(name: str, files: Mapping[str, bytes]) -> SkillDefinition:
    """Parse a skill. Its name is the task's, and unknown front matter is left out. Raises InvalidDefinition."""
    raw = files.get("SKILL.md")
    if raw is None:
        raise InvalidDefinition("has no SKILL.md")
    meta, body = _parsed(decoded(raw))
    front = yaml.safe_dump({"name": name, "description": _text(meta, "description") or name}, allow_unicode=True)
    return SkillDefinition({**files, "SKILL.md": f"---\n{front}---\n{body}".encode()})


def may_run_shell(template: str, arguments: str) -> bool:
    """Return whether OpenCode may run shell commands (`!` before backquotes) to fill the template.

    The arguments are filled in before it looks for commands, so they can complete one.
    """
    both = template + arguments
    return _SHELL.search(template) is not None or (
        "!" in both and "`" in both and any(letter in arguments for letter in "!`$")
    )


def decoded(raw: bytes) -> str:
    """Return the text of a definition's file. Raises InvalidDefinition."""
    if len(raw) > MAX_DEFINITION_BYTES:
        raise InvalidDefinition(f"{len(raw)} bytes; at most {MAX_DEFINITION_BYTES}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidDefinition("is not UTF-8") from None
    if "\x00" in text:
        raise InvalidDefinition("has a NUL character")
    return text


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    """Return front matter and body."""
    found = _FENCE.match(text)
    if found is None:
        return {}, text
    front = found[1]
    if len(front.encode()) > _FRONT_MATTER_BYTES:
        raise InvalidDefinition(f"front matter of more than {_FRONT_MATTER_BYTES} bytes")
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(front, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # A few aliases of aliases become gigabytes.
            if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
                raise InvalidDefinition("front matter with anchors or aliases")
            if number > _FRONT_MATTER_EVENTS or depth > _FRONT_MATTER_DEPTH:
                raise InvalidDefinition("front matter with too many values")
        meta = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 2})" if mark is not None else ""
        raise InvalidDefinition(f"front matter that is not YAML{where}") from None
    if meta is not None and not isinstance(meta, dict):
        raise InvalidDefinition("front matter that is not a YAML mapping")
    return meta or {}, text[found.end() :]


def _text(meta: Mapping[str, Any], key: str) -> str:
    value = meta.get(key) or ""
    if not isinstance(value, str) or len(value) > 2_000:
        raise InvalidDefinition(f"{key} must be a text of at most 2000 characters")
    return value


def _number(meta: Mapping[str, Any], key: str, least: float, most: float) -> float:
    value = meta[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidDefinition(f"{key} must be a number from {least:g} to {most:g}")
    return float(value)


def _permissions(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return `tools` and `permission` as permissions of a task."""
    rules: dict[str, str] = {}
    for tool, offered in _mapping(meta, "tools").items():
        rules[tool] = "allow" if offered is True else "deny"
    permission = meta.get("permission")
    if isinstance(permission, str):
        permission = {"*": permission}
    for tool, action in _mapping({"permission": permission}, "permission").items():
        if isinstance(action, dict):
            rules |= {tool if pattern == "*" else f"{tool}:{pattern}": one for pattern, one in action.items()}
        else:
            rules[tool] = action
    for key, action in rules.items():
        tool = key.partition(":")[0]
        if tool != "*" and tool not in PERMISSIONS and not re.fullmatch(MCP_TOOL, tool):
            raise InvalidDefinition(f"permission {key[:100]}: not a permission of OpenCode")
        if action not in _ACTIONS:
            raise InvalidDefinition(f"permission {key[:100]}: must be one of {', '.join(_ACTIONS)}")
    return rules


def _mapping(meta: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = meta.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value):
        raise InvalidDefinition(f"{key} must be a mapping of tools")
    return value
