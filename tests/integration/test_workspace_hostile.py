"""Red team: what a workspace can hold to make us run, read or leave something. None of it does anything."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from ocf.events.command_payloads import DirectoryWorkspace, EmptyWorkspace, GitWorkspace
from ocf.functions.execute.sandbox.readable_tree import make_readable
from ocf.functions.workspace import (
    InvalidWorkspace,
    Limits,
    Prepared,
    Sources,
    changed_files,
    conclude,
    measure,
    pack,
    prepare,
    unpack,
)
from ocf.functions.workspace.gitignore import RuleBudget
from ocf.functions.workspace.safe_walk import Walk, walk
from tests.support.git_http import run_git
from tests.support.privileges import without_privileges

CONFIG = """\
[core]
\tfsmonitor = {run}
\thooksPath = {hooks}
\tsshCommand = {run}
\tpager = {run}
\teditor = {run}
\taskPass = {run}
\tattributesFile = {hooks}/attributes
\talternateRefsCommand = {run}
\tgitProxy = {run}
[filter "evil"]
\tclean = {run}
\tsmudge = {run}
\tprocess = {run}
\trequired = true
[diff]
\texternal = {run}
[diff "evil"]
\tcommand = {run}
\ttextconv = {run}
[merge "evil"]
\tdriver = {run}
[credential]
\thelper = !{run}
[uploadpack]
\tpackObjectsHook = {run}
[alias]
\tdiff-tree = !{run}
\tls-files = !{run}
[include]
\tpath = {hooks}/more
"""
ATTRIBUTES = "* filter=evil diff=evil merge=evil text eol=crlf ident working-tree-encoding=UTF-16\n"


def _plant(root: Path, top: Path) -> Path:
    """Put everything that git could be made to run into `root`; returns the file that shows that something ran."""
    marker, run, hooks = top / "ran", top / "run", top / "hooks"
    run.write_text(f'#!/bin/sh\necho "$0 $@" >> {marker}\ncat\n')
    run.chmod(0o755)
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        for directory in (hooks, root / ".git" / "hooks"):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / hook).write_bytes(run.read_bytes())
            (directory / hook).chmod(0o755)
    (root / ".git" / "config").write_text(CONFIG.format(run=run, hooks=hooks))
    (root / ".gitattributes").write_text(ATTRIBUTES)
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "attributes").write_text(ATTRIBUTES)
    (root / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ext::{run}\n\tupdate = !{run}\n')
    nested = root / "nested"
    nested.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", str(root / ".git"), str(nested / ".git")], check=True)
    (nested / "file").write_text("nested\n")
    return marker


async def _everything(workspace: Prepared, top: Path) -> None:
    await changed_files(workspace)
    await measure(workspace)
    await conclude(workspace, top / "patch")
    await pack(workspace, top / "a.tar.zst")
    await unpack(top / "a.tar.zst", top / "back")


async def test_planted_by_the_agent(tmp_path: Path) -> None:
    """A hostile `.git/config`, attributes, hooks and nested repositories: nothing of them runs, the patch is right."""
    workspace = await prepare(EmptyWorkspace(), tmp_path / "w", Sources(), private=tmp_path / "p")
    marker = _plant(workspace.directory, tmp_path)
    (workspace.directory / "crlf").write_bytes(b"a\r\nb $Id$\n")
    await _everything(workspace, tmp_path)
    assert not marker.exists()
    base = tmp_path / "base"
    base.mkdir()
    run_git("apply", "--whitespace=nowarn", str(tmp_path / "patch"), cwd=base)
    assert (base / "crlf").read_bytes() == b"a\r\nb $Id$\n"
    assert (base / "nested" / "file").read_text() == "nested\n"
    # The control: git run in the workspace itself does run what was planted.
    subprocess.run(["git", "status"], cwd=workspace.directory, capture_output=True, check=False)
    assert marker.exists()


async def test_brought_by_the_source(tmp_path: Path) -> None:
    """The same in a directory that is copied: nothing runs while it is prepared and recorded either."""
    source = tmp_path / "source"
    source.mkdir()
    run_git("init", "-q", ".", cwd=source)
    (source / "a").write_text("a\n")
    run_git("add", "-A", cwd=source)
    marker = _plant(source, tmp_path)
    wanted = DirectoryWorkspace(source="directory", path=str(source))
    workspace = await prepare(wanted, tmp_path / "w", Sources(roots=(source,)), private=tmp_path / "p")
    (workspace.directory / "a").write_text("b\n")
    await _everything(workspace, tmp_path)
    assert not marker.exists()


async def test_hostile_repository(tmp_path: Path) -> None:
    """A clone of a repository with hostile attributes and submodules, asked for or not: nothing runs."""
    made = tmp_path / "made"
    made.mkdir()
    run_git("init", "-q", ".", cwd=made)
    run = tmp_path / "run"
    run.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    run.chmod(0o755)
    (made / ".gitattributes").write_text("* filter=evil\n")
    (made / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = ext::{run}\n\tupdate = !{run}\n')
    (made / "a").write_text("a\n")
    run_git("add", "-A", cwd=made)
    commit = "1234567890" * 4
    run_git("update-index", "--add", "--cacheinfo", f"160000,{commit},x", cwd=made)
    run_git("commit", "-qm", "evil", cwd=made)
    sources = Sources(roots=(made,))
    workspace = await prepare(
        GitWorkspace(source="git", url=f"file://{made}"), tmp_path / "w", sources, private=tmp_path / "p"
    )
    assert (workspace.directory / "a").read_text() == "a\n"
    with pytest.raises(InvalidWorkspace):
        await prepare(
            GitWorkspace(source="git", url=f"file://{made}", submodules=True),
            tmp_path / "w2",
            sources,
            private=tmp_path / "p2",
        )
    assert not (tmp_path / "ran").exists()


async def test_files_that_are_not_what_they_seem(tmp_path: Path) -> None:
    """Fifos and links where we read `.gitignore`, the index and excludes: no hang, nothing of theirs is read."""
    workspace = await prepare(EmptyWorkspace(), tmp_path / "w", Sources(), private=tmp_path / "p")
    root = workspace.directory
    (tmp_path / "rules").write_text("secret-rule\n")
    (root / ".gitignore").symlink_to(tmp_path / "rules")
    (root / "secret-rule").write_text("visible, for the link is not followed")
    (root / "sub").mkdir()
    os.mkfifo(root / "sub" / ".gitignore")
    os.mkfifo(root / "pipe")
    (root / "self").symlink_to("self")
    (root / "device").symlink_to("/dev/zero")
    subprocess.run(["rm", "-rf", str(root / ".git")], check=True)
    (root / ".git").symlink_to("/etc")
    summary, _ = await conclude(workspace, tmp_path / "patch")
    assert {file.path for file in summary.changed} == {".gitignore", "device", "secret-rule", "self"}
    assert "root:" not in (tmp_path / "patch").read_text()
    packed = await pack(workspace, tmp_path / "a.tar.zst")
    assert {path for path, _ in packed.skipped} >= {".git", ".gitignore", "device", "pipe"}


@pytest.mark.parametrize("what", ["file", "link", "fifo", "garbage", "nothing"])
async def test_broken_git_directories(tmp_path: Path, what: str) -> None:
    """A source whose `.git` is a file, a link, a fifo, garbage or half missing is copied and compared all the same."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a\n")
    git = source / ".git"
    if what == "file":
        git.write_text("gitdir: /etc\n")
    elif what == "link":
        (source / "real").mkdir()
        git.symlink_to("real")
    elif what == "fifo":
        os.mkfifo(git)
    else:
        git.mkdir()
        (git / "index").write_bytes(os.urandom(1000) if what == "garbage" else b"")
    wanted = DirectoryWorkspace(source="directory", path=str(source))
    workspace = await prepare(wanted, tmp_path / "w", Sources(roots=(source,)), private=tmp_path / "p")
    (workspace.directory / "a").write_text("b\n")
    summary, _ = await conclude(workspace, tmp_path / "patch")
    assert [file.path for file in summary.changed] == ["a"]


