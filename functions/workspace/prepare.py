"""Preparation of a workspace from its source, and of its baseline."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ocf.events.command_payloads import DirectoryWorkspace, GitWorkspace, SharedWorkspace, SnapshotWorkspace, Workspace
from ocf.events.errors import NotYetKnown
from ocf.events.ports import ObjectStore
from ocf.functions.workspace import baseline
from ocf.functions.workspace.allowed_roots import Roots
from ocf.functions.workspace.archive_reading import unpack_tree
from ocf.functions.workspace.baseline import DEFAULT_LIMITS, BaselineEntry, Cursor, Limits
from ocf.functions.workspace.clone import check_url, clone
from ocf.functions.workspace.directory_source import copy_tree
from ocf.functions.workspace.errors import InvalidWorkspace
from ocf.functions.workspace.git import REPOSITORY, Git, GitFailed
from ocf.functions.workspace.safe_tree import first_escaping_link, link_outside, move_over, remove_tree, safe_parts
from ocf.functions.workspace.safe_walk import Walk, key, read_below, walk
from ocf.functions.workspace.threads import in_thread

#: Gives a filled workspace to the agent's user, before the baseline is recorded, since that includes each file's ctime.
Own = Callable[[Path], Awaitable[None]]
SNAPSHOT = "workspace.tar.zst"
_MAX_INDEX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Sources:
    """Permitted sources of workspaces.

    Attributes:
        roots: where `directory` and `file://` may lie (WORKSPACE_SOURCES).
        private: directories of this system, which no task may name.
        shared: WORKSPACE_DIR.
        objects: store of the snapshots.
        project: project of the snapshots.
        protocols: allowed in git addresses.
    """

    roots: tuple[Path, ...] = ()
    private: tuple[Path, ...] = ()
    shared: Path | None = None
    objects: ObjectStore | None = None
    project: str = "default"
    protocols: frozenset[str] = frozenset({"https", "http"})
    limits: Limits = DEFAULT_LIMITS

    @property
    def directories(self) -> Roots:
        """Return the readable directories of this machine."""
        return Roots(self.roots, self.private, self.shared)


@dataclass(frozen=True)
class Prepared:
    """A workspace and its baseline. `private` is out of the agent's reach; `commit` is what a clone checked out.

    `files` and `size` (bytes) count the baseline: without `.git` and ignored files.
    """

    directory: Path
    private: Path
    limits: Limits = DEFAULT_LIMITS
    source: str = "empty"
    commit: str | None = None
    files: int = 0
    size: int = 0

    def git(self) -> Git:
        """Return git for the private repository."""
        return Git(self.private, timeout=self.limits.git_seconds)


async def _keep_owner(_: Path) -> None:
    """Leave the files to this process's user."""


async def prepare(
    source: Workspace,
    target: Path,
    sources: Sources,
    *,
    private: Path,
    token: str | None = None,
    own: Own = _keep_owner,
    layer: Path | None = None,
) -> Prepared:
    """Fill `target` and record its baseline in `private`, which must be out of the agent's reach.

    Neither may exist, or both must be empty (`target` may hold the `.git` of a fresh `git init`). A `shared` source is
    used in place, and `target` stays untouched. After an error or a cancellation `target` and `private` are gone.

    Args:
        source: the source.
        target: the workspace's directory.
        sources: permitted sources.
        private: for the baseline.
        token: the opened `workspace.token`.
        own: gives the files to the agent's user.
        layer: a directory whose contents are moved over those of the source.

    Raises:
        InvalidWorkspace: the source is wrong; the message says what would be right.
        Unavailable: the store does not answer.
        ValueError: `target` or `private` is not empty, or one is inside the other.
    """
    if isinstance(source, SharedWorkspace):
        shared = await in_thread(lambda _: _shared(source.path, sources.shared))
        return await _prepare_with(
            shared, private, lambda git: _nothing(), source.source, sources, own, remove_target=False
        )
    return await _prepare_with(
        target, private, lambda git: _fill(source, target, sources, git, token), source.source, sources, own, layer
    )


