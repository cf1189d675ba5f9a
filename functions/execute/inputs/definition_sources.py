"""Definitions of agents, skills and commands for one run: from the task, from git, from the workspace itself."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from ocf.events.command_payloads import Execute, GitWorkspace
from ocf.events.optional_task_fields import (
    MAX_DEFINITION_BYTES,
    MAX_DEFINITIONS,
    DefinitionFolder,
    Definitions,
    GitDefinitions,
)
from ocf.events.untrusted_json import MIB
from ocf.functions import workspace
from ocf.functions.core.agent_definitions import (
    AgentDefinition,
    CommandDefinition,
    InvalidDefinition,
    TaskDefinitions,
    agent_definition,
    command_definition,
    decoded,
    is_name,
    skill_definition,
)
from ocf.functions.workspace.safe_walk import Entry, Walk, open_file, read_below, walk
from ocf.functions.workspace.threads import in_thread

_SKILL = "SKILL.md"
_SKILL_BYTES, _SKILL_FILES, _SKILL_DEPTH = 2 * MIB, 200, 8
#: Entries of a repository that are looked at.
_ENTRIES = 5_000
_AGENT_FOLDERS = (".opencode/agents", ".opencode/agent")
_COMMAND_FOLDERS = (".opencode/commands", ".opencode/command")
_SKILL_FOLDERS = (".opencode/skills", ".opencode/skill", ".claude/skills", ".agents/skills")

T = TypeVar("T")


async def of_task(task: Execute, folder: Path, sources: workspace.Sources) -> TaskDefinitions:
    """Return the task's own definitions.

    Args:
        task: the task.
        folder: private to the run; gets one clone for each address and ref.
        sources: permitted git addresses.

    Raises:
        InvalidDefinition: one of them is not usable; the message names it.
        InvalidWorkspace: a repository cannot be cloned.
    """
    clones = _Clones(folder, sources)
    return TaskDefinitions(
        await _collected("agents", task.agents, clones, _files, _agent),
        await _collected("skills", task.skills, clones, _skills, skill_definition),
        await _collected("commands", task.commands, clones, _files, _command),
    )


async def of_repository(directory: Path) -> TaskDefinitions:
    """Return the definitions in a workspace's own folders; unusable ones are ignored.

    Nothing else of its configuration is read: no plugins, no MCP servers, no `opencode.json`.
    """
    ignored: list[str] = []

    def usable(kind: str, found: Mapping[str, Mapping[str, bytes]], make: Callable[..., T]) -> dict[str, T]:
        made = {}
        for name, files in found.items():
            try:
                made[name] = make(name, files)
            except InvalidDefinition as error:
                ignored.append(f"{kind} {name}: {error}")
        return made

    def read() -> TaskDefinitions:
        agents = usable("agent", _first(directory, _AGENT_FOLDERS, _files), _agent)
        skills = usable("skill", _first(directory, _SKILL_FOLDERS, _skills), skill_definition)
        commands = usable("command", _first(directory, _COMMAND_FOLDERS, _files), _command)
        return TaskDefinitions(agents, skills, commands, tuple(ignored))

    return await in_thread(lambda _: read())


def merged(own: TaskDefinitions, task: TaskDefinitions) -> TaskDefinitions:
    """Return the repository's definitions with those of the task, which win."""
    return TaskDefinitions(
        {**own.agents, **task.agents},
        {**own.skills, **task.skills},
        {**own.commands, **task.commands},
        own.ignored,
    )


class _Clones:
    """Clones of a run, one for each address and ref."""

    def __init__(self, folder: Path, sources: workspace.Sources) -> None:
        self._folder = folder
        self._sources = sources
        self._made: dict[tuple[str, str | None], Path] = {}

    async def of(self, source: GitDefinitions) -> Path:
        key = (source.git, source.ref)
        if key not in self._made:
            folder = self._folder / "definitions" / str(len(self._made))
            git = GitWorkspace(source="git", url=source.git, ref=source.ref)
            await workspace.prepare(git, folder / "tree", self._sources, private=folder / "base")
            self._made[key] = folder / "tree"
        return self._made[key]


#: Reads definitions below a folder: files by their path, by the name of the definition.
_Read = Callable[[Path, str], dict[str, dict[str, bytes]]]


