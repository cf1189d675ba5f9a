"""Results of a workspace: the summary of its changes, the patch, the archive."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ocf.events.fact_payloads import ChangedFile, DiffSummary
from ocf.events.terminal_facts import DIFF_BYTES, named_files
from ocf.functions.workspace import archive as archives
from ocf.functions.workspace import baseline
from ocf.functions.workspace.archive import Packed, TreeDigest, pack_tree
from ocf.functions.workspace.archive_reading import Unpacked, unpack_tree
from ocf.functions.workspace.baseline import DEFAULT_LIMITS, Limits
from ocf.functions.workspace.compare import Change, Changes, compare
from ocf.functions.workspace.fast_import import FastImport
from ocf.functions.workspace.git import REPOSITORY
from ocf.functions.workspace.prepare import Prepared
from ocf.functions.workspace.safe_tree import remove_tree
from ocf.functions.workspace.safe_walk import Walk, walk
from ocf.functions.workspace.threads import in_thread

#: Maximum of changed files named in a summary, which travels in events.
MAX_NAMED = 1000
_DIFF = ("--no-ext-diff", "--no-textconv", "--no-color", "-r", "-M", "-l1000")
_CHANGES = {"A": "added", "D": "deleted", "M": "modified", "T": "modified", "R": "renamed", "C": "added"}


@dataclass(frozen=True)
class Patch:
    """A written patch: its size in bytes, and the paths left out because they are too large.

    `ref` is the commit of the changes in the private repository; None: nothing in git changed. `truncated`: there are
    more changes than a patch holds.
    """

    path: Path
    size: int
    omitted: list[str]
    ref: str | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Size:
    """Disk usage of a directory: bytes on disk, entries; `truncated` when there were more entries than counted."""

    size: int
    entries: int
    truncated: bool = False


async def summarise(workspace: Prepared) -> DiffSummary:
    """Return the changes since the baseline, with lines added and deleted; renames count as one file."""
    ref, changes = await _snapshot(workspace)
    return await _summary(workspace, ref, changes)


async def write_patch(workspace: Prepared, path: Path) -> Patch:
    """Write the changes since the baseline to the new file `path`, for `git apply` on a copy of the baseline.

    It covers binary files, modes, links and renames; files over `limits.patch_file_bytes` are named in comment lines at
    its head instead. No change gives an empty file. Git does not record directories alone.
    """
    ref, changes = await _snapshot(workspace)
    return await _patch(workspace, ref, changes, path)


async def conclude(workspace: Prepared, patch: Path, listing: Path | None = None) -> tuple[DiffSummary, Patch]:
    """Return `summarise` and `write_patch` of the same moment.

    When the summary does not name all changed files, the whole list is written to `listing`, as a JSON array of
    `ChangedFile`.
    """
    ref, changes = await _snapshot(workspace)
    return await _summary(workspace, ref, changes, listing), await _patch(workspace, ref, changes, patch)


async def changed_files(workspace: Prepared) -> DiffSummary:
    """Return the changes so far, while the agent works: no git, no line counts, at most 64 MiB read."""
    changes = await in_thread(lambda stop: compare(workspace.directory, workspace.private, workspace.limits, stop))
    everything = sorted((*changes.deleted, *changes.written), key=lambda change: change.path)
    return _capped(
        (ChangedFile(path=readable(change.path), change=change.kind) for change in everything),
        changes.report.truncated,
    )


async def measure(workspace: Prepared) -> Size:
    """Return the current size of the workspace, `.git` and ignored files included."""

    def count(stop: threading.Event) -> Size:
        how = Walk(workspace.limits.max_entries, stop=stop)
        size = entries = 0
        for entry in walk(workspace.directory, how):
            size, entries = size + entry.stat.st_blocks * 512, entries + 1
        return Size(size, entries, how.report.truncated)

    return await in_thread(count)


async def pack(workspace: Prepared, archive: Path, *, include_ignored: bool = False) -> Packed:
    """Write `workspace.tar.zst` to the new file `archive`; nothing is left of it when this raises.

    Files that `.gitignore` excludes are left out unless requested, except files of the baseline; `.git` is included.

    Raises:
        WorkspaceTooLarge: over the workspace's limits.
    """
    known = None if include_ignored else workspace.private
    try:
        return await in_thread(lambda stop: pack_tree(workspace.directory, known, archive, workspace.limits, stop))
    except BaseException:
        archive.unlink(missing_ok=True)
        raise


async def pack_input(workspace: Prepared, archive: Path, max_bytes: int, *, clone: bool) -> tuple[Packed, str]:
    """Write the whole workspace to the new file `archive`; return what it holds and its digest (`tree_digest`).

    Raises:
        WorkspaceTooLarge: its files have more than `max_bytes`, or there are too many; nothing is left then.
    """
    limits = replace(workspace.limits, max_bytes=min(max_bytes, workspace.limits.max_bytes))

    digest = TreeDigest(clone=clone)
    try:
        packed = await in_thread(
            lambda stop: pack_tree(workspace.directory, None, archive, limits, stop, digest),
        )
    except BaseException:
        archive.unlink(missing_ok=True)
        raise
    return packed, digest.hexdigest()


async def pack_layer(workspace: Prepared, archive: Path) -> Packed | None:
    """Write what changed since the baseline to the new file `archive`, without `.git`.

    Returns None, without an archive, when files of the baseline are missing. Raises as `pack`.
    """
    try:
        return await in_thread(
            lambda stop: archives.pack_layer(workspace.directory, workspace.private, archive, workspace.limits, stop)
        )
    except BaseException:
        archive.unlink(missing_ok=True)
        raise


async def unpack(archive: Path, target: Path, limits: Limits | None = None) -> Unpacked:
    """Fill `target`, which must not exist, from an archive; nothing is left of it when this raises.

    Raises:
        InvalidWorkspace: the archive is damaged, unsafe or too large (see docs/reference/workspaces.md).
    """
    target.mkdir(parents=True, mode=0o700)
    try:
        return await in_thread(lambda stop: unpack_tree(archive, target, limits or DEFAULT_LIMITS, stop))
    except BaseException:
        await remove_tree(target)
        raise


def readable(path: str) -> str:
    """Return a path as text for JSON: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