async def test_names_cannot_write_the_patch(tmp_path: Path) -> None:
    """A name that looks like a patch is quoted: applying creates that name and nothing else."""
    workspace = await prepare(EmptyWorkspace(), tmp_path / "w", Sources(), private=tmp_path / "p")
    evil = "x\ndiff --git a…evil b…evil\nnew file mode 100644\n--- …dev…null\n+++ b…evil\n@@ -0,0 +1 @@\n+evil"
    (workspace.directory / evil).write_text("harmless\n")
    await conclude(workspace, tmp_path / "patch")
    base = tmp_path / "base"
    base.mkdir()
    run_git("apply", str(tmp_path / "patch"), cwd=base)
    assert [path.name for path in base.iterdir()] == [evil]


@pytest.mark.parametrize("mode", [0, 0o444])
def test_locked_folders(tmp_path: Path, mode: int) -> None:
    """A folder without the r or x bits is left out of diff and archive and named, and its files are not deleted; opened
    up it is there whole, with no file changed by that."""
    source = tmp_path / "source"
    (source / "a" / "deep").mkdir(parents=True)
    (source / "a" / "deep" / "large").write_bytes(bytes(2000))
    for name in ("a/file", "a-b", "b"):
        (source / name).write_text("before\n")
    sources = Sources(roots=(source,), limits=Limits(patch_file_bytes=1000))
    wanted = DirectoryWorkspace(source="directory", path=str(source))
    workspace = asyncio.run(prepare(wanted, tmp_path / "w", sources, private=tmp_path / "p"))
    root = workspace.directory
    for name in ("a/file", "a/new", "b"):
        (root / name).write_text("after\n")
    (root / "a" / "file").chmod(0)
    (root / "a-b").unlink()
    (root / "a" / "deep").chmod(mode)
    (root / "a").chmod(mode)

    async def results(to: Path) -> tuple[list[tuple[str, str]], set[str]]:
        to.mkdir()
        (tmp_path / "patch").unlink(missing_ok=True)
        summary, patch = await conclude(workspace, tmp_path / "patch")
        packed = await pack(workspace, to / "a.tar.zst")
        await unpack(to / "a.tar.zst", to / "back")
        assert (await changed_files(workspace)).files == summary.files
        assert patch.omitted == []
        return [(file.path, file.change) for file in summary.changed], {path for path, _ in packed.skipped}

    locked = {"a"} if mode == 0 else {"a/deep", "a/file", "a/new"}
    changed = [("a-b", "deleted"), ("b", "modified")]
    assert without_privileges(lambda: asyncio.run(results(tmp_path / "one"))) == (changed, locked)
    without_privileges(lambda: make_readable(root, 0o400))
    changed = [("a-b", "deleted"), ("a/file", "modified"), ("a/new", "added"), ("b", "modified")]
    assert without_privileges(lambda: asyncio.run(results(tmp_path / "two"))) == (changed, set())
    assert (tmp_path / "two" / "back" / "a" / "deep" / "large").stat().st_size == 2000


