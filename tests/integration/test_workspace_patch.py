"""The patch of a workspace applies to a copy of its base and gives the same tree, whatever the agent did."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocf.events.command_payloads import DirectoryWorkspace, EmptyWorkspace
from ocf.functions.workspace import Limits, Prepared, Sources, changed_files, conclude, prepare, summarise, write_patch
from tests.support.git_http import run_git
from tests.support.trees import awkward, git_listing


async def _prepared(source: Path, top: Path, limits: Limits | None = None) -> Prepared:
    sources = Sources(roots=(top,), limits=limits or Limits())
    wanted = DirectoryWorkspace(source="directory", path=str(source))
    return await prepare(wanted, top / "workspace", sources, private=top / "private")


def _apply(patch: Path, base: Path) -> None:
    """In a plain directory: `git apply` must need no repository."""
    run_git("apply", "--whitespace=nowarn", str(patch), cwd=base)


async def test_awkward_changes(tmp_path: Path) -> None:
    """Text, binary, CRLF, modes, links, renames, odd names, type changes: the patched copy equals the workspace."""
    source = tmp_path / "source"
    awkward(source, files=50, binary_bytes=300_000)
    workspace = await _prepared(source, tmp_path)
    root = workspace.directory
    (root / "ünï cödé 漢字.txt").write_text("other\n")
    (root / "new\nline").write_text("changed\nmore\n")
    (root / 'quo"te').rename(root / "back\\slash two")
    (root / "case").unlink()
    (root / "CASE").write_text("no newline at end")
    (root / "crlf.txt").write_bytes(b"one\r\nTWO\r\nthree\r\n")
    (root / "run.sh").chmod(0o644)
    (root / "empty").chmod(0o755)
    (root / "zero.bin").write_bytes(bytes(999) + b"\1")
    (root / "new.bin").write_bytes(os.urandom(5000))
    (root / "binary.bin").rename(root / "moved.bin")
    (root / "link").unlink()
    (root / "link").symlink_to("crlf.txt")
    (root / "dangling").unlink()
    (root / "dangling").write_text("a file now")
    (root / ".hidden").unlink()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "inside").write_text("a directory now")
    (root / os.fsdecode(b"not-utf8-\xff\xfe")).write_text("latin?")
    (root / "git~1").write_text("a name that git itself refuses to add")
    (root / "many" / "d00" / "f0.py").write_text("value = 'new'\n")
    summary, patch = await conclude(workspace, tmp_path / "patch")
    assert summary.files > 15
    assert patch.omitted == []
    assert {file.change for file in summary.changed} == {"added", "modified", "deleted", "renamed"}
    assert b"rename from binary.bin" in patch.path.read_bytes()
    _apply(patch.path, source)
    assert git_listing(source) == git_listing(root)


async def test_nothing_changed(tmp_path: Path) -> None:
    """No change, also after touching, copying over and changing back: an empty patch and an empty summary."""
    source = tmp_path / "source"
    awkward(source, files=10, binary_bytes=1000)
    workspace = await _prepared(source, tmp_path)
    (workspace.directory / "crlf.txt").touch()
    (workspace.directory / "run.sh").write_text((source / "run.sh").read_text())
    (workspace.directory / "empty directory" / "another").mkdir()
    summary, patch = await conclude(workspace, tmp_path / "patch")
    assert (summary.files, summary.changed, patch.size) == (0, [], 0)
    assert (await changed_files(workspace)).files == 0


async def test_committed_changes_count(tmp_path: Path) -> None:
    """What the agent committed, and what it did in repositories of its own inside, is in the patch like the rest."""
    workspace = await prepare(EmptyWorkspace(), tmp_path / "workspace", Sources(), private=tmp_path / "private")
    root = workspace.directory
    (root / "a.txt").write_text("a\n")
    run_git("add", "-A", cwd=root)
    run_git("commit", "-qm", "done", cwd=root)
    nested = root / "nested"
    nested.mkdir()
    run_git("init", "-q", ".", cwd=nested)
    (nested / "b.txt").write_text("b\n")
    run_git("add", "-A", cwd=nested)
    run_git("commit", "-qm", "done", cwd=nested)
    (nested / "c.txt").write_text("c\n")
    summary = await summarise(workspace)
    assert [(file.path, file.change, file.additions) for file in summary.changed] == [
        ("a.txt", "added", 1),
        ("nested/b.txt", "added", 1),
        ("nested/c.txt", "added", 1),
    ]
    base = tmp_path / "base"
    base.mkdir()
    _apply((await write_patch(workspace, tmp_path / "patch")).path, base)
    assert git_listing(base) == git_listing(root)


async def test_ignored_files_stay_out(tmp_path: Path) -> None:
    """New ignored files are no part of the result; a file of the base stays in view when the agent ignores it."""
    source = tmp_path / "source"
    (source / "kept").mkdir(parents=True)
    (source / "kept" / "in-index").write_text("1\n")
    (source / ".gitignore").write_text("kept/\n*.log\n")
    (source / "code.py").write_text("1\n")
    run_git("init", "-q", ".", cwd=source)
    run_git("add", "-f", ".gitignore", "code.py", "kept/in-index", cwd=source)
    workspace = await _prepared(source, tmp_path)
    root = workspace.directory
    (root / "x.log").write_text("noise")
    (root / "kept" / "new").write_text("noise")
    (root / "kept" / "in-index").write_text("2\n")
    (root / "code.py").write_text("2\n")
    (root / ".gitignore").write_text("kept/\n*.log\n*.py\n")
    paths = [file.path for file in (await summarise(workspace)).changed]
    assert paths == [".gitignore", "code.py", "kept/in-index"]
    assert [file.path for file in (await changed_files(workspace)).changed] == paths


async def test_paths_of_changes_are_bounded(tmp_path: Path) -> None:
    """Of more changes than their paths have room in memory for, the first are in patch and lists, which say so; those
    of deleted files count too."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"old{number:02}").touch()
    workspace = await _prepared(source, tmp_path, Limits(changed_path_characters=50))
    for path in source.iterdir():
        (workspace.directory / path.name).unlink()
    for number in range(20):
        (workspace.directory / f"new{number:02}").touch()
    summary, patch = await conclude(workspace, tmp_path / "patch")
    assert (summary.files, summary.truncated, patch.truncated) == (10, True, True)
    assert patch.path.read_text().startswith("# this patch is not complete")
    found = await changed_files(workspace)
    assert ([file.path for file in found.changed], found.truncated) == (
        [f"new{number:02}" for number in range(10)],
        True,
    )
    for number in range(20):
        (workspace.directory / f"new{number:02}").unlink()
    found = await changed_files(workspace)
    assert (found.files, found.truncated) == (10, True)


