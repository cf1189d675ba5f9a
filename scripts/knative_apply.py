#!/usr/bin/env python3
"""Applies an overlay, and removes what another overlay or an earlier release left in its namespace.

    knative_apply.py OVERLAY [--namespace ocf]        for example knative/overlays/production

`kubectl apply -k` alone keeps an object that the overlay no longer has: after a change from `local` to `jobsink`, and
back, there would be a Service and a JobSink `execute`, and the ConfigMaps of both. Safe to repeat, also with executions
running: a removed Service's pods end after their executions.

Removed are objects with the label `app.kubernetes.io/part-of: ocf` of the kinds below; never a Secret, a claim or a
namespace. A ConfigMap stays while a revision uses it, which traffic may return to.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import yaml

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.kube import PART_OF, KubectlFailed, Manifest, kubectl, objects, rendered, resource, say

#: What an overlay may have and another one may not. Services and Deployments that Knative makes belong to their owner.
PRUNED = (
    "service.v1.serving.knative.dev",
    "jobsink.v1alpha1.sinks.knative.dev",
    "containersource.v1.sources.knative.dev",
    "sinkbinding.v1.sources.knative.dev",
    "broker.v1.eventing.knative.dev",
    "trigger.v1.eventing.knative.dev",
    "deployment.v1.apps",
    "statefulset.v1.apps",
    "service",
    "poddisruptionbudget.v1.policy",
    "networkpolicy.v1.networking.k8s.io",
    "resourcequota",
    "limitrange",
    "configmap",
    "rolebinding.v1.rbac.authorization.k8s.io",
    "role.v1.rbac.authorization.k8s.io",
    "serviceaccount",
)
#: For Knative's webhooks, which may be restarting or slow: seconds from the first refusal on, and at least so many
#: tries. One of them can take longer than that.
_PATIENCE, _TRIES = 120.0, 4


def apply(manifests: list[Manifest], namespace: str) -> None:
    """Apply the objects. The Job `setup` is made anew: a Job cannot change.

    Raises:
        KubectlFailed: the cluster refuses an object.
    """
    if not objects("namespace", f"--field-selector=metadata.name={namespace}"):
        kubectl("create", "namespace", namespace)
    kubectl("delete", "job", "setup", "--ignore-not-found", namespace=namespace)
    text, tries, deadline = yaml.safe_dump_all(manifests, sort_keys=False), 0, 0.0
    while True:
        try:
            say(kubectl("apply", "--filename", "-", given=text).rstrip())
            return
        except KubectlFailed as error:
            tries, deadline = tries + 1, deadline or time.monotonic() + _PATIENCE
            if "failed calling webhook" not in str(error) or (tries >= _TRIES and time.monotonic() > deadline):
                raise
            say("a webhook of Knative does not answer yet; trying again")
            time.sleep(2)


def leftovers(manifests: list[Manifest], namespace: str) -> list[tuple[str, str]]:
    """Return kind and name of every object of an installation that is not among `manifests`."""
    wanted = {(resource(one), one["metadata"]["name"]) for one in manifests}
    used = _used_config_maps(namespace)
    found = []
    for kind in PRUNED:
        for one in objects(kind, "--selector", PART_OF, namespace=namespace):
            meta = one["metadata"]
            owned = meta.get("ownerReferences") or "deletionTimestamp" in meta
            if owned or (kind, meta["name"]) in wanted or (kind == "configmap" and meta["name"] in used):
                continue
            found.append((kind, meta["name"]))
    return found


def _used_config_maps(namespace: str) -> set[str]:
    """Return the ConfigMaps that a revision or a pod takes its environment from."""
    used = set()
    for kind in ("revision.v1.serving.knative.dev", "pod"):
        for one in objects(kind, namespace=namespace):
            for container in one["spec"].get("containers", []):
                used |= {
                    source["configMapRef"]["name"]
                    for source in container.get("envFrom", [])
                    if "configMapRef" in source
                }
    return used


def prune(manifests: list[Manifest], namespace: str) -> None:
    """Delete the leftovers; do not wait for pods with executions."""
    for kind, name in leftovers(manifests, namespace):
        say(kubectl("delete", kind, name, "--wait=false", "--ignore-not-found", namespace=namespace).rstrip())


def main(arguments: list[str]) -> int:
    """Apply and prune; exit status."""
    parser = argparse.ArgumentParser(description="Apply an overlay and remove what it no longer has")
    parser.add_argument("overlay", type=Path, help="folder of the overlay")
    parser.add_argument("--namespace", default="ocf")
    given = parser.parse_args(arguments)
    try:
        manifests = rendered(given.overlay)
        apply(manifests, given.namespace)
        prune(manifests, given.namespace)
    except KubectlFailed as error:
        sys.stderr.write(f"knative_apply: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
