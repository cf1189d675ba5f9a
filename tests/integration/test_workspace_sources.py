"""Where workspaces come from: what is accepted, what is refused with a sentence that helps, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocf.events.adapters.memory_object_store import MemoryStore
from ocf.events.adapters.s3 import S3Config, S3Store
from ocf.events.command_payloads import (
    DirectoryWorkspace,
    EmptyWorkspace,
    GitWorkspace,
    SharedWorkspace,
    SnapshotWorkspace,
    Workspace,
)
from ocf.events.lifecycle import Reason
from ocf.functions.workspace import (
    InvalidWorkspace,
    Limits,
    Prepared,
    Sources,
    forget,
    pack,
    prepare,
    restore,
    summarise,
)
from ocf.functions.workspace.directory_source import copy_tree
from tests.support.git_http import GitServer, git_server, run_git
from tests.support.trees import awkward, listing

EXECUTION = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a11"
TOKEN = "tok-3f9c1d"


class Place:
    """Directories of one test, and whether anything was left in them."""

    def __init__(self, top: Path) -> None:
        self.top, self.workspace, self.private = top, top / "w" / "workspace", top / "p" / "private"

    async def prepare(self, source: Workspace, sources: Sources | None = None, token: str | None = None) -> Prepared:
        return await prepare(source, self.workspace, sources or Sources(), private=self.private, token=token)

    async def refused(self, source: Workspace, sources: Sources | None = None, token: str | None = None) -> str:
        with pytest.raises(InvalidWorkspace) as caught:
            await self.prepare(source, sources, token)
        assert caught.value.reason is Reason.INVALID_WORKSPACE
        self.clean()
        return str(caught.value)

    def clean(self) -> None:
        assert not self.workspace.exists()
        assert not self.private.exists()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`served/app.git`: main with two commits, branch `topic`, tag `v1` on the first commit."""
    work = tmp_path / "made"
    work.mkdir()
    run_git("init", "-q", ".", cwd=work)
    (work / "a.txt").write_text("one\n")
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "link").symlink_to("a.txt")
    run_git("add", "-A", cwd=work)
    run_git("commit", "-qm", "one", cwd=work)
    run_git("tag", "v1", cwd=work)
    (work / "a.txt").write_text("two\n")
    run_git("commit", "-qam", "two", cwd=work)
    run_git("branch", "topic", cwd=work)
    served = tmp_path / "served"
    served.mkdir()
    run_git("clone", "-q", "--bare", str(work), str(served / "app.git"), cwd=tmp_path)
    run_git("config", "uploadpack.allowReachableSHA1InWant", "true", cwd=served / "app.git")
    return served


@pytest.fixture
def server(repository: Path) -> Iterator[GitServer]:
    with git_server(repository, TOKEN) as running:
        yield running


def _git(server: GitServer, **more: Any) -> GitWorkspace:
    return GitWorkspace(source="git", url=f"{server.url}/app.git", **more)


async def test_empty(place: Place) -> None:
    """An empty workspace is a git repository without commits, and without changes."""
    workspace = await place.prepare(EmptyWorkspace())
    assert run_git("status", "--porcelain", "--branch", cwd=workspace.directory) == "## No commits yet on main\n"
    assert (workspace.files, (await summarise(workspace)).files) == (0, 0)
    await forget(workspace)
    place.clean()


@pytest.mark.parametrize(
    ("ref", "text", "branch"),
    [
        (None, "two\n", "main"),
        ("topic", "two\n", "topic"),
        ("refs/heads/topic", "two\n", "topic"),
        ("v1", "one\n", ""),
        ("refs/tags/v1", "one\n", ""),
        ("SHA", "one\n", ""),
        ("SHORT", "one\n", ""),
    ],
)
async def test_git_refs(place: Place, server: GitServer, ref: str | None, text: str, branch: str) -> None:
    """Default branch, branch, tag, full and short commit id: the right tree, on the right branch, nothing changed."""
    first = run_git("rev-parse", "v1", cwd=place.top / "made").strip()
    ref = {"SHA": first, "SHORT": first[:10]}.get(ref or "", ref)
    workspace = await place.prepare(_git(server, ref=ref), token=TOKEN)
    root = workspace.directory
    assert (root / "a.txt").read_text() == text
    assert os.access(root / "run.sh", os.X_OK)
    assert (root / "link").readlink() == Path("a.txt")
    assert run_git("branch", "--show-current", cwd=root).strip() == branch
    assert run_git("rev-parse", "HEAD", cwd=root).strip() == workspace.commit
    assert run_git("status", "--porcelain", cwd=root) == ""
    assert (await summarise(workspace)).files == 0