async def test_large_files_are_named_instead(tmp_path: Path) -> None:
    """Files over the limit are reported and named at the head of the patch, which applies without them."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "grows").write_bytes(b"small")
    (source / "was-large").write_bytes(bytes(2000))
    workspace = await _prepared(source, tmp_path, Limits(patch_file_bytes=1000))
    root = workspace.directory
    (root / "grows").write_bytes(bytes(3000))
    (root / "was-large").unlink()
    (root / "new\nlarge").write_bytes(bytes(1001))
    (root / "text").write_text("hello\n")
    summary, patch = await conclude(workspace, tmp_path / "patch")
    assert {(file.path, file.change) for file in summary.changed} == {
        ("grows", "modified"),
        ("was-large", "deleted"),
        ("new\nlarge", "added"),
        ("text", "added"),
    }
    assert sorted(patch.omitted) == ["grows", "new\nlarge", "was-large"]
    _apply(patch.path, source)
    assert (source / "text").read_text() == "hello\n"
    assert (source / "grows").read_bytes() == b"small"


async def test_time_set_back(tmp_path: Path) -> None:
    """A file changed without changing its size or mtime is still seen."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("aaaa")
    workspace = await _prepared(source, tmp_path)
    path = workspace.directory / "f"
    before = path.stat()
    path.write_text("bbbb")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [file.path for file in (await changed_files(workspace)).changed] == ["f"]
    assert (await summarise(workspace)).files == 1


@pytest.mark.parametrize("entries", [100])
async def test_too_many_entries_are_said(tmp_path: Path, entries: int) -> None:
    """A workspace that grew beyond the limit is summed up as far as it was read, and said to be cut short."""
    limits = Limits(max_entries=entries)
    workspace = await prepare(
        EmptyWorkspace(), tmp_path / "workspace", Sources(limits=limits), private=tmp_path / "private"
    )
    for number in range(entries * 2):
        (workspace.directory / f"{number:04}").touch()
    summary = await summarise(workspace)
    assert summary.truncated
    assert 0 < summary.files <= entries
