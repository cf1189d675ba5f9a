"""Write software bills of materials (CycloneDX 1.6, JSON) of the wheel and the image: `make sbom`.

    sbom.py [--out DIR] [--root DIR]

Python packages come from the locks, and so do those of npm (the agent, the console's bundle); Debian's come
from the database of dpkg below `--root`, the unpacked image. Each document is held to the published schema.

Source: https://cyclonedx.org/specification/overview/
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parent.parent
#: What each document is made of: a lock of Python packages; folders of npm.
NPM = ("functions/execute/npm", "console")
DOCUMENTS = {"wheel": "requirements/local.lock", "image": "requirements/runtime.lock"}


def python_packages(lock: str) -> Iterator[Component]:
    """Yield the packages of a lock."""
    command = (sys.executable, "-m", "cyclonedx_py", "requirements", "--output-format", "JSON", lock)
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    yield from Bom.from_json(json.loads(done.stdout)).components


def npm_packages(folder: str) -> Iterator[Component]:
    """Yield the packages of a folder's lock that are needed when it runs.

    `npm sbom --omit dev` is no help: it leaves React out, since a tool of the tests asks for it too.

    Source: https://docs.npmjs.com/cli/configuring-npm/package-lock-json
    """
    lock = json.loads((ROOT / folder / "package-lock.json").read_text("utf-8"))
    for path, package in lock["packages"].items():
        if path and not package.get("dev"):
            scope, _, name = path.rpartition("node_modules/")[2].rpartition("/")
            url = PackageURL("npm", scope or None, name, package["version"])
            yield Component(name=name, group=scope or None, version=package["version"], purl=url, bom_ref=str(url))


def debian_packages(root: Path) -> Iterator[Component]:
    """Yield what dpkg has installed below `root`."""
    for entry in (root / "var/lib/dpkg/status").read_text("utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            url = PackageURL("deb", "debian", name, version, {"arch": fields["Architecture"]})
            yield Component(name=name, version=version, purl=url, bom_ref=str(url))


def document(kind: str, lock: str, root: Path | None) -> str:
    """Return one document.

    Raises:
        SystemExit: It does not follow the schema.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    bom = Bom()
    bom.metadata.component = Component(
        name=f"opencode-functions-{kind}", version=version, type=ComponentType.APPLICATION, bom_ref="subject"
    )
    found = [*python_packages(lock), *(one for folder in NPM for one in npm_packages(folder))]
    if root and kind == "image":
        found += debian_packages(root)
    # The same package of two folders is one component.
    bom.components = {str(one.purl): one for one in found}.values()
    bom.register_dependency(bom.metadata.component, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"sbom.py: {kind}: {wrong}")
    return text


def main() -> int:
    """Write one document of each kind into the folder that `--out` names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "sbom")
    parser.add_argument("--root", type=Path, help="unpacked root file system of the image")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for kind, lock in DOCUMENTS.items():
        path = arguments.out / f"{kind}.cdx.json"
        path.write_text(document(kind, lock, arguments.root), "utf-8")
        print(f"{path}: {len(json.loads(path.read_text())['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
