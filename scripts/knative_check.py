"""Holds every overlay, as kustomize builds it, against the schemas of Kubernetes and Knative. Needs no cluster.

    knative_check.py            kubectl: on PATH, or .tools/kube (scripts/kube_tools.sh)

The schemas are strict: a field that is not in them (a typing error, a wrong indent) is an error, as is a wrong type.
They are those of one version of each (knative/schemas.json says which). `knative/cluster` holds merge patches of
objects that Knative's own manifests make: nothing is missing there. Of `knative/monitoring` the operator's kinds have
no schema; it has to build.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "knative/schemas.json"
#: KEDA's, from its Go module (scripts/keda_schemas.py).
KEDA_SCHEMAS = ROOT / "knative/keda/schemas.json"
OVERLAYS = tuple(sorted(path.parent.name for path in (ROOT / "knative/overlays").glob("*/kustomization.yaml")))
PARTS, MONITORING, KEDA = ROOT / "knative/cluster", "../monitoring", "../keda"
#: The Prometheus operator's: no cluster of the tests has it.
_UNKNOWN = "monitoring.coreos.com/"
Manifest = dict[str, Any]
_USED = re.compile(r"(?<!\$)\$\((\w+)\)")


def kubectl() -> str | None:
    """Where kubectl is."""
    ours = ROOT / ".tools/kube/kubectl"
    return str(ours) if ours.is_file() else shutil.which("kubectl")


def build(overlay: str) -> list[Manifest]:
    """The objects of an overlay, or of another folder below `knative/` (`../monitoring`).

    Raises:
        RuntimeError: kustomize refuses it, with its reason.
    """
    command = [kubectl() or "kubectl", "kustomize", str(ROOT / "knative/overlays" / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if built.returncode:
        raise RuntimeError(built.stderr.strip())
    return [one for one in yaml.safe_load_all(built.stdout) if one]


def parts() -> list[Manifest]:
    """The merge patches of `knative/cluster`."""
    return [yaml.safe_load(path.read_text()) for path in sorted(PARTS.glob("*.yaml"))]


def known_schemas() -> dict[str, Any]:
    """The schemas of all kinds."""
    cluster, keda = (json.loads(path.read_text()) for path in (SCHEMAS, KEDA_SCHEMAS))
    return {part: {**cluster[part], **keda[part]} for part in ("kinds", "$defs")}


def mistakes(manifest: Manifest, known: dict[str, Any], *, part: bool = False) -> Iterator[str]:
    """What is wrong with an object, or with the `part` of one, a line each."""
    kind = f"{manifest['apiVersion']} {manifest['kind']}"
    if kind not in known["kinds"]:
        yield f"no schema of {kind}; see scripts/knative_schemas.py"
        return
    schema = {"$ref": f"#/$defs/{known['kinds'][kind]}", "$defs": known["$defs"]}
    for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
        if part and error.validator == "required":
            continue
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
    yield from too_early(manifest)


def too_early(value: object) -> Iterator[str]:
    """The variables of containers that are used, as `$(NAME)`, before the list defines them: they stay as they are."""
    if isinstance(value, list):
        for one in value:
            yield from too_early(one)
    if not isinstance(value, dict):
        return
    defined: set[str] = set()
    variables = value.get("env")
    for variable in variables if isinstance(variables, list) else ():
        for name in _USED.findall(str(variable.get("value", ""))):
            if name not in defined:
                yield f"env: {variable['name']} uses $({name}), which the list defines later or not at all"
        defined.add(variable["name"])
    for part in value.values():
        yield from too_early(part)


def main() -> int:
    """Check all of them; exit status."""
    if kubectl() is None:
        sys.stderr.write("\n*** knative_check: NOTHING WAS CHECKED: there is no kubectl (PATH, .tools/kube) ***\n\n")
        return 0
    known = known_schemas()
    found = 0
    for folder in (*OVERLAYS, MONITORING, KEDA, PARTS.name):
        part = folder == PARTS.name
        for manifest in parts() if part else build(folder):
            if manifest["apiVersion"].startswith(_UNKNOWN):
                continue
            for said in mistakes(manifest, known, part=part):
                found += 1
                sys.stderr.write(f"{folder}: {manifest['kind']} {manifest['metadata']['name']}: {said}\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