async def test_git_is_shallow_unless_asked(place: Place, server: GitServer) -> None:
    """`depth` commits and no more; the next depth brings the next."""
    workspace = await place.prepare(_git(server), token=TOKEN)
    assert run_git("log", "--format=%s", cwd=workspace.directory) == "two\n"
    await forget(workspace)
    workspace = await place.prepare(_git(server, depth=5), token=TOKEN)
    assert run_git("log", "--format=%s", cwd=workspace.directory) == "two\none\n"


async def test_the_token_stays_nowhere(place: Place, server: GitServer) -> None:
    """The server got it; no file of the workspace or the private directory has it, nor does the remote's URL."""
    workspace = await place.prepare(_git(server), token=TOKEN)
    assert f"x-access-token:{TOKEN}" in server.logins
    assert run_git("remote", "get-url", "origin", cwd=workspace.directory).strip() == f"{server.url}/app.git"
    for root in (place.workspace, place.private):
        for path in root.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


async def test_a_wrong_token(place: Place, server: GitServer) -> None:
    """Wrong or missing credentials fail at once, without a prompt, and the message does not repeat them."""
    assert "could not clone" in await place.refused(_git(server))
    assert "wrong-token" not in await place.refused(_git(server), token="wrong-token")


async def test_the_token_goes_to_its_origin_only(place: Place, server: GitServer, repository: Path) -> None:
    """A server that redirects gets an error, and who it points to gets nothing."""
    with git_server(repository) as other:
        server.redirect_to = other.url
        await place.refused(_git(server), token=TOKEN)
        assert other.logins == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ext::sh -c touch% /tmp/x", "plain address"),
        ("ext::sh", "plain address"),
        ("fd::17", "plain address"),
        ("--upload-pack=touch x", "plain address"),
        ("-oProxyCommand=x", "plain address"),
        ("file:///etc", "WORKSPACE_SOURCES"),
        ("/etc", "scheme"),
        ("../x", "scheme"),
        ("git://127.0.0.1/x", "scheme"),
        ("ssh://example.com/x", "scheme"),
        ("git@example.com:a/b.git", "scheme"),
        ("https://user:hunter2@127.0.0.1/x", "credentials"),
        ("https:///x", "host"),
        ("https://127.0.0.1:99999/x", "port"),
        ("http://169.254.169.254/latest", "link-local"),
        ("http://127.0.0.1:1/x.git", "could not clone"),
        ("https://no-such-host.invalid/x.git", "cannot be found"),
    ],
)
async def test_git_urls_that_are_refused(place: Place, url: str, says: str) -> None:
    """Commands in disguise, local paths, other protocols, credentials, metadata services, dead hosts."""
    message = await place.refused(GitWorkspace.model_construct(source="git", url=url))  # nobody has looked at it before
    assert says in message
    assert "hunter2" not in message


@pytest.mark.parametrize("ref", ["absent", "a..b", "HEAD:x", "x~1", "deadbeef", "0" * 40, "refs/notes/x", "a.lock"])
async def test_git_refs_that_are_refused(place: Place, server: GitServer, ref: str) -> None:
    """A ref that does not exist, or is none."""
    await place.refused(_git(server, ref=ref), token=TOKEN)


async def test_git_repository_without_commits(place: Place, repository: Path) -> None:
    """An empty repository gives an empty workspace with its remote."""
    run_git("init", "-q", "--bare", "empty.git", cwd=repository)
    with git_server(repository) as server:
        workspace = await place.prepare(GitWorkspace(source="git", url=f"{server.url}/empty.git"))
    assert (workspace.commit, workspace.files) == (None, 0)


async def test_git_file_below_an_allowed_root(place: Place, repository: Path) -> None:
    """file:// works where the operator allows it, and nowhere else, links resolved."""
    source = GitWorkspace(source="git", url=f"file://{repository}/app.git")
    assert (await place.prepare(source, Sources(roots=(repository,)))).files == 3
    await forget(Prepared(place.workspace, place.private))
    allowed = place.top / "allowed"
    allowed.mkdir()
    (allowed / "app.git").symlink_to(repository / "app.git")
    await place.refused(GitWorkspace(source="git", url=f"file://{allowed}/app.git"), Sources(roots=(allowed,)))


