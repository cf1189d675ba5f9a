"""Write the manifests of Knative Serving and Eventing as this cluster runs them.

    manifests.py OUT serving=DIR eventing=DIR networking=DIR caching=DIR

The folders are the Go modules the programs are built from, so manifests and programs are of one release and
nothing large has to be kept in the repository. Out come `serving-crds.yaml`, `serving.yaml`, and the same of
`eventing` and `broker`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# A program that is not built here, and what goes with it: nothing in the product uses RequestReply. Without
# metrics-server an autoscaler of the control plane could not work either, and one node has nothing to protect from
# disruption.
NOT_HERE = {"request-reply", "request-reply-keys"}
KINDS_NOT_HERE = {"HorizontalPodAutoscaler", "PodDisruptionBudget"}

# "ko://knative.dev/serving/cmd/queue" is how the sources name an image that is still to be built.
IMAGE = re.compile(r"ko://knative\.dev/(serving|eventing)/cmd/([\w/]+)")
PREFIX = {"serving": "kn", "eventing": "ev"}

# A CPU request reserves what a small machine does not have; limits stay as they are.
CPU_REQUEST = "10m"

# A webhook that is starved for some seconds is not dead; ended and started again it would starve for longer.
PATIENCE = {"timeoutSeconds": 10, "periodSeconds": 10, "failureThreshold": 12}

# What a pod needs (its account, its config maps) is there before the pod; otherwise it is tried again much later.
ORDER = {"Namespace": 0, "Deployment": 2}
OTHER = 1

Manifest = dict[str, Any]


def read(*folders: Path) -> Iterator[Manifest]:
    """Yield every object, folder by folder, each in the order of its file names (100-namespace comes first)."""
    for path in (p for folder in folders for p in sorted(folder.rglob("*.yaml"))):
        yield from filter(None, yaml.safe_load_all(IMAGE.sub(image, path.read_text())))


def image(found: re.Match[str]) -> str:
    """The image of a program, as lib/build.sh names it."""
    return f"registry.local/{PREFIX[found[1]]}-{re.sub('[/_]', '-', found[2])}:1"


def wanted(manifest: Manifest) -> bool:
    return manifest["kind"] not in KINDS_NOT_HERE and manifest["metadata"]["name"] not in NOT_HERE


def for_a_small_machine(manifest: Manifest) -> Manifest:
    if manifest["kind"] == "Deployment":
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            if "livenessProbe" in container:
                container["livenessProbe"] |= PATIENCE
            requests = container.get("resources", {}).get("requests", {})
            if "cpu" in requests:
                requests["cpu"] = CPU_REQUEST
    return manifest


def write(out: Path, name: str, *folders: Path) -> None:
    manifests = [for_a_small_machine(m) for m in read(*folders) if wanted(m)]
    crds = [m for m in manifests if m["kind"] == "CustomResourceDefinition"]
    rest = [m for m in manifests if m["kind"] != "CustomResourceDefinition"]
    rest.sort(key=lambda m: ORDER.get(m["kind"], OTHER))
    (out / f"{name}-crds.yaml").write_text(yaml.safe_dump_all(crds, sort_keys=False))
    (out / f"{name}.yaml").write_text(yaml.safe_dump_all(rest, sort_keys=False))


def main(out: Path, modules: dict[str, Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # A module leaves links out, and Serving's repository links to its relatives' CRDs: take theirs.
    write(
        out,
        "serving",
        modules["serving"] / "config/core",
        modules["networking"] / "config",
        modules["caching"] / "config",
    )
    # The controller does not start without the two config maps of the integrations.
    write(
        out,
        "eventing",
        modules["eventing"] / "config/core",
        modules["eventing"] / "third_party/eventing-integrations-latest",
    )
    write(
        out,
        "broker",
        modules["eventing"] / "config/brokers/mt-channel-broker",
        modules["eventing"] / "config/channels/in-memory-channel",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: Path(folder) for name, folder in (arg.split("=", 1) for arg in sys.argv[2:])})