async def record_again(workspace: Prepared) -> Prepared:
    """Replace the baseline with the current state of the workspace, which its setup has changed."""
    await remove_tree(workspace.private)
    git = workspace.git()
    git.set_up()
    return await _record(workspace.source, workspace.directory, git, workspace.limits, workspace.commit)


def check(source: Workspace, sources: Sources) -> None:
    """Check a source as far as possible before anything is prepared.

    Raises:
        InvalidWorkspace: as `prepare` would.
    """
    if isinstance(source, GitWorkspace):
        check_url(source.url, sources.protocols, sources.directories)
    elif isinstance(source, DirectoryWorkspace):
        sources.directories.find(source.path)


async def restore(
    archive: Path,
    target: Path,
    private: Path,
    limits: Limits,
    own: Own = _keep_owner,
    layer: Path | None = None,
) -> Prepared:
    """Fill `target` from a local archive (a session's workspace), as `prepare` does."""

    async def fill(git: Git) -> None:
        await in_thread(lambda stop: unpack_tree(archive, target, limits, stop))

    return await _prepare_with(target, private, fill, "snapshot", Sources(limits=limits), own, layer)


async def _nothing() -> None:
    return None


async def _prepare_with(
    target: Path,
    private: Path,
    fill: Callable[[Git], Awaitable[str | None]],
    kind: str,
    sources: Sources,
    own: Own,
    layer: Path | None = None,
    *,
    remove_target: bool = True,
) -> Prepared:
    _check_apart(target, private)
    await in_thread(lambda _: _make_directory(private))
    try:
        if remove_target:
            await _make_empty(target)
    except BaseException:
        await remove_tree(private)
        raise
    try:
        git = _git(sources, private)
        git.set_up()
        commit = await fill(git)
        if layer is not None:
            await in_thread(lambda _: move_over(layer, target))
        await own(target)
        return await _record(kind, target, git, sources.limits, commit)
    except BaseException:
        await remove_tree(private)
        if remove_target:
            await remove_tree(target)
        raise


def _check_apart(target: Path, private: Path) -> None:
    inner, outer = private.resolve(), target.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(f"workspace {target} and private directory {private} must lie apart")


async def forget(workspace: Prepared, *, keep_directory: bool = False) -> None:
    """Remove the baseline, and the workspace unless it is shared or to be kept.

    Raises:
        OSError: something could not be removed.
    """
    await remove_tree(workspace.private)
    if workspace.source != "shared" and not keep_directory:
        await remove_tree(workspace.directory)


def _git(sources: Sources, private: Path) -> Git:
    protocols = tuple(sorted(sources.protocols | ({"file"} if sources.roots else set())))
    limits = sources.limits
    # One pack or one file of a clone cannot be larger than the whole workspace may be.
    return Git(private, protocols, timeout=limits.git_seconds, max_file_bytes=limits.max_bytes)


async def _fill(source: Workspace, target: Path, sources: Sources, git: Git, token: str | None) -> str | None:
    if isinstance(source, GitWorkspace):
        remote = check_url(source.url, sources.protocols, sources.directories)
        commit = await clone(source, remote, target, git, token, sources.directories)
        await in_thread(lambda stop: _check_links(target, sources.limits, stop))
        return commit
    if isinstance(source, DirectoryWorkspace):
        found = sources.directories.find(source.path)
        await in_thread(lambda stop: copy_tree(found, target, sources.limits, sources.directories, stop))
    elif isinstance(source, SnapshotWorkspace):
        archive = await _fetch_snapshot(source, sources, git.home)
        await in_thread(lambda stop: unpack_tree(archive, target, sources.limits, stop))
        archive.unlink()
    else:
        baseline.make_repository(target / ".git", bare=False)
    return None


async def _record(kind: str, target: Path, git: Git, limits: Limits, commit: str | None) -> Prepared:
    local = Git(git.home, timeout=limits.git_seconds)
    baseline.create(local)
    tracked = await _tracked(target, local)
    try:
        counted = await in_thread(lambda stop: baseline.record(target, local, limits, tracked, stop))
    except GitFailed as error:
        raise InvalidWorkspace(f"the workspace's baseline could not be recorded: {error}") from None
    return Prepared(target, git.home, limits, kind, commit, counted.files, counted.size)


