"""Writes knative/keda/schemas.json: what KEDA's own release says of a ScaledObject and of the JetStream scaler.

    .venv/bin/python scripts/keda_schemas.py        go: on PATH

Both are read from KEDA's Go module: the schema of the CRD, and the names of the trigger's metadata, which the CRD
leaves open. Run it again with another `VERSION`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.knative_check import KEDA_SCHEMAS  # noqa: E402
from scripts.knative_schemas import strict  # noqa: E402

VERSION = "v2.21.0"
_KIND, _NAME = "keda.sh/v1alpha1 ScaledObject", "keda.v1alpha1.ScaledObject"


def main() -> None:
    """Write the file."""
    command = ["go", "mod", "download", "-json", f"github.com/kedacore/keda/v2@{VERSION}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    module = Path(json.loads(said)["Dir"])
    crd = yaml.safe_load((module / "config/crd/bases/keda.sh_scaledobjects.yaml").read_text())
    [schema] = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == "v1alpha1"]
    scaler = (module / "pkg/scalers/nats_jetstream_scaler.go").read_text()
    metadata = re.findall(r'keda:"name=(\w+)([^"]*)"', scaler)
    found = {
        "keda": VERSION,
        "kinds": {_KIND: _NAME},
        "$defs": {_NAME: strict(schema)},
        "nats-jetstream": {
            "names": sorted(name for name, _ in metadata),
            "required": sorted(name for name, more in metadata if "optional" not in more and "default" not in more),
        },
    }
    KEDA_SCHEMAS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
