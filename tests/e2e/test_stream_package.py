"""The stream library as a package, in a project that is not ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ocf.stack.tools import node
from tests.support.console import CONSOLE, ROOT, build

#: Strictly typed, by what the package says of its types.
PROGRAM = """
import { type StreamState, watchExecution } from "opencode-stream";
const watching = watchExecution("http://127.0.0.1:9", "an-id", { onChunks: (chunks) => chunks.map((one) => one.seq) });
const state: StreamState = watching.status.state;
watching.close();
void watching.done.then(() => console.log(state));
"""


@pytest.mark.timeout(180)
def test_it_is_installed_in_one_command_and_has_types(tmp_path: Path) -> None:
    """`npm install` of the built folder, with no registry: it is imported by its name, runs, and is typed."""
    build()
    (tmp_path / "package.json").write_text(json.dumps({"name": "elsewhere", "private": True, "type": "module"}))
    command = [ROOT / "scripts/npm.sh", "install", "--offline", "--loglevel=error", CONSOLE / "dist/stream"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "program.ts").write_text(PROGRAM)
    tsc = CONSOLE / "node_modules/typescript/bin/tsc"
    options = ["--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022", "--strict", "--types", ""]
    compiled = subprocess.run(
        [node(), tsc, "program.ts", *options], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stdout
    ran = subprocess.run([node(), "program.js"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert ran.stdout == "catching-up\n"


def needed(*names: str) -> set[str]:
    """Packages and all that they need, by npm's lock."""
    packages = json.loads((CONSOLE / "package-lock.json").read_text())["packages"]
    found: set[str] = set()
    while names:
        found |= set(names)
        below = (packages[f"node_modules/{name}"].get("dependencies", {}) for name in names)
        names = tuple({one for each in below for one in each} - found)
    return found


def test_each_bundle_has_the_licences_of_what_is_in_it() -> None:
    """Every package of the stream library and of the client for Node, and what the console imports itself, with the
    text of its licence."""
    build()
    console = set(json.loads((CONSOLE / "package.json").read_text())["dependencies"])
    client = needed("@nats-io/nats-core")
    bundles = {
        CONSOLE / "dist": console | client,
        CONSOLE / "dist/stream": client,
        ROOT / "clients/typescript/dist": client,
        ROOT / "clients/typescript/dist/node": client | {"ws"},
    }
    for folder, packages in bundles.items():
        said = (folder / "THIRD-PARTY-LICENSES.md").read_text()
        for package in packages:
            [licence] = (CONSOLE / "node_modules" / package).glob("LICEN[SC]E*")
            assert f"## {package} - " in said, (folder, package)
            assert licence.read_text().strip()[:400] in said, (folder, package)
