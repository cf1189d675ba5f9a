"""`workspace.tar.zst`: round trips are exact, hostile archives are refused and leave nothing."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocf.events.command_payloads import DirectoryWorkspace, EmptyWorkspace
from ocf.functions.workspace import (
    InvalidWorkspace,
    Limits,
    Prepared,
    Sources,
    WorkspaceTooLarge,
    archive,
    baseline,
    pack,
    prepare,
    summarise,
    unpack,
)
from ocf.functions.workspace.safe_tree import remove_tree
from ocf.functions.workspace.safe_walk import Entry, open_file
from tests.support.git_http import run_git
from tests.support.trees import awkward, listing


async def _workspace(top: Path, limits: Limits | None = None) -> Prepared:
    sources = Sources(limits=limits or Limits())
    return await prepare(EmptyWorkspace(), top / "workspace", sources, private=top / "private")


async def test_awkward_round_trip(tmp_path: Path) -> None:
    """2,000 files, 50 MB of noise, every awkward name, link, mode and empty directory come back byte for byte."""
    awkward(tmp_path / "source")
    wanted = DirectoryWorkspace(source="directory", path=str(tmp_path / "source"))
    workspace = await prepare(wanted, tmp_path / "workspace", Sources(roots=(tmp_path,)), private=tmp_path / "private")
    assert listing(workspace.directory) == listing(tmp_path / "source")
    packed = await pack(workspace, tmp_path / "a.tar.zst")
    assert packed.skipped == []
    unpacked = await unpack(tmp_path / "a.tar.zst", tmp_path / "back")
    assert unpacked.files == packed.files
    assert listing(tmp_path / "back") == listing(tmp_path / "source")
    await pack(workspace, tmp_path / "again.tar.zst")
    assert (tmp_path / "again.tar.zst").read_bytes() == (tmp_path / "a.tar.zst").read_bytes()


async def test_any_tar_reads_it(tmp_path: Path) -> None:
    """Below zstd it is plain GNU tar: Python's tarfile, with its own safety filter, gets the same tree."""
    workspace = await _workspace(tmp_path)
    awkward(workspace.directory, files=20, binary_bytes=10_000)
    await pack(workspace, tmp_path / "a.tar.zst")
    plain = io.BytesIO()
    zstandard.ZstdDecompressor().copy_stream(io.BytesIO((tmp_path / "a.tar.zst").read_bytes()), plain)
    plain.seek(0)
    with tarfile.open(fileobj=plain) as archive:
        # Python before 3.11.4 has no filters, and needs none here.
        archive.extractall(tmp_path / "back", **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
    assert {path: what for path, (_, _, what) in listing(tmp_path / "back").items()} == {
        path: what for path, (_, _, what) in listing(workspace.directory).items()
    }


async def test_ignored_files(tmp_path: Path) -> None:
    """What `.gitignore` excludes stays out, unless asked for or in the base; `.git` is always in, with its history."""
    workspace = await _workspace(tmp_path)
    root = workspace.directory
    (root / ".gitignore").write_text("node_modules/\n*.log\n")
    (root / "node_modules" / "x").mkdir(parents=True)
    (root / "node_modules" / "x" / "index.js").write_text("x")
    (root / "a.log").write_text("x")
    (root / "code").write_text("x")
    run_git("add", "-A", cwd=root)
    run_git("commit", "-qm", "one", cwd=root)
    await pack(workspace, tmp_path / "a.tar.zst")
    await unpack(tmp_path / "a.tar.zst", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [".git", ".gitignore", "code"]
    assert run_git("log", "--format=%s", cwd=tmp_path / "back") == "one\n"
    assert run_git("status", "--porcelain", cwd=tmp_path / "back") == ""
    await pack(workspace, tmp_path / "whole.tar.zst", include_ignored=True)
    await unpack(tmp_path / "whole.tar.zst", tmp_path / "whole")
    assert listing(tmp_path / "whole") == listing(root)


async def test_files_that_cannot_be_archived_are_left_out_and_named(tmp_path: Path) -> None:
    """Links out of the tree (direct, absolute, by way of another link) and fifos are left out by name."""
    workspace = await _workspace(tmp_path)
    root = workspace.directory
    (tmp_path / "secret").write_text("secret")
    (root / "sub").mkdir()
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "climbing").symlink_to("../secret")
    (root / "sub" / "back").symlink_to("..")
    (root / "roundabout").symlink_to("sub/back/../secret")
    os.mkfifo(root / "fifo")
    (root / "kept").symlink_to("sub")
    packed = await pack(workspace, tmp_path / "a.tar.zst")
    assert {path for path, _ in packed.skipped} == {"absolute", "climbing", "roundabout", "fifo"}
    await unpack(tmp_path / "a.tar.zst", tmp_path / "back")
    assert (tmp_path / "back" / "kept").is_symlink()
    assert b"secret" not in (tmp_path / "a.tar.zst").read_bytes()


async def test_a_file_that_grows_is_packed_as_it_was_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared folder a neighbour makes a file terabytes long between the look at it and its opening: no limit has
    seen them, and nobody reads them."""
    workspace = await _workspace(tmp_path)
    (workspace.directory / "file").write_text("short")
    (workspace.directory / "last").write_text("last")

    def grown(entry: Entry) -> int:
        fd = open_file(entry)
        if entry.name == "file":
            os.truncate(workspace.directory / "file", 8 * 1024**4)
        return fd

    for module in (archive, baseline):
        monkeypatch.setattr(module, "open_file", grown)
    await pack(workspace, tmp_path / "a.tar.zst")
    await unpack(tmp_path / "a.tar.zst", tmp_path / "back")
    assert ((tmp_path / "back" / "file").read_text(), (tmp_path / "back" / "last").read_text()) == ("short", "last")
    (workspace.directory / "file").write_text("other")
    assert (await summarise(workspace)).changed[0].additions == 1


async def test_packing_follows_no_swap(tmp_path: Path) -> None:
    """While an agent swaps a directory for a link and back, a file outside never gets into the archive."""
    workspace = await _workspace(tmp_path)
    first_escaping_link = tmp_path / "outside"
    first_escaping_link.mkdir()
    (first_escaping_link / "file").write_text("OUTSIDE")
    place, aside = workspace.directory / "place", workspace.directory / "aside"
    place.mkdir()
    (place / "file").write_text("inside")
    going = True

    def swap() -> int:
        swaps = 0
        while going:
            place.rename(aside)
            place.symlink_to(first_escaping_link)
            place.unlink()
            aside.rename(place)
            swaps += 1
        return swaps

    swapping = asyncio.create_task(asyncio.to_thread(swap))
    for number in range(40):
        archive = tmp_path / f"{number}.tar.zst"
        await pack(workspace, archive)
        assert b"OUTSIDE" not in zstandard.ZstdDecompressor().decompressobj().decompress(archive.read_bytes())
    going = False
    assert await swapping > 0


async def test_limits_of_packing(tmp_path: Path) -> None:
    """More bytes (a sparse terabyte) or entries than allowed: refused, and no archive is left."""
    workspace = await _workspace(tmp_path, Limits(max_entries=200))
    with (workspace.directory / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(WorkspaceTooLarge, match="bytes"):
        await pack(workspace, tmp_path / "a.tar.zst")
    (workspace.directory / "sparse").unlink()
    for number in range(300):
        (workspace.directory / str(number)).touch()
    with pytest.raises(WorkspaceTooLarge, match="entries"):
        await pack(workspace, tmp_path / "a.tar.zst")
    assert not (tmp_path / "a.tar.zst").exists()


def _info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, size, 0o755
    return info


def _tar(*entries: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info in entries:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return zstandard.compress(buffer.getvalue())


_LINK = tarfile.SYMTYPE
_HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "absolute path": (lambda: _tar(_info("/tmp/evil")), "plainly relative"),
    "climbing path": (lambda: _tar(_info("../evil")), "plainly relative"),
    "climbing inside": (lambda: _tar(_info("a", tarfile.DIRTYPE), _info("a/../../evil")), "plainly relative"),
    "absolute link": (lambda: _tar(_info("l", _LINK, "/etc/passwd")), "leads out"),
    "climbing link": (lambda: _tar(_info("l", _LINK, "../../x")), "leads out"),
    "link chain": (
        lambda: _tar(_info("d", tarfile.DIRTYPE), _info("d/up", _LINK, ".."), _info("l", _LINK, "d/up/../x")),
        "leads out",
    ),
    "write through a link": (lambda: _tar(_info("l", _LINK, "."), _info("l/x", size=1)), "directory does not exist"),
    "link over a directory": (lambda: _tar(_info("d", tarfile.DIRTYPE), _info("d", _LINK, ".")), "twice"),
    "hard link": (lambda: _tar(_info("a"), _info("b", tarfile.LNKTYPE, "a")), "hard link"),
    "hard link out": (lambda: _tar(_info("b", tarfile.LNKTYPE, "/etc/passwd")), "hard link"),
    "character device": (lambda: _tar(_info("d", tarfile.CHRTYPE)), "a device"),
    "block device": (lambda: _tar(_info("d", tarfile.BLKTYPE)), "a device"),
    "fifo": (lambda: _tar(_info("f", tarfile.FIFOTYPE)), "a fifo"),
    "pax header": (lambda: _tar(_info("p", tarfile.XHDTYPE)), "tar type"),
    "sparse": (lambda: _tar(_info("s", tarfile.GNUTYPE_SPARSE)), "sparse|tar type"),
    "twice": (lambda: _tar(_info("a", size=1), _info("a", size=2)), "twice"),
    "directory twice": (lambda: _tar(_info("a", tarfile.DIRTYPE), _info("a", tarfile.DIRTYPE)), "twice"),
    "no parent": (lambda: _tar(_info("a/b", size=1)), "parent directory does not exist"),
    "too many bytes": (lambda: _tar(_info("a", size=2_000_000)), "bytes"),
    "too many entries": (lambda: _tar(*(_info(str(number)) for number in range(200))), "entries"),
    "too deep": (lambda: _tar(_info("/".join("d" * 250))), "deeper"),
    "long name": (lambda: _tar(_info("n" * 5000)), "longer than"),
    "truncated": (lambda: _tar(_info("a", size=100_000))[:-20], "ends too early|zstd"),
    "not zstd": (lambda: b"hello" * 100, "zstd"),
    "not tar": (lambda: zstandard.compress(b"hello" * 1000), "tar"),
    "empty": (lambda: b"", "ends too early"),
    "huge window": (
        lambda: zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=False)
        ).compressobj().compress(b"x" * 10_000_000)
        + b"",
        "zstd|ends too early",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _HOSTILE)
async def test_hostile_archives(tmp_path: Path, name: str) -> None:
    """Each is refused with a message that says why, and leaves nothing, inside or outside."""
    make, message = _HOSTILE[name]
    archive = tmp_path / "archive"
    archive.write_bytes(make())
    with pytest.raises(InvalidWorkspace, match=message):
        await unpack(archive, tmp_path / "target", Limits(max_bytes=1_000_000, max_entries=100))
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


async def test_bomb(tmp_path: Path) -> None:
    """A gigabyte of zeros in a few kilobytes is stopped at the limit."""
    archive = tmp_path / "archive"
    with archive.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        out.write(_info("zeros", size=2**30).tobuf(tarfile.GNU_FORMAT))
        for _ in range(1024):
            out.write(bytes(2**20))
    assert archive.stat().st_size < 200_000
    with pytest.raises(WorkspaceTooLarge):
        await unpack(archive, tmp_path / "target", Limits(max_bytes=50_000_000))
    assert not (tmp_path / "target").exists()


async def test_set_id_bits_do_not_travel(tmp_path: Path) -> None:
    """No file comes out with a set-user-id, set-group-id or sticky bit."""
    info = _info("tool", size=1)
    info.mode = 0o6755
    (tmp_path / "archive").write_bytes(_tar(info))
    await unpack(tmp_path / "archive", tmp_path / "target")
    assert (tmp_path / "target" / "tool").stat().st_mode & 0o7777 == 0o755


_names = st.sampled_from(["a", "b", "..", ".", "", "l", "a/b", "a/l", "/x", "l/x", "../x", "a/../../x"])
_kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
_links = st.sampled_from(["a", "..", ".", "../..", "l/..", "a/l/../..", "/", "b/../.."])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_names, _kinds, _links), max_size=6))
def test_nothing_ever_gets_out(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    """Whatever an archive holds, afterwards nothing is outside the target, and every link in it ends inside."""
    top = tmp_path / "top"
    top.mkdir(exist_ok=True)
    archive, target = top / "archive", top / "target"
    archive.write_bytes(_tar(*(_info(name, kind, link) for name, kind, link in entries)))

    async def attempt() -> None:
        try:
            await unpack(archive, target)
        except InvalidWorkspace:
            assert not target.exists()
        assert {path.name for path in top.iterdir()} <= {"archive", "target"}
        for parent, names, files in os.walk(target):
            for name in names + files:
                reached = os.path.realpath(os.path.join(parent, name))
                assert reached == str(target.resolve()) or reached.startswith(f"{target.resolve()}/")
        await remove_tree(target)

    asyncio.run(attempt())


async def test_cancelled(tmp_path: Path) -> None:
    """Cancelling in the middle leaves neither a half archive nor a half tree."""
    workspace = await _workspace(tmp_path)
    for number in range(30):
        (workspace.directory / str(number)).write_bytes(os.urandom(2_000_000))
    packing = asyncio.create_task(pack(workspace, tmp_path / "a.tar.zst"))
    while not (tmp_path / "a.tar.zst").exists():
        await asyncio.sleep(0)
    packing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await packing
    assert not (tmp_path / "a.tar.zst").exists()
    await pack(workspace, tmp_path / "b.tar.zst")
    unpacking = asyncio.create_task(unpack(tmp_path / "b.tar.zst", tmp_path / "back"))
    while not (tmp_path / "back").exists():
        await asyncio.sleep(0)
    unpacking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unpacking
    assert not (tmp_path / "back").exists()


async def test_remove_tree_gets_everything(tmp_path: Path) -> None:
    """Locked directories, a depth beyond any recursion limit, links to elsewhere: gone, and elsewhere untouched."""
    first_escaping_link = tmp_path / "outside"
    first_escaping_link.mkdir()
    (first_escaping_link / "kept").touch()
    root = tmp_path / "root"
    (root / "locked").mkdir(parents=True)
    (root / "locked" / "file").touch()
    (root / "locked" / "link").symlink_to(first_escaping_link)
    (root / "locked").chmod(0)
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    await remove_tree(root)
    assert not root.exists()
    assert (first_escaping_link / "kept").exists()
    await remove_tree(root)