async def test_git_link_out_of_the_tree(place: Place, repository: Path) -> None:
    """A committed link that leads out is refused, and so is what it would show."""
    made = place.top / "made"
    (made / "evil").symlink_to("../../../etc/passwd")
    run_git("add", "-A", cwd=made)
    run_git("commit", "-qm", "evil", cwd=made)
    run_git("push", "-q", str(repository / "app.git"), "main", cwd=made)
    source = GitWorkspace(source="git", url=f"file://{repository}/app.git")
    assert "leads out" in await place.refused(source, Sources(roots=(repository,)))


async def test_git_in_time(place: Place) -> None:
    """A server that takes the connection and says nothing costs `git_seconds`, no more."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    message = await place.refused(
        GitWorkspace(source="git", url=f"http://127.0.0.1:{port}/x.git"), Sources(limits=Limits(git_seconds=0.5))
    )
    assert "took longer" in message
    listener.close()
    await listener.wait_closed()


async def test_git_size_is_bounded(place: Place, repository: Path) -> None:
    """A repository larger than a workspace may be stops while it is fetched."""
    made = place.top / "made"
    (made / "big").write_bytes(os.urandom(3_000_000))
    run_git("add", "-A", cwd=made)
    run_git("commit", "-qm", "big", cwd=made)
    run_git("push", "-q", str(repository / "app.git"), "main", cwd=made)
    source = GitWorkspace(source="git", url=f"file://{repository}/app.git")
    await place.refused(source, Sources(roots=(repository,), limits=Limits(max_bytes=1_000_000)))


async def test_submodules_only_when_asked(place: Place, server: GitServer, repository: Path) -> None:
    """Off: the directory is empty. On: fetched from the same server with the same token, and part of the base."""
    made = place.top / "made"
    run_git("clone", "-q", "--bare", str(made), str(repository / "sub.git"), cwd=made)
    run_git("submodule", "add", "-q", str(repository / "sub.git"), "sub", cwd=made)
    run_git("config", "-f", ".gitmodules", "submodule.sub.url", "../sub.git", cwd=made)
    run_git("commit", "-qam", "sub", cwd=made)
    run_git("push", "-q", str(repository / "app.git"), "main", cwd=made)
    workspace = await place.prepare(_git(server), token=TOKEN)
    assert list((workspace.directory / "sub").iterdir()) == []
    await forget(workspace)
    workspace = await place.prepare(_git(server, submodules=True), token=TOKEN)
    (workspace.directory / "sub" / "a.txt").write_text("three\n")
    assert [file.path for file in (await summarise(workspace)).changed] == ["sub/a.txt"]


def _with_submodule(place: Place, repository: Path, url: str) -> None:
    """Push a submodule `sub` to `app.git` that is to be fetched from `url`."""
    made = place.top / "made"
    run_git("clone", "-q", "--bare", str(made), str(repository / "sub.git"), cwd=made)
    run_git("submodule", "add", "-q", str(repository / "sub.git"), "sub", cwd=made)
    run_git("config", "-f", ".gitmodules", "submodule.sub.url", url, cwd=made)
    run_git("commit", "-qam", "sub", cwd=made)
    run_git("push", "-q", str(repository / "app.git"), "main", cwd=made)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://169.254.169.254/latest", "not allowed"),
        ("http://[::ffff:169.254.169.254]/latest", "not allowed"),
        ("http://metadata.google.internal/computeMetadata", "not allowed"),
        ("ext::sh -c touch% /tmp/x", "plain address"),
        ("ssh://example.com/x", "scheme"),
        ("file:///etc", "WORKSPACE_SOURCES"),
        ("http://user:hunter2@127.0.0.1/x", "credentials"),
    ],
)
async def test_a_submodule_goes_where_its_repository_could(
    place: Place, server: GitServer, repository: Path, url: str, says: str
) -> None:
    """What is refused as a repository's address is refused as a submodule's, before git connects."""
    _with_submodule(place, repository, url)
    message = await place.refused(_git(server, submodules=True), token=TOKEN)
    assert says in message
    assert "hunter2" not in message


async def test_submodules_within_submodules(place: Place, server: GitServer, repository: Path) -> None:
    """Fetched too, each checked: one that leads to a metadata service is refused at any depth."""
    _with_submodule(place, repository, "../sub.git")
    run_git("clone", "-q", str(repository / "sub.git"), "inner", cwd=place.top)
    inner = place.top / "inner"
    run_git("submodule", "add", "-q", str(repository / "sub.git"), "deep", cwd=inner)
    run_git("config", "-f", ".gitmodules", "submodule.deep.url", "../sub.git", cwd=inner)
    run_git("commit", "-qam", "deep", cwd=inner)
    run_git("push", "-q", "origin", "HEAD:main", cwd=inner)
    made = place.top / "made"
    run_git("pull", "-q", "origin", "main", cwd=made / "sub")
    run_git("commit", "-qam", "deeper", cwd=made)
    run_git("push", "-q", str(repository / "app.git"), "main", cwd=made)
    workspace = await place.prepare(_git(server, submodules=True), token=TOKEN)
    assert (workspace.directory / "sub" / "deep" / "a.txt").read_text() == "two\n"
    await forget(workspace)
    run_git("config", "-f", ".gitmodules", "submodule.deep.url", "http://169.254.169.254/x", cwd=inner)
    run_git("commit", "-qam", "evil", cwd=inner)
    run_git("push", "-q", "origin", "HEAD:main", cwd=inner)
    run_git("pull", "-q", "origin", "main", cwd=made / "sub")
    run_git("commit", "-qam", "deeper", cwd=made)
    run_git("push", "-q", str(repository / "app.git"), "main", cwd=made)
    assert "not allowed" in await place.refused(_git(server, submodules=True), token=TOKEN)


async def test_git_asks_no_resolver_again(place: Place, server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked: only we are told where this name leads, and only once."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    monkeypatch.setattr("ocf.functions.workspace.clone.resolve", resolve)
    with git_server(place.top / "served") as open_server:
        url = open_server.url.replace("127.0.0.1", "git.invalid")
        workspace = await place.prepare(GitWorkspace(source="git", url=f"{url}/app.git"))
    assert (workspace.directory / "a.txt").read_text() == "two\n"
    assert asked == ["git.invalid"]


@pytest.mark.parametrize("host", ['x"]helper=!id', "a_b\\c", "bücher.example", "-x", "a'b"])
async def test_a_host_is_no_configuration(place: Place, host: str) -> None:
    """A host's name goes into git's configuration: anything but letters, digits, dots and hyphens is none."""
    message = await place.refused(GitWorkspace(source="git", url=f"https://{host}/x.git"), token=TOKEN)
    assert "names no host" in message or "no valid host" in message


async def test_directory(place: Place) -> None:
    """A copy that shares nothing with its source: bytes, modes, links, empty directories and `.git` alike."""
    awkward(place.top / "source", files=100, binary_bytes=200_000)
    run_git("init", "-q", ".", cwd=place.top / "source")
    source = DirectoryWorkspace(source="directory", path=str(place.top / "source"))
    workspace = await place.prepare(source, Sources(roots=(place.top / "source",)))
    assert listing(workspace.directory) == listing(place.top / "source")
    (workspace.directory / "crlf.txt").write_text("changed")
    assert (place.top / "source" / "crlf.txt").read_bytes() == b"one\r\ntwo\r\nthree"


async def test_directories_that_are_refused(place: Place) -> None:
    """Outside the roots (also by way of a link or `..`), absent, a file, with links out, too large."""
    roots = Sources(roots=(place.top / "allowed",), limits=Limits(max_bytes=1000, max_entries=50))
    allowed, other = place.top / "allowed", place.top / "allowed-not"
    for directory in (allowed / "ok", other):
        directory.mkdir(parents=True)
    (allowed / "link").symlink_to(other)
    (allowed / "file").touch()

    async def refused(path: str | Path) -> str:
        return await place.refused(DirectoryWorkspace(source="directory", path=str(path)), roots)

    for outside in ("/etc", other, allowed / "link", f"{allowed}/../allowed-not"):
        assert "not below an allowed root" in await refused(outside)
    assert "does not exist" in await refused(allowed / "absent")
    assert "not a directory" in await refused(allowed / "file")
    for target in ("/etc/passwd", "../../x", "up/../../x"):
        with_link = allowed / f"links{len(target)}"
        with_link.mkdir()
        (with_link / "up").symlink_to(".")
        (with_link / "l").symlink_to(target)
        assert "leads out" in await refused(with_link)
    (allowed / "ok" / "big").write_bytes(bytes(1001))
    assert "1000 bytes" in await refused(allowed / "ok")
    (allowed / "ok" / "big").unlink()
    for number in range(60):
        (allowed / "ok" / str(number)).touch()
    assert "50 entries" in await refused(allowed / "ok")


@pytest.fixture
def stack_dir(place: Place) -> Path:
    """`home/ocf`: data of a stack with records and another execution's folder, below a directory of the user's."""
    data = place.top / "home" / "ocf"
    for folder in ("nats", "state/other", "workspaces/team", "s3"):
        (data / folder).mkdir(parents=True)
        (data / folder / "records").write_text("everybody's")
    (place.top / "home" / "mine.txt").write_text("mine")
    return data


def _roots(place: Place, data: Path) -> Sources:
    return Sources(roots=(place.top, data / "workspaces"), private=(data, data / "state"), shared=data / "workspaces")


@pytest.mark.parametrize("path", ["", "nats", "state", "state/other", "s3", "../ocf/nats", "workspaces/../nats"])
@pytest.mark.parametrize("way", ["itself", "link", "file"])
async def test_no_source_is_data_of_the_system(place: Place, stack_dir: Path, path: str, way: str) -> None:
    """The data directory and what is below it is refused by identity: by name, over a link, as a repository."""
    named = stack_dir / path if path else stack_dir
    if way == "link":
        (place.top / "link").symlink_to(named)
        named = place.top / "link"
    source: Workspace = DirectoryWorkspace(source="directory", path=f"{named}")
    if way == "file":
        source = GitWorkspace(source="git", url=f"file://{named}")
    assert "belongs to this system" in await place.refused(source, _roots(place, stack_dir))


async def test_copied_directory_leaves_out_the_data_of_the_system(stack_dir: Path) -> None:
    """A directory above the stack's data, and above the workspace itself, which so is never copied into itself."""
    place = Place(stack_dir / "state" / "mine")
    source = DirectoryWorkspace(source="directory", path=str(stack_dir.parent))
    sources = Sources(roots=(stack_dir.parent,), private=(stack_dir, stack_dir / "state"))
    workspace = await place.prepare(source, sources)
    assert [path.name for path in workspace.directory.iterdir()] == ["mine.txt"]