async def _tracked(target: Path, git: Git) -> Cursor | None:
    """Return the files that the workspace's own index tracks: part of the baseline even when ignored.

    The index is copied and read by name only; the workspace's configuration is not used.
    """
    index = await in_thread(lambda _: read_below(target, (".git",), "index", _MAX_INDEX_BYTES))
    if not index:
        return None
    copy = git.home / "index"
    copy.write_bytes(index)
    try:
        listed = await git.run(
            [f"--git-dir={REPOSITORY}", "ls-files", "-z", "--cached"],
            cwd=git.home,
            env={"GIT_INDEX_FILE": str(copy)},
        )
    except GitFailed:
        # Damaged, or of another object format: then ignored files count as ignored.
        return None
    finally:
        copy.unlink()
    paths = sorted((os.fsdecode(path) for path in set(listed.split(b"\0")) if path), key=key)
    return Cursor(_names(paths))


def _names(paths: list[str]) -> Iterator[BaselineEntry]:
    for path in paths:
        yield BaselineEntry(path, 0, 0, 0, 0, 0, b"", False)


async def _make_empty(target: Path) -> None:
    """Create `target`, or check that it is empty; the `.git` of a fresh `git init` (a warm server's) is removed."""
    if await in_thread(lambda _: _has_fresh_git_only(target)):
        await remove_tree(target / ".git")
    await in_thread(lambda _: _make_directory(target))


def _has_fresh_git_only(target: Path) -> bool:
    if target.is_symlink() or not target.is_dir() or os.listdir(target) != [".git"]:
        return False
    files = {name for _, _, names in os.walk(target / ".git" / "objects") for name in names}
    return not files and not (target / ".git").is_symlink() and not (target / ".git" / "index").exists()


def _make_directory(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    if target.is_symlink() or any(target.iterdir()):
        raise ValueError(f"{target} is not an empty directory")


def _shared(path: str, root: Path | None) -> Path:
    """Return the directory at `path` below the shared volume, created if missing; no component may be a link."""
    if root is None:
        raise InvalidWorkspace("there is no shared volume here (WORKSPACE_DIR)")
    parts = safe_parts(path.removesuffix("/"))
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fds = [os.open(root.resolve(), flags)]
    except OSError as error:
        raise InvalidWorkspace(f"the shared volume {root} cannot be opened: {error.strerror}") from None
    try:
        for part in parts:
            try:
                os.mkdir(part, 0o775, dir_fd=fds[-1])  # the umask decides whether the group may write
            except FileExistsError:
                # Only a directory can be opened next, never a link.
                existing = os.stat(part, dir_fd=fds[-1], follow_symlinks=False)
                if not stat.S_ISDIR(existing.st_mode):
                    raise InvalidWorkspace(f"shared path {path!r}: {part!r} is a link or not a directory") from None
            fds.append(os.open(part, flags, dir_fd=fds[-1]))
    except OSError as error:
        raise InvalidWorkspace(f"shared path {path!r} cannot be used: {error.strerror}") from None
    finally:
        for fd in fds:
            os.close(fd)
    return root.resolve().joinpath(*parts)


async def _fetch_snapshot(source: SnapshotWorkspace, sources: Sources, private: Path) -> Path:
    if sources.objects is None:
        raise InvalidWorkspace("no object store is configured, so snapshots are not available")
    name = f"{sources.project}/{source.execution_id}/{SNAPSHOT}"
    path = private / SNAPSHOT
    try:
        with path.open("wb") as file:
            async for piece in sources.objects.stream(name):
                file.write(piece)
    except NotYetKnown:
        raise InvalidWorkspace(
            f"execution {source.execution_id} of project {sources.project!r} left no workspace (or it has expired)"
        ) from None
    return path


def _check_links(target: Path, limits: Limits, stop: threading.Event) -> None:
    how = Walk(limits.max_entries, git_directories=False, stop=stop)
    links = (entry.path for entry in walk(target, how) if entry.kind == stat.S_IFLNK)
    wrong = first_escaping_link(target, links)
    if wrong is not None:
        raise link_outside(wrong, os.readlink(target / wrong))
