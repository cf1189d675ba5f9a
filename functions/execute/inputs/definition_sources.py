"""Definitions of agents, skills and commands for one run: from the task, from git, from the workspace itself."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
    """Return the definitions in a workspace's own folders; unusable and unreadable ones are ignored.

    Nothing else of its configuration is read: no plugins, no MCP servers, no `opencode.json`.
    """
    ignored: list[str] = []

    def usable(kind: str, folders: tuple[str, ...], read: _Read, make: Callable[[str, _Files], T]) -> dict[str, T]:
        made = {}
        for name, found in _first(directory, folders, read, ignored).items():
            try:
                made[name] = make(name, _readable(found))
            except (InvalidDefinition, OSError) as error:
                ignored.append(f"{kind} {name}: {_why(error)}")
        return made

    def read() -> TaskDefinitions:
        agents = usable("agent", _AGENT_FOLDERS, _files, _agent)
        skills = usable("skill", _SKILL_FOLDERS, _skills, skill_definition)
        commands = usable("command", _COMMAND_FOLDERS, _files, _command)
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


#: Files of a definition by their path.
_Files = Mapping[str, bytes]
#: Files of a definition, or why they cannot be read: who reads many decides whether one stops the others.
_Found = _Files | InvalidDefinition | OSError
#: Reads the definitions below a folder, one by one, with their names.
_Read = Callable[[Path, str], Iterator[tuple[str, _Found]]]


async def _collected(
    field_name: str, asked: Definitions, clones: _Clones, read: _Read, make: Callable[[str, _Files], T]
) -> dict[str, T]:
    found: dict[str, _Files] = {}
    where = field_name
    try:
        if isinstance(asked, DefinitionFolder):
            tree = await clones.of(asked.source)
            top = asked.source.path or ""
            found = await in_thread(lambda _: {name: _readable(one) for name, one in read(tree, top)})
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


def _one(tree: Path, name: str, path: str | None, read: _Read) -> _Files:
    """Return the files of the definition `name`; `path` is its file, or a skill's folder."""
    if path is not None and path.endswith(".md"):
        *folders, last = path.split("/")
        content = read_below(tree, tuple(folders), last, MAX_DEFINITION_BYTES)
        if content is None:
            raise InvalidDefinition(f"no file {path} of at most {MAX_DEFINITION_BYTES} bytes in the repository")
        return {_SKILL: content}
    if read is _skills:
        files: _Files = _skill_files(tree, path or name)
    else:
        files = next((_readable(one) for found, one in read(tree, path or "") if found == name), {})
    if not files:
        raise InvalidDefinition(f"nothing named {name} in {path or 'the top folder'} of the repository")
    return files


def _agent(name: str, files: _Files) -> AgentDefinition:
    return agent_definition(name, decoded(files[_SKILL]))


def _command(_: str, files: _Files) -> CommandDefinition:
    return command_definition(decoded(files[_SKILL]))


def _first(directory: Path, folders: tuple[str, ...], read: _Read, ignored: list[str]) -> dict[str, _Found]:
    """Return the definitions of all folders, of one name the first; note the folders that cannot be read."""
    found: dict[str, _Found] = {}
    for folder in folders:
        below: dict[str, _Found] = {}
        try:
            for name, one in read(directory, folder):
                below[name] = one
        except OSError as error:
            ignored.append(f"{folder}: {_why(error)}")
        found = {**below, **found}
    return dict(list(found.items())[:MAX_DEFINITIONS])


def _files(tree: Path, folder: str) -> Iterator[tuple[str, _Found]]:
    """Yield the Markdown files of a folder with their names without the ending."""
    left = MAX_DEFINITIONS
    for entry in _entries(tree, folder, 0):
        name = entry.path.removesuffix(".md")
        if name != entry.path and is_name(name) and left > 0:
            left -= 1
            yield name, _tried(partial(_file, entry))


def _skills(tree: Path, folder: str) -> Iterator[tuple[str, _Found]]:
    """Yield the skills of a folder: its folders that have a SKILL.md."""
    names = [entry.path.split("/")[0] for entry in _entries(tree, folder, 1) if entry.path.endswith(f"/{_SKILL}")]
    below = f"{folder}/" if folder else ""
    for name in names[:MAX_DEFINITIONS]:
        if is_name(name):
            yield name, _tried(partial(_skill_files, tree, below + name))


def _tried(read: Callable[[], _Files]) -> _Found:
    try:
        return read()
    except (InvalidDefinition, OSError) as error:
        return error


def _readable(found: _Found) -> _Files:
    """Return the files. Raises InvalidDefinition or OSError: they cannot be read."""
    if isinstance(found, InvalidDefinition | OSError):
        raise found
    return found


def _why(error: InvalidDefinition | OSError) -> str:
    """Return why a definition is ignored; a repository's names of files need not be UTF-8, but output is."""
    text = f"it cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)
    return text.encode(errors="backslashreplace").decode()


def _file(entry: Entry) -> _Files:
    return {_SKILL: _content(entry, MAX_DEFINITION_BYTES)}


def _skill_files(tree: Path, folder: str) -> _Files:
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