async def test_ignore_rules_are_bounded(tmp_path: Path) -> None:
    """Files of more rules than anybody writes, one in the other and side by side, cost no time: they are named and do
    not apply, while others do. A pattern is as short as a path."""
    workspace = await prepare(EmptyWorkspace(), tmp_path / "w", Sources(), private=tmp_path / "p")
    root = folder = workspace.directory
    (root / ".gitignore").write_text("*.log\n" + "*a" * 100_000 + "\n")
    (root / "noise.log").write_text("x")
    rules = b"".join(b"%x*\n" % number for number in range(150_000))
    for _ in range(5):
        folder /= "sub"
        folder.mkdir()
        (folder / ".gitignore").write_bytes(rules)
    began = time.process_time()
    packed = await pack(workspace, tmp_path / "a.tar.zst")
    assert time.process_time() - began < 1
    assert packed.unapplied[:2] == ["sub/.gitignore", "sub/sub/.gitignore"]
    assert len(packed.unapplied) == 5
    await unpack(tmp_path / "a.tar.zst", tmp_path / "back")
    assert not (tmp_path / "back" / "noise.log").exists()
    walked = Walk(1000, gitignore=True, rules=RuleBudget(3))
    assert "noise.log" in {entry.path for entry in walk(root, walked)}
    assert walked.report.unapplied[0] == ".gitignore"


async def test_depth_and_length(tmp_path: Path) -> None:
    """Directories deeper than any tool takes are left out by name, quickly, and the rest is still there."""
    workspace = await prepare(EmptyWorkspace(), tmp_path / "w", Sources(), private=tmp_path / "p")
    (workspace.directory / "a").write_text("a\n")
    fd = os.open(workspace.directory, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    summary, _ = await conclude(workspace, tmp_path / "patch")
    assert [file.path for file in summary.changed] == ["a"]
    packed = await pack(workspace, tmp_path / "a.tar.zst")
    assert packed.skipped_count == 1
    await unpack(tmp_path / "a.tar.zst", tmp_path / "back")
    assert (tmp_path / "back" / "a").exists()
    # pytest's own clean-up would recurse too deep.
    subprocess.run(["rm", "-rf", str(workspace.directory), str(tmp_path / "back")], check=True)
