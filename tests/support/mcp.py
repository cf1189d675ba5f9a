"""Real MCP servers for tests: one from npm, installed once; the one from PyPI is among the development packages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.offline import ROOT, node

_FOLDER = ROOT / ".tools/mcp"
_SOURCE = ROOT / "tests/support/mcp_npm"


def everything_server() -> Path:
    """The `node_modules` of `@modelcontextprotocol/server-everything`, as its lock has it."""
    modules = _FOLDER / "node_modules"
    lock = (_SOURCE / "package-lock.json").read_bytes()
    if not modules.is_dir() or (_FOLDER / "package-lock.json").read_bytes() != lock:
        _FOLDER.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_SOURCE / name, _FOLDER / name)
        npm = shutil.which("npm") or shutil.which("npm", path=str(node().parent))
        assert npm is not None, "make install brings npm"
        subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=_FOLDER,
            check=True,
            capture_output=True,
        )
    return modules
