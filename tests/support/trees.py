"""Directory trees for tests: awkward ones, and a listing that two equal trees share."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path


def listing(root: Path, *, git: bool = True, directories: bool = True) -> dict[str, tuple[str, int, str]]:
    """Every path below `root` with its kind, permissions and SHA-256 of the content (or a link's target)."""
    found: dict[str, tuple[str, int, str]] = {}
    for parent, names, files in os.walk(root):
        if not git and ".git" in names:
            names.remove(".git")
        for name in names + files:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            relative = os.path.relpath(path, root)
            if stat.S_ISLNK(mode):
                found[relative] = ("link", 0, os.readlink(path))
            elif stat.S_ISDIR(mode):
                if directories:
                    found[relative] = ("directory", stat.S_IMODE(mode), "")
            else:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[relative] = ("file", stat.S_IMODE(mode), digest)
    return found


def git_listing(root: Path) -> dict[str, tuple[str, bool, str]]:
    """As `listing`, but only what a patch carries: no directories, no `.git`, of a mode the executable bit."""
    found = listing(root, git=False, directories=False)
    return {path: (kind, bool(mode & 0o100), what) for path, (kind, mode, what) in found.items()}


def awkward(root: Path, *, files: int = 2000, binary_bytes: int = 50 * 1024**2) -> None:
    """Fill `root` with what breaks archives and patches."""
    random_bytes = random.Random(1).randbytes
    root.mkdir(parents=True, exist_ok=True)
    names = [
        "ünï cödé 漢字.txt",
        "with space",
        " leading",
        "trailing ",
        'quo"te',
        "back\\slash",
        "new\nline",
        "tab\there",
    ]
    names += ["-dash", "#hash", "!bang", "*star", "git~1", "a" * 255, "%25", "a&b;c", "Case", "case", "CASE"]
    names.append(os.fsdecode(b"not-utf8-\xff\xfe"))
    for name in names:
        (root / name).write_text(f"content of {name!r}\n")
    (root / "crlf.txt").write_bytes(b"one\r\ntwo\r\nthree")
    (root / "lone-cr").write_bytes(b"one\rtwo")
    (root / "empty").touch()
    (root / "zero.bin").write_bytes(bytes(1000))
    block = random_bytes(min(binary_bytes, 16 * 1024**2))
    with (root / "binary.bin").open("wb") as binary:
        # Repeats too far apart for a compressor's window: noise, and made quickly.
        for start in range(0, binary_bytes, len(block)):
            binary.write(block[: binary_bytes - start])
    script = root / "run.sh"
    script.write_text("#!/bin/sh\necho hi\n")
    script.chmod(0o755)
    (root / "read-only").write_text("r")
    (root / "read-only").chmod(0o444)
    (root / "empty directory" / "deeper").mkdir(parents=True)
    (root / "locked").mkdir()
    (root / "locked" / "file").write_text("x")
    (root / "locked").chmod(0o555)
    deep = root.joinpath(*(f"level{number}" for number in range(40)))
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("bottom")
    (deep / "up").symlink_to("../" * 40 + "empty")
    (root / "link").symlink_to("run.sh")
    (root / "dangling").symlink_to("nothing here")
    (root / "to-directory").symlink_to("empty directory")
    (root / ".hidden").write_text("hidden")
    for number in range(files):
        directory = root / "many" / f"d{number % 100:02}"
        if number < 100:
            directory.mkdir(parents=True)
        (directory / f"f{number}.py").write_text(f"value = {number}\n" * (number % 20))
