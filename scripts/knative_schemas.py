"""Writes knative/schemas.json: the schemas of a running cluster for every kind that the overlays use.

    tests/cluster/cluster.sh in .venv/bin/python scripts/knative_schemas.py

It is what `make check` holds the overlays against, where there is no cluster (scripts/knative_check.py). The API server
gives them, Knative's from its CRDs: run it again with another version of either.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.knative_check import OVERLAYS, SCHEMAS, build  # noqa: E402

Schema = dict[str, Any]
_REF = "#/components/schemas/"
_PROSE = frozenset({"description", "default", "format", "example", "externalDocs"})
#: Not in the overlays, but in the docs.
_FURTHER = {
    ("eventing.knative.dev/v1", "Trigger"),
    ("sources.knative.dev/v1", "ApiServerSource"),
    ("sources.knative.dev/v1", "PingSource"),
}


def raw(path: str) -> dict[str, Any]:
    """What the API server answers."""
    said = subprocess.run(["kubectl", "get", "--raw", path], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def strict(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A schema without prose, that takes no field it does not name (`kubectl` calls it strict)."""
    if isinstance(value, list):
        return [strict(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {
        # The names in `properties` are the objects' own, whatever they are called.
        key: {name: strict(of) for name, of in one.items()} if key == "properties" else strict(one)
        for key, one in value.items()
        if key not in _PROSE and not key.startswith("x-")
    }
    if isinstance(found.get("$ref"), str):
        return {"$ref": found["$ref"].replace(_REF, "#/$defs/")}
    open_ = value.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    if isinstance(found.get("properties"), dict) and not open_:
        found["additionalProperties"] = False
    return found


def closure(name: str, schemas: dict[str, Schema], into: dict[str, Schema]) -> None:
    """That schema and all it refers to."""
    if name in into:
        return
    into[name] = strict(schemas[name])
    for part in json.dumps(schemas[name]).split(f'"{_REF}')[1:]:
        closure(part.split('"', 1)[0], schemas, into)


def main() -> int:
    """Write the file."""
    kinds = {(one["apiVersion"], one["kind"]) for overlay in OVERLAYS for one in build(overlay)} | _FURTHER
    found: dict[str, str] = {}
    schemas: dict[str, Schema] = {}
    for version in sorted({version for version, _ in kinds}):
        document = raw(f"/openapi/v3/{'apis' if '/' in version else 'api'}/{version}")["components"]["schemas"]
        for name, schema in document.items():
            for gvk in schema.get("x-kubernetes-group-version-kind", []):
                said = f"{gvk['group']}/{gvk['version']}".lstrip("/")
                if (said, gvk["kind"]) in kinds and said == version:
                    found[f"{version} {gvk['kind']}"] = name
                    closure(name, document, schemas)
    if missing := {f"{version} {kind}" for version, kind in kinds} - found.keys():
        sys.stderr.write(f"the cluster has no {', '.join(sorted(missing))}\n")
        return 1
    told = {"kubernetes": raw("/version")["gitVersion"], "kinds": dict(sorted(found.items()))}
    lines = [f"{json.dumps(name)}: {json.dumps(schema, sort_keys=True)}" for name, schema in sorted(schemas.items())]
    head = json.dumps(told, indent=1)[:-2]
    SCHEMAS.write_text(f'{head},\n "$defs": {{\n' + ",\n".join(lines) + "\n}}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
