"""OpenCode's settings at start: its environment, its configuration, its home. Only the last part touches files.

The workspace is untrusted: its opencode.json, .opencode folders and plugins are not read
(OPENCODE_DISABLE_PROJECT_CONFIG, OPENCODE_PURE). That switch also drops the project's instructions, so the first of
AGENTS.md, CLAUDE.md and CONTEXT.md is offered as a link in the private home, which the agent follows inside its
sandbox.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ocf.functions.core.agent_definitions import (
    CommandDefinition,
    SkillDefinition,
    TaskDefinitions,
    narrowed,
    permission_key,
)
from ocf.functions.execute.agent.opencode_model import TOKEN, AgentModel, model_catalog
from ocf.functions.execute.sandbox.agent_host_client import Owner
from ocf.functions.models.model_target import Kind

#: The OpenCode version this system is tested with; another minor version may behave differently.
SUPPORTED_VERSION = "1.18."
INSTRUCTION_FILES = ("AGENTS.md", "CLAUDE.md", "CONTEXT.md")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The model catalog that OpenCode reads at start, in models.dev's format. Its own has thousands of models; parsing them
#: costs a third of the boot's CPU time and 100 MB. The file has the run's models only, as the catalog states them.
CATALOG = "models.json"
#: Tokens of an answer that OpenCode asks for at most, unless the task says more: a longer reserve makes it compact
#: early.
_OUTPUT_TOKENS = 32_000

_SKILLS = "skills"
_PATHS: dict[Kind, str] = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta"}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AGENTS = ("build", "plan", "general", "explore")
#: Tools of OpenCode's own subagents (1.18, `agent.ts`); MCP tools are those of `general`.
_SUBAGENTS = {
    "general": ("bash", "edit", "glob", "grep", "list", "lsp", "read", "skill", "webfetch", "websearch"),
    "explore": ("bash", "glob", "grep", "list", "read", "webfetch", "websearch"),
}
#: Permissions that are not tools: leaving the directory, calling the same tool three times.
_NOT_TOOLS = ("external_directory", "doom_loop")
_NO_NETWORK = {
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "OPENCODE_DISABLE_SHARE": "1",
}
#: Parts of OpenCode that no run uses (ADR 0015): its file finder (ripgrep is there), the file watcher, the web pages.
_UNUSED = {
    "OPENCODE_DISABLE_FFF": "1",
    "OPENCODE_EXPERIMENTAL_DISABLE_FILEWATCHER": "1",
    "OPENCODE_DISABLE_EMBEDDED_WEB_UI": "1",
}
_NO_PROJECT = {
    "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
    "OPENCODE_DISABLE_EXTERNAL_SKILLS": "1",
    "OPENCODE_DISABLE_CLAUDE_CODE": "1",
    "OPENCODE_PURE": "1",
}


@dataclass(frozen=True)
class ServerSpec:
    """Settings that are fixed when a server starts.

    Attributes:
        model_proxy_url: base URL of the model proxy, without a version segment.
        model_proxy_token: the API key that OpenCode presents to it.
        home: private to this one server.
        read_only: further paths it may read.
        connect_ports: further loopback ports (an egress proxy).
        env: variables that tools need to use those ports.
        tools: executables put on the agent's PATH: OpenCode's grep and glob need ripgrep (`rg`), which it would
            otherwise download.
        user: the user it runs as; None: this process's.
        idle: whether it starts at idle priority.
        definitions: agents, skills and commands of the task; `permissions` are the task's, which win over theirs and
            hold for OpenCode's own subagents.
    """

    binary: Path | None
    directory: Path
    home: Path
    model_proxy_url: str
    model_proxy_token: str
    models: tuple[AgentModel, ...]
    sandboxed: bool = True
    read_only: tuple[Path, ...] = ()
    connect_ports: tuple[int, ...] = ()
    max_processes: int = 512
    max_memory_bytes: int = 4 * 1024**3
    env: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[Path, ...] = ()
    user: Owner | None = None
    path: str = SYSTEM_PATH
    idle: bool = False
    definitions: TaskDefinitions = field(default_factory=TaskDefinitions)
    permissions: Mapping[str, str] = field(default_factory=dict)


def environment(spec: ServerSpec, password: str) -> dict[str, str]:
    """Return the agent's whole environment. Its shell tools see all of it: no value is of use elsewhere."""
    most = max(model.max_tokens or _OUTPUT_TOKENS for model in spec.models)
    return {
        **spec.env,
        **_NO_NETWORK,
        **_UNUSED,
        **_NO_PROJECT,
        "PATH": f"{spec.path}:{spec.home / 'bin'}",
        "HOME": str(spec.home),
        "TMPDIR": str(spec.home / "tmp"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "CI": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "OPENCODE_EXPERIMENTAL_OUTPUT_TOKEN_MAX": str(most),
        "OPENCODE_MODELS_PATH": str(spec.home / CATALOG),
        "OPENCODE_SERVER_PASSWORD": password,
        TOKEN: spec.model_proxy_token,
        "OPENCODE_CONFIG_CONTENT": json.dumps(configuration(spec)),
    }


def configuration(spec: ServerSpec) -> dict[str, object]:
    """Return OpenCode's configuration (https://opencode.ai/config.json)."""
    base = spec.model_proxy_url.rstrip("/").removesuffix("/v1")
    # The model proxy decides on silence (MODEL_SILENCE_SECONDS); OpenCode would hang up after 300 s and call again.
    no_timeouts = dict.fromkeys(("timeout", "headerTimeout", "chunkTimeout"), False)
    providers: dict[str, object] = {}
    for model in spec.models:
        options = {"baseURL": base + _PATHS[model.kind], "apiKey": spec.model_proxy_token, **no_timeouts}
        providers[model.provider] = {"options": options}
    default = f"{spec.models[0].provider}/{spec.models[0].name}"
    temperature = spec.models[0].temperature
    return {
        "model": default,
        "small_model": default,
        "provider": providers,
        "enabled_providers": list(providers),
        "share": "disabled",
        "autoupdate": False,
        # A commit of the whole tree before and after each step: half of a turn's processor time (ADR 0015). Changes
        # are found by the attempt itself (`ocf.functions.execute.attempt.record_progress`).
        "snapshot": False,
        "lsp": False,
        "formatter": False,
        "plugin": [],
        "permission": {"*": "allow"},
        "instructions": [str(spec.home / "instructions" / "*.md")],
        "agent": _agents(spec, temperature),
        "command": {name: _command(command) for name, command in spec.definitions.commands.items()},
        "skills": {"paths": [str(spec.home / _SKILLS)] if spec.definitions.skills else []},
    }


def _agents(spec: ServerSpec, temperature: float | None) -> dict[str, object]:
    """Return the agents' settings. The front matter of an agent does not choose its model."""
    built_in: dict[str, dict[str, object]] = {
        name: {} if temperature is None else {"temperature": temperature} for name in _AGENTS
    }
    for name, tools in _SUBAGENTS.items():
        if asked := asking(spec.permissions, tools, others=name == "general"):
            built_in[name]["permission"] = _by_tool(asked)
    return {name: settings for name, settings in built_in.items() if settings} | {
        name: {
            "description": agent.description,
            "mode": agent.mode,
            "prompt": agent.prompt,
            **agent.settings,
            **({} if temperature is None else {"temperature": temperature}),
            "permission": _by_tool(narrowed(agent.permissions, spec.permissions)),
        }
        for name, agent in spec.definitions.agents.items()
    }


def asking(permissions: Mapping[str, str], tools: Sequence[str], *, others: bool) -> dict[str, str]:
    """Return the entries of those tools that a task has asked about; `others`: also of tools beside `tools`, as MCP's.

    All entries of such a tool are returned, because a particular one may allow what the general one asks about.
    """
    given = {permission_key(key): action for key, action in permissions.items()}
    named = {key.partition(":")[0] for key in given} - {"*", "question", "task", "todowrite", *_NOT_TOOLS}
    found: dict[str, str] = {}
    for tool in sorted({*tools, *named}) if others else tools:
        own = {tool: given["*"]} if "*" in given else {}
        own |= {key: action for key, action in given.items() if key.partition(":")[0] == tool}
        found |= own if "ask" in own.values() else {}
    return found


def _by_tool(permissions: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return permissions in the form of OpenCode's configuration, in which the last matching entry decides."""
    found: dict[str, dict[str, str]] = {}
    for key, action in _in_order(permissions):
        tool, _, pattern = key.partition(":")
        found.setdefault(tool, {})[pattern or "*"] = action
    return found


def _command(command: CommandDefinition) -> dict[str, object]:
    given = {"description": command.description, "agent": command.agent, "subtask": command.subtask}
    return {"template": command.template} | {name: value for name, value in given.items() if value not in (None, "")}


def permission_rules(
    permissions: Mapping[str, str], enabled: Sequence[str] | None = None, *, can_answer: bool
) -> list[dict[str, str]]:
    """Return a session's rules; the last matching one decides. Without an entry everything is allowed.

    Keys are OpenCode's tools (`bash`, `edit`, `webfetch`, ...) or `tool:pattern` (`bash:git push*`). OpenCode has one
    permission for all tools that write files: `write` and `patch` mean `edit`. A tool that is not in `enabled` is not
    offered to the model, whatever `permissions` says. Subagents get the same rules.

    OpenCode's own `tools` of a prompt is not used: it replaces a session's rules (1.18, `createUserMessage`).
    """
    rules = [_rule("*", "allow")]
    given = {permission_key(key): action for key, action in permissions.items()}
    if enabled is not None:
        tools = {permission_key(tool) for tool in enabled}
        rules += [_rule("*", "deny"), *(_rule(name, "allow") for name in (*_NOT_TOOLS, *sorted(tools)))]
        if "*" in given:
            given = {**dict.fromkeys(sorted(tools), given.pop("*")), **given}
        given = {key: action for key, action in given.items() if key.partition(":")[0] in (*_NOT_TOOLS, *tools)}
    rules += [_rule(key, action) for key, action in _in_order(given)]
    if not can_answer:
        # A question that nobody can answer is not offered at all.
        rules.append(_rule("question", "deny"))
    return rules


def _in_order(permissions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return general entries before particular ones, whatever order the caller's JSON had."""
    return sorted(permissions.items(), key=lambda entry: (entry[0] != "*", ":" in entry[0]))


def shell_allowed(rules: Sequence[Mapping[str, str]]) -> bool:
    """Return whether every shell command is allowed, so that a command's template may run some unasked."""
    about = [rule for rule in rules if rule["permission"] in ("*", "bash")]
    last = max((at for at, rule in enumerate(about) if rule["pattern"] == "*"), default=0)
    return all(rule["action"] == "allow" for rule in about[last:])


def _rule(key: str, action: str) -> dict[str, str]:
    tool, _, pattern = key.partition(":")
    return {"permission": tool, "pattern": pattern or "*", "action": action}


def prepare_home(
    home: Path,
    tools: Sequence[Path] = (),
    skills: Mapping[str, SkillDefinition] | None = None,
    models: Sequence[AgentModel] = (),
) -> None:
    """Make a home in which OpenCode starts without the network; `tools` are linked into its `bin`.

    In an empty home OpenCode runs an npm install of its plugin package; one that looks installed is left alone (1.18,
    `Npm.install`: node_modules exists and the lock file names the package).
    """
    config = home / ".config" / "opencode"
    for folder in (config / "node_modules", home / "tmp", home / "bin", home / "instructions"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for tool in tools:
        link = home / "bin" / tool.name
        link.unlink(missing_ok=True)
        link.symlink_to(tool)
    lock = {"name": "opencode", "lockfileVersion": 3, "packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
    (config / "package.json").write_text(json.dumps({"dependencies": {"@opencode-ai/plugin": "*"}}))
    (config / "package-lock.json").write_text(json.dumps(lock))
    (home / CATALOG).write_text(json.dumps(model_catalog(models)))
    for name, skill in (skills or {}).items():
        for path, content in skill.files.items():
            file = home / _SKILLS / name / path
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(content)


def link_instructions(directory: Path, home: Path) -> None:
    """Offer the workspace's current instruction file to the next prompt.

    As a link, not a copy: the file may itself link to something that only this process could read. The home has been
    under the agent's control since the last prompt, so nothing here goes by a path: a link in the folder's place would
    have the files of another folder removed.
    """
    top = os.open(home, _FOLDER)
    try:
        folder = _own_folder("instructions", top)
        if any(entry.is_dir(follow_symlinks=False) for entry in _listed(folder)):
            # Only the agent can have made it, with any depth: rename it, it is removed with the home.
            os.close(folder)
            os.rename("instructions", f"instructions.{uuid.uuid4().hex}", src_dir_fd=top, dst_dir_fd=top)
            folder = _own_folder("instructions", top)
    finally:
        os.close(top)
    try:
        for old in _listed(folder):
            os.unlink(old.name, dir_fd=folder)
        for name in INSTRUCTION_FILES:
            if (directory / name).is_file():
                os.symlink(directory / name, name, dir_fd=folder)
                return
    finally:
        os.close(folder)


def _listed(folder: int) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _own_folder(name: str, top: int) -> int:
    """Open the directory `name` of the open directory `top`; create it when it is missing or not a directory."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=top)
    try:
        folder = os.open(name, _FOLDER, dir_fd=top)
    except NotADirectoryError:  # a link gives the same error with O_DIRECTORY and O_NOFOLLOW
        os.unlink(name, dir_fd=top)
        os.mkdir(name, 0o700, dir_fd=top)
        folder = os.open(name, _FOLDER, dir_fd=top)
    owner, made = os.fstat(top), os.fstat(folder)
    if owner.st_uid != made.st_uid:  # a new one must belong to the agent, like the home
        try:
            os.fchown(folder, owner.st_uid, owner.st_gid)
        except PermissionError:
            os.fchmod(folder, 0o770)  # the agent's container has the same group
    return folder
