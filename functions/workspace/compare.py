"""Changes of a workspace since its baseline: by stat data first, by content where that differs."""

from __future__ import annotations

import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ocf.functions.workspace.baseline import BaselineEntry, Cursor, Limits, git_mode, read_blob, read_table
from ocf.functions.workspace.fast_import import FastImport
from ocf.functions.workspace.safe_walk import Entry, Report, Walk, walk

Kind = Literal["added", "modified", "deleted"]


@dataclass(frozen=True, slots=True)
class Change:
    """One changed path. `mark` is its new content in the importer; 0 when left out (`large`) or deleted."""

    path: str
    kind: Kind
    mode: int = 0
    size: int = 0
    mark: int = 0
    large: bool = False


@dataclass
class Changes:
    """Every change, in the order of the walk; deletions separate. `report.truncated`: there are more.

    `characters` may still be in paths.
    """

    characters: int
    deleted: list[Change] = field(default_factory=list)
    written: list[Change] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    def add(self, change: Change, to: list[Change]) -> None:
        """Add a change, unless there are too many."""
        if len(change.path) > self.characters:
            self.report.truncated = True
            return
        self.characters -= len(change.path)
        to.append(change)


@dataclass
class _Budget:
    """Bytes that may still be read; beyond them, a difference in stat data counts as a change."""

    left: int


def compare(
    directory: Path, private: Path, limits: Limits, stop: threading.Event, importer: FastImport | None = None
) -> Changes:
    """Return the changes of `directory` against the baseline in `private`.

    With an importer, the new contents go to it, at most `limits.patch_bytes` in all; without one, contents are only
    hashed, at most 64 MiB in all, so that a scan during an execution costs little.

    Raises:
        Stopped: cancelled.
    """
    changes = Changes(limits.changed_path_characters)
    cursor = Cursor(read_table(private), lambda known: changes.add(_deletion(known), changes.deleted))
    how = Walk(
        limits.max_entries, gitignore=True, git_directories=False, tracked=cursor, stop=stop, report=changes.report
    )
    budget = _Budget(limits.patch_bytes if importer else min(limits.patch_bytes, 64 * 1024**2))
    for entry in walk(directory, how):
        if entry.kind == stat.S_IFDIR:
            continue
        known = cursor.take(entry.path)
        change = _change(entry, known, limits, budget, importer)
        if change is not None:
            changes.add(change, changes.written)
        if changes.report.truncated:
            break
    if not changes.report.truncated:
        # A walk that was cut short cannot tell which of the rest was deleted.
        cursor.end()
    return changes


def _deletion(known: BaselineEntry) -> Change:
    return Change(known.path, "deleted", git_mode(known.mode), known.size, large=known.large)


def _change(
    entry: Entry, known: BaselineEntry | None, limits: Limits, budget: _Budget, importer: FastImport | None
) -> Change | None:
    found = entry.stat
    if known is not None and known.same_stat(found):
        return None
    kind: Kind = "added" if known is None else "modified"
    mode, size = git_mode(found.st_mode), found.st_size
    # A formerly large file is not in the baseline's tree: a patch that adds it as new would not apply.
    if size > limits.patch_file_bytes or size > budget.left or (known is not None and known.large):
        return Change(entry.path, kind, mode, size, large=True)
    if importer is None and (known is None or known.size != size or git_mode(known.mode) != mode):
        return Change(entry.path, kind, mode, size)
    budget.left -= size
    try:
        sha1, mark = read_blob(entry, importer)
    except FileNotFoundError:
        return None if known is None else Change(entry.path, "deleted", mode, size)
    except OSError:
        return Change(entry.path, kind, mode, size, large=True)
    if known is not None and known.sha1 == sha1 and git_mode(known.mode) == mode:
        return None
    return Change(entry.path, kind, mode, size, mark)
