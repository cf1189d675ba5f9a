"""The documentation builds as a site, and wheel and image have bills of materials that follow the schema."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def made(target: str, **arguments: str) -> None:
    """Run a target of the Makefile."""
    command = ["make", "--no-print-directory", target, *(f"{name}={value}" for name, value in arguments.items())]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_has_every_page_and_a_search_and_the_materials_are_listed(tmp_path: Path) -> None:
    """A dead link or anchor fails `make docs`; `make sbom` names the agent, React and the client of S3."""
    made("docs", DOCS_ARGS=f"--out {tmp_path}/site")
    pages = {str(page.relative_to(ROOT).with_suffix("")) for page in ROOT.glob("docs/**/*.md")}
    index = json.loads((tmp_path / "site/search/search_index.json").read_text())
    found = {entry["location"].partition("#")[0].rstrip("/") for entry in index["docs"]}
    # The site has a folder's index and its read-me at the folder's own address.
    assert {page.removesuffix("/index").removesuffix("/README") for page in pages} <= found

    made("sbom", SBOM_ARGS=f"--out {tmp_path}")
    for kind in ("wheel", "image"):
        document = json.loads((tmp_path / f"{kind}.cdx.json").read_text())
        names = {component["name"] for component in document["components"]}
        assert {"opencode-linux-x64", "react", "boto3"} <= names
