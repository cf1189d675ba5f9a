"""Python programs that tests talk to, each in an environment of its own, apart from the product's packages.

`tests/support/tools/NAME.lock` pins what is installed into `.tools/NAME`; it is made with
`uv pip compile --universal --generate-hashes NAME.in`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.offline import ROOT, TOOLS

_LOCKS = ROOT / "tests/support/tools"


def python_tool(name: str) -> Path:
    """Return the folder of executables of the tool, installed once."""
    folder, lock = TOOLS / name, _LOCKS / f"{name}.lock"
    installed = folder / "installed.lock"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=False, symlinks=True)
        # pip of this environment: no second one is needed.
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--no-deps", "--require-hashes", "-r", str(lock)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shutil.copy(lock, installed)
    return folder / "bin"