async def _snapshot(workspace: Prepared) -> tuple[str | None, Changes]:
    """Record the changes as a commit; return its ref (None: nothing in git changed) and the changes."""
    ref = f"refs/now/{uuid.uuid4().hex}"

    def record(stop: threading.Event) -> tuple[str | None, Changes]:
        with FastImport(workspace.git()) as importer:
            changes = compare(workspace.directory, workspace.private, workspace.limits, stop, importer)
            removals = list(_removals(changes))
            written = [change for change in changes.written if change.mark]
            if not removals and not written:
                if importer.used:
                    importer.done()
                return None, changes
            importer.begin_commit(ref, baseline.base_of(workspace.private))
            # Removals first: a path may have changed from a file to a directory.
            for change in removals:
                importer.remove(change.path)
            for change in written:
                importer.put(change.path, change.mode, change.mark)
            importer.done()
            return ref, changes

    return await in_thread(record)


def _diff_arguments(workspace: Prepared, ref: str, *how: str) -> list[str]:
    before = baseline.base_of(workspace.private) or baseline.EMPTY_TREE
    return [f"--git-dir={REPOSITORY}", "diff-tree", *_DIFF, *how, before, ref]


def _removals(changes: Changes) -> Iterator[Change]:
    for change in (*changes.deleted, *changes.written):
        if change.kind == "deleted" and not change.large:
            yield change


async def _summary(workspace: Prepared, ref: str | None, changes: Changes, listing: Path | None = None) -> DiffSummary:
    out = b""
    if ref is not None:
        arguments = _diff_arguments(workspace, ref, "-z", "--raw", "--numstat")
        out = await workspace.git().run(arguments, cwd=workspace.private)
    changed = sorted((*_parse(out.split(b"\0")), *_omitted(changes)), key=lambda file: file.path)
    summary = _capped(changed, changes.report.truncated)
    if listing is not None and len(summary.changed) < summary.files:
        await asyncio.to_thread(_write_listing, changed, listing)
    return summary


def _write_listing(changed: list[ChangedFile], listing: Path) -> None:
    with listing.open("w", encoding="utf-8") as file:
        separator = "["
        for each in changed:
            file.write(separator + each.model_dump_json(exclude_none=True))
            separator = ",\n"
        file.write("]")


def _omitted(changes: Changes) -> Iterator[ChangedFile]:
    for change in (*changes.deleted, *changes.written):
        if change.large:
            yield ChangedFile(path=readable(change.path), change=change.kind)


def _parse(fields: list[bytes]) -> Iterator[ChangedFile]:
    """Parse raw records (`:modes ids STATUS`, path, for renames another path), then numstat (`+ TAB - TAB path`)."""
    kinds: dict[bytes, str] = {}
    queue = iter(fields)
    for field in queue:
        if field.startswith(b":"):
            status = field.rsplit(b" ", 1)[1][:1].decode()
            path = next(queue)
            kinds[next(queue) if status in "RC" else path] = _CHANGES.get(status, "modified")
        elif field:
            added, deleted, path = field.split(b"\t", 2)
            if not path:
                next(queue)
                path = next(queue)
            yield ChangedFile(
                path=readable(os.fsdecode(path)),
                change=kinds[path],
                additions=None if added == b"-" else int(added),
                deletions=None if deleted == b"-" else int(deleted),
            )


def _capped(changed: Iterable[ChangedFile], truncated: bool) -> DiffSummary:
    first: list[ChangedFile] = []
    files = additions = deletions = 0
    for file in changed:
        files += 1
        additions += file.additions or 0
        deletions += file.deletions or 0
        if len(first) < MAX_NAMED:
            first.append(file)
    named = named_files(first, DIFF_BYTES)
    return DiffSummary(
        files=files,
        additions=additions,
        deletions=deletions,
        changed=named,
        truncated=truncated or len(named) < files,
    )


async def _patch(workspace: Prepared, ref: str | None, changes: Changes, path: Path) -> Patch:
    omitted = [readable(change.path) for change in (*changes.deleted, *changes.written) if change.large]
    try:
        await asyncio.to_thread(_write_head, path, omitted, changes.report.truncated, workspace.limits)
        if ref is not None:
            arguments = _diff_arguments(workspace, ref, "-p", "--binary", "--full-index")
            with path.open("ab") as file:
                await workspace.git().run(arguments, cwd=workspace.private, stdout=file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Patch(path, path.stat().st_size, omitted, ref, changes.report.truncated)


def _write_head(path: Path, omitted: list[str], truncated: bool, limits: Limits) -> None:
    with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
        if truncated:
            file.write("# this patch is not complete: too many files have changed\n")
        for name in omitted:
            # repr, so that a name with a line break cannot write lines of the patch.
            file.write(f"# not in this patch, larger than {limits.patch_file_bytes} bytes: {name!r}\n")