async def test_the_shared_volume_may_lie_among_the_data(place: Place, stack_dir: Path) -> None:
    """Where the operator lists it as a root: everybody may use it in place anyway."""
    source = DirectoryWorkspace(source="directory", path=str(stack_dir / "workspaces" / "team"))
    workspace = await place.prepare(source, _roots(place, stack_dir))
    assert (workspace.directory / "records").read_text() == "everybody's"


async def test_a_directory_that_is_swapped_after_it_was_checked(place: Place, stack_dir: Path) -> None:
    """The open directory is looked at, not its path: who can rename it meanwhile gains nothing."""
    sources = _roots(place, stack_dir)
    good = place.top / "good" / "nats"
    good.mkdir(parents=True)
    found = sources.directories.find(str(good))
    good.parent.rename(place.top / "away")
    (place.top / "good").symlink_to(stack_dir)
    (place.top / "target").mkdir()
    with pytest.raises(InvalidWorkspace, match="belongs to this system"):
        copy_tree(found, place.top / "target", Limits(), sources.directories, threading.Event())
    assert list((place.top / "target").iterdir()) == []


async def test_snapshot(place: Place) -> None:
    """What an execution left is what the next starts from; one that left nothing is said so."""
    store = MemoryStore()
    sources = Sources(objects=store)
    first = await place.prepare(EmptyWorkspace(), sources)
    awkward(first.directory, files=30, binary_bytes=100_000)
    await pack(first, place.top / "a.tar.zst")
    await store.put_file(f"default/{EXECUTION}/workspace.tar.zst", place.top / "a.tar.zst")
    before = listing(first.directory)
    await forget(first)
    workspace = await place.prepare(SnapshotWorkspace(source="snapshot", execution_id=EXECUTION), sources)
    assert listing(workspace.directory) == before
    assert (await summarise(workspace)).files == 0
    await forget(workspace)
    other = EXECUTION.replace("0", "1")
    assert "left no workspace" in await place.refused(SnapshotWorkspace(source="snapshot", execution_id=other), sources)
    store.objects[f"default/{EXECUTION}/workspace.tar.zst"] = b"damaged"
    await place.refused(SnapshotWorkspace(source="snapshot", execution_id=EXECUTION), sources)
    workspace = await restore(place.top / "a.tar.zst", place.workspace, place.private, Limits())
    assert listing(workspace.directory) == before