async def _collected(
    field_name: str, asked: Definitions, clones: _Clones, read: _Read, make: Callable[[str, Mapping[str, bytes]], T]
) -> dict[str, T]:
    found: dict[str, dict[str, bytes]] = {}
    where = field_name
    try:
        if isinstance(asked, DefinitionFolder):
            tree = await clones.of(asked.source)
            found = await in_thread(lambda _: read(tree, asked.source.path or ""))
            if not found:
                raise InvalidDefinition(f"nothing found in {asked.source.path or 'the top folder'} of the repository")
        else:
            for name, one in asked.items():
                where = f"{field_name}.{name}"
                if one.source is None:
                    found[name] = {_SKILL: (one.content or "").encode()}
                else:
                    tree = await clones.of(one.source)
                    found[name] = await in_thread(lambda _, n=name, t=tree, p=one.source.path: _one(t, n, p, read))  # type: ignore[misc]
        made = {}
        for name, files in found.items():
            where = f"{field_name}.{name}"
            made[name] = make(name, files)
        return made
    except (InvalidDefinition, workspace.InvalidWorkspace) as error:
        raise type(error)(f"{where}: {error}") from None


def _one(tree: Path, name: str, path: str | None, read: _Read) -> dict[str, bytes]:
    """Return the files of the definition `name`; `path` is its file, or a skill's folder."""
    if path is not None and path.endswith(".md"):
        *folders, last = path.split("/")
        content = read_below(tree, tuple(folders), last, MAX_DEFINITION_BYTES)
        if content is None:
            raise InvalidDefinition(f"no file {path} of at most {MAX_DEFINITION_BYTES} bytes in the repository")
        return {_SKILL: content}
    files = _skill_files(tree, path or name) if read is _skills else read(tree, path or "").get(name, {})
    if not files:
        raise InvalidDefinition(f"nothing named {name} in {path or 'the top folder'} of the repository")
    return files


def _agent(name: str, files: Mapping[str, bytes]) -> AgentDefinition:
    return agent_definition(name, decoded(files[_SKILL]))


def _command(_: str, files: Mapping[str, bytes]) -> CommandDefinition:
    return command_definition(decoded(files[_SKILL]))


def _first(directory: Path, folders: tuple[str, ...], read: _Read) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for folder in folders:
        found = {**read(directory, folder), **found}
    return dict(list(found.items())[:MAX_DEFINITIONS])


def _files(tree: Path, folder: str) -> dict[str, dict[str, bytes]]:
    """Return the Markdown files of a folder by their names without the ending."""
    found: dict[str, dict[str, bytes]] = {}
    for entry in _entries(tree, folder, 0):
        name = entry.path.removesuffix(".md")
        if name != entry.path and is_name(name) and len(found) < MAX_DEFINITIONS:
            found[name] = {_SKILL: _content(entry, MAX_DEFINITION_BYTES)}
    return found


def _skills(tree: Path, folder: str) -> dict[str, dict[str, bytes]]:
    """Return the skills of a folder: its folders that have a SKILL.md."""
    names = [entry.path.split("/")[0] for entry in _entries(tree, folder, 1) if entry.path.endswith(f"/{_SKILL}")]
    below = f"{folder}/" if folder else ""
    return {name: _skill_files(tree, below + name) for name in names[:MAX_DEFINITIONS] if is_name(name)}


def _skill_files(tree: Path, folder: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = _SKILL_BYTES
    for entry in _entries(tree, folder, _SKILL_DEPTH):
        files[entry.path] = _content(entry, left)
        left -= len(files[entry.path])
        if len(files) > _SKILL_FILES:
            raise InvalidDefinition(f"{folder} has more than {_SKILL_FILES} files")
    return files


def _entries(tree: Path, folder: str, depth: int) -> Iterator[Entry]:
    """Yield the regular files below a folder, in it and in `depth` levels of folders."""
    top = tree
    for part in folder.split("/") if folder else ():
        top /= part
        if top.is_symlink() or not top.is_dir():
            return
    for entry in walk(top, Walk(_ENTRIES, git_directories=False)):
        if entry.kind == stat.S_IFREG and entry.path.count("/") <= depth:
            yield entry


def _content(entry: Entry, limit: int) -> bytes:
    with open(open_file(entry), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidDefinition(f"{entry.path} is too large")
    return content
