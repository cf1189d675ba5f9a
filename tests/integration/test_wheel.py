"""The wheels of server and client: their import name, and that they work without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.wheels import build

ROOT = Path(__file__).resolve().parents[2]
_USE = "import ocf, ocf.functions.runtime.serve, ocf.cli.main"
_USE += "; print(ocf.connect.__module__, ocf.__file__)"


@pytest.mark.slow
def test_the_wheels_hold_one_import_name_and_work(tmp_path: Path) -> None:
    """They share no file and install `ocf` only, beside packages called `events`, with the data files of the models."""
    names: list[str] = []
    for part in ("clients/python", "."):
        with zipfile.ZipFile(build(tmp_path, part)) as archive:
            assert not set(names) & set(archive.namelist()), "a file is in two distributions"
            names += archive.namelist()
            archive.extractall(tmp_path / "installed")
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ocf"}
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "functions").rglob("*.json") if "npm" not in path.parts}
    assert {f"ocf/{name}" for name in data} <= set(names)
    carried = ("console/index.html", "model/90-anything-else.json", "schemas/openapi.json", "python.lock")
    assert {f"ocf/stack/data/{name}" for name in carried} | {"ocf/functions/execute/npm/package-lock.json"} <= set(
        names
    )
    environ = {"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""}
    used = subprocess.run([sys.executable, "-c", _USE], env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    module, file = used.stdout.split()
    assert module == "ocf.events.client.nats_client"
    assert Path(file).is_relative_to(tmp_path / "installed")