async def test_shared(place: Place) -> None:
    """A path of the shared volume is used in place, made if missing, and stays when the execution is forgotten."""
    shared = place.top / "shared"
    shared.mkdir()
    workspace = await place.prepare(SharedWorkspace(source="shared", path="team/app"), Sources(shared=shared))
    assert workspace.directory == shared / "team" / "app"
    (workspace.directory / "seen").write_text("by all")
    assert (await summarise(workspace)).files == 1
    await forget(workspace)
    assert (shared / "team" / "app" / "seen").exists()
    place.clean()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "link", "link/x", "file", "a//b", "."])
async def test_shared_paths_that_are_refused(place: Place, path: str) -> None:
    """Climbing, links (also ones that stay inside) and files are no shared directories."""
    shared = place.top / "shared"
    (shared / "real").mkdir(parents=True)
    (shared / "link").symlink_to(shared / "real")
    (shared / "file").touch()
    await place.refused(SharedWorkspace(source="shared", path=path), Sources(shared=shared))
    assert sorted(entry.name for entry in shared.iterdir()) == ["file", "link", "real"]


@pytest.mark.parametrize("kind", ["empty", "git", "directory"])
async def test_into_a_warm_slot(place: Place, repository: Path, kind: str) -> None:
    """A directory with nothing but a fresh `git init`, where an agent already waits, is filled in place."""
    place.workspace.mkdir(parents=True)
    run_git("init", "-q", ".", cwd=place.workspace)
    inode = place.workspace.stat().st_ino
    sources: dict[str, Workspace] = {
        "empty": EmptyWorkspace(),
        "git": GitWorkspace(source="git", url=f"file://{repository}/app.git"),
        "directory": DirectoryWorkspace(source="directory", path=str(place.top / "made")),
    }
    workspace = await place.prepare(sources[kind], Sources(roots=(place.top,)))
    assert workspace.directory.stat().st_ino == inode
    assert run_git("status", "--porcelain", cwd=workspace.directory) == ""
    assert (workspace.directory / "a.txt").exists() is (kind != "empty")


