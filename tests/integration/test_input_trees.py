"""The files that an execution began from: stored once per content, exact, gone with the last execution."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import tarfile
from pathlib import Path

import zstandard

from ocf.events.command_payloads import GitWorkspace
from ocf.functions.workspace import Sources, pack_input, prepare, tree_digest, unpack
from ocf.functions.workspace.baseline import DEFAULT_LIMITS
from ocf.functions.workspace.threads import in_thread
from tests.support.git_http import run_git
from tests.support.stack import OCF, Project, until
from tests.support.trees import listing


def repository(folder: Path) -> Path:
    folder.mkdir()
    run_git("init", "-q", cwd=folder)
    for number in range(50):
        (folder / f"file {number} ü").write_bytes(os.urandom(1_000))
    deep = folder / ("long directory " * 12)
    deep.mkdir()
    (deep / "file").write_text("deep")
    (deep / "link").symlink_to("no/" * 60 + "where")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("run.sh")
    run_git("add", "-A", cwd=folder)
    run_git("commit", "-qm", "one", cwd=folder)
    return folder


async def test_two_clones_of_a_commit_have_one_digest_and_git_finds_the_stored_one_clean(tmp_path: Path) -> None:
    """Another commit has another; the unpacked tree is the clone's, index and history included."""
    source = repository(tmp_path / "repo")
    digests = []
    for name in ("one", "two"):
        wanted = GitWorkspace(source="git", url=f"file://{source}")
        folder = tmp_path / name
        made = await prepare(wanted, folder / "w", Sources(roots=(tmp_path,)), private=folder / "p")
        archive = folder / "a.tar.zst"
        _, digest = await pack_input(made, archive, 10**9, clone=True)
        read = await in_thread(functools.partial(tree_digest, archive, DEFAULT_LIMITS, clone=True))
        assert read == digest
        digests.append(digest)
    assert digests[0] == digests[1]
    await unpack(tmp_path / "one/a.tar.zst", tmp_path / "back")
    assert listing(tmp_path / "back") == listing(tmp_path / "one/w")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path / "back", capture_output=True, text=True)
    assert (status.returncode, status.stdout) == (0, "")
    whole = await in_thread(lambda stop: tree_digest(tmp_path / "one/a.tar.zst", DEFAULT_LIMITS, stop))
    assert whole != digests[0]
    (source / "new").write_text("x")
    run_git("add", "-A", cwd=source)
    run_git("commit", "-qm", "two", cwd=source)
    wanted = GitWorkspace(source="git", url=f"file://{source}")
    other = await prepare(wanted, tmp_path / "w3", Sources(roots=(tmp_path,)), private=tmp_path / "p3")
    assert (await pack_input(other, tmp_path / "3.tar.zst", 10**9, clone=True))[1] != digests[0]


async def test_a_stack_keeps_each_input_once(project: Project, tmp_path: Path) -> None:
    """Two executions of the same directory share a tree, which any tar reads; the manifest names the whole input; with
    `recording: off` nothing is kept; the last deletion removes it."""
    folder = project.stack.data_dir.parent / "sources" / project.name
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("hello")
    (folder / ".gitignore").write_text("ignored\n")
    (folder / "ignored").write_text("also input")
    steps = [{"run": "rm a.txt; echo changed > b.txt"}]
    workspace = {"source": "directory", "path": str(folder)}
    runs = [await project.submit(steps, workspace=workspace) for _ in range(2)]
    off = await project.submit(steps, workspace=workspace, recording="off")
    found = []
    for execution in (*runs, off):
        await project.archived(execution, timeout=60)
        found.append(json.loads(await project.store.get(f"{project.name}/{execution}/manifest.json"))["input"])
    tree = found[0]["tree"]
    assert (found[1]["tree"], found[0]["source"], "missing" in found[0]) == (tree, "directory", False)
    assert {"HOME", "PATH"} <= set(found[0]["environment"])
    assert found[0]["agent"].startswith("opencode 1.18")
    assert found[0]["configuration"] == found[1]["configuration"]
    assert ("tree" in found[2], found[2]["missing"]) == (False, "nothing is recorded of this execution")

    async def inputs() -> set[str]:
        prefix = f"{project.name}/inputs/"
        return {info.key.removeprefix(prefix) async for info in project.store.list(prefix)}

    assert await inputs() == {f"{tree}.tar.zst", *(f"{tree}.users/{execution}" for execution in runs)}
    packed = tmp_path / "a.tar.zst"
    packed.write_bytes(await project.store.get(f"{project.name}/inputs/{tree}.tar.zst"))
    plain = tmp_path / "a.tar"
    with packed.open("rb") as one, plain.open("wb") as two:
        zstandard.ZstdDecompressor().copy_stream(one, two)
    with tarfile.open(plain) as tar:
        assert {name for name in tar.getnames() if not name.startswith(".git/")} == {".gitignore", "a.txt", "ignored"}
    for number, execution in enumerate(runs):
        await project.client.delete(execution)

        async def gone(execution: str = execution) -> bool:
            return await project.objects(execution) == set()

        await until(gone, timeout=60, what="the objects are gone")
        assert (await inputs() == set()) is (number == 1)


async def test_a_bundle_goes_to_another_project(project: Project, tmp_path: Path) -> None:
    """`ocf export` and `ocf import` on a real stack: the import replays, compares as the same, and keeps its input."""
    execution = await project.submit([{"text": "hello"}, {"write": {"path": "a.txt", "content": "x\n"}}])
    await project.archived(execution, timeout=60)
    where, other = ["--data-dir", str(project.stack.data_dir)], f"{project.name}-b"
    file = tmp_path / "one.ocf.tar"

    async def ocf(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            OCF, *words, *where, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return out.decode()

    await ocf("export", execution, "-o", str(file), "--project", project.name)
    with tarfile.open(file) as tar:
        assert {"manifest.json", "events.ndjson", "input.tar.zst", "output.ndjson.gz"} <= set(tar.getnames())
    new = (await ocf("import", str(file), "--project", other)).strip()
    again = (await ocf("import", str(file), "--project", other)).strip()
    assert "hello" in await ocf("output", new, "--project", other)
    assert "+x" in await ocf("diff", new, "--project", other)
    assert json.loads(await ocf("compare", new, again, "--json", "--project", other))["same"] is True
    status = json.loads(await ocf("status", new, "--json", "--project", other))
    assert (status["status"], status["imported_from"]) == ("completed", f"{project.name}/{execution}")
    for one in (new, again):
        await ocf("delete", one, "--project", other)

    async def gone() -> bool:
        return not [info async for info in project.store.list(f"{other}/")]

    await until(gone, timeout=60, what="nothing of the imports is left")
