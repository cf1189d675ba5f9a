"""Packages from npm that tests need, installed once below `.tools` as their lock has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.offline import ROOT, node


def modules(name: str) -> Path:
    """The `node_modules` of `tests/support/NAME_npm`."""
    source, folder = ROOT / f"tests/support/{name}_npm", ROOT / ".tools" / name
    found = folder / "node_modules"
    lock = (source / "package-lock.json").read_bytes()
    if not found.is_dir() or (folder / "package-lock.json").read_bytes() != lock:
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(source / file, folder / file)
        npm = shutil.which("npm") or shutil.which("npm", path=str(node().parent))
        assert npm is not None, "make install brings npm"
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return found
