"""What the scripts for a cluster share: kubectl, and the objects of an overlay."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
#: The label of everything that belongs to an installation.
PART_OF = "app.kubernetes.io/part-of=ocf"
Manifest = dict[str, Any]


class KubectlFailed(Exception):
    """kubectl ended with another status than 0."""


def kubectl(*arguments: str, given: str | None = None, namespace: str | None = None) -> str:
    """Return what `kubectl ARGUMENTS` prints.

    Raises:
        KubectlFailed: it failed; the message is its own.
    """
    where = () if namespace is None else ("--namespace", namespace)
    done = subprocess.run(["kubectl", *where, *arguments], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KubectlFailed(f"kubectl {' '.join(arguments[:4])}: {done.stderr.strip()}")
    return done.stdout


def objects(kind: str, *arguments: str, namespace: str | None = None) -> list[Manifest]:
    """Return the objects of a kind; none if the cluster does not know the kind."""
    try:
        found = kubectl("get", kind, "--output", "json", *arguments, namespace=namespace)
    except KubectlFailed as error:
        if "the server doesn't have a resource type" in str(error):
            return []
        raise
    items: list[Manifest] = json.loads(found)["items"]
    return items


def rendered(overlay: Path) -> list[Manifest]:
    """Return the objects of an overlay, as kustomize builds them."""
    return [one for one in yaml.safe_load_all(kubectl("kustomize", str(overlay))) if one]


def resource(manifest: Manifest) -> str:
    """Return the kind in the form that kubectl takes: `service.v1.serving.knative.dev`, `configmap`."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    kind = str(manifest["kind"]).lower()
    return f"{kind}.{version}.{group}" if group else kind


def wait(what: str, condition: Callable[[], bool], seconds: float, every: float = 1.0) -> None:
    """Wait until `condition()` is true.

    Raises:
        KubectlFailed: it was not within `seconds`; the message is `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise KubectlFailed(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


def say(text: str) -> None:
    """Print a line of progress."""
    sys.stderr.write(f"{text}\n")