async def test_existing_files_are_not_touched(place: Place) -> None:
    """A target with something in it is an error of the caller; what is in it stays."""
    place.workspace.mkdir(parents=True)
    (place.workspace / "precious").touch()
    with pytest.raises(ValueError, match="not an empty directory"):
        await place.prepare(EmptyWorkspace())
    assert (place.workspace / "precious").exists()
    assert not place.private.exists()
    with pytest.raises(ValueError, match="apart"):
        await prepare(EmptyWorkspace(), place.top / "w2", Sources(), private=place.top / "w2" / "private")


async def test_cancelled(place: Place, server: GitServer) -> None:
    """Cancelling a clone ends git and leaves nothing."""
    cloning = asyncio.create_task(place.prepare(_git(server), token=TOKEN))
    while not (place.workspace / ".git").exists():
        await asyncio.sleep(0.001)
    cloning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cloning
    place.clean()


async def test_snapshot_from_s3(place: Place, s3_server: S3Config) -> None:
    """Packed, stored in a real S3 server, taken from there as a source: the same tree."""
    store = S3Store(s3_server)
    first = await place.prepare(EmptyWorkspace(), Sources())
    awkward(first.directory, files=200, binary_bytes=20_000_000)
    packed = await pack(first, place.top / "a.tar.zst")
    info = await store.put_file(f"snapshots/{EXECUTION}/workspace.tar.zst", place.top / "a.tar.zst")
    assert info.size == packed.size
    before = listing(first.directory)
    await forget(first)
    sources = Sources(objects=store, project="snapshots")
    workspace = await place.prepare(SnapshotWorkspace(source="snapshot", execution_id=EXECUTION), sources)
    assert listing(workspace.directory) == before
    store.close()
