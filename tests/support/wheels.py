"""The distributions of the project, built from a copy of the checkout, and a machine that has nothing but them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("clients/python", "console/dist", "demo/model", "events", "functions", "ocf", "requirements", "schemas")
#: Variables by which a machine reaches its registries.
_OF_THE_MACHINE = ("pip_", "npm_config_", "node_extra_ca_certs", "ssl_cert_", "http_proxy", "https_proxy", "no_proxy")
_FILES = ("LICENSE", "README.md", "pyproject.toml")


def build(folder: Path, part: str = ".") -> Path:
    """Build the distribution whose pyproject.toml is in `part`; return the wheel, alone in `folder/dist`."""
    source = folder / "source"
    if not source.exists():
        for name in _FOLDERS:
            ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        for name in _FILES:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "dist"]
    subprocess.run([*pip, source / part], check=True, timeout=200)
    return max((folder / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)


def run(folder: Path, script: str, *, timeout: float, **environ: str) -> str:
    """Run a shell script in `folder` with an empty HOME there, only the machine's programs, wheels in `folder/dist`."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name.lower().startswith(_OF_THE_MACHINE)}
    links = f"{folder / 'dist'} {kept.get('PIP_FIND_LINKS', '')}"
    given = {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "PIP_FIND_LINKS": links, **environ}
    argv = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(argv, env=given, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
