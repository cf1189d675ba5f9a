#!/usr/bin/env python3
"""Removes an installation (docs/how-to/uninstall-from-a-cluster.md).

    knative_uninstall.py OVERLAY --cancel | --wait SECONDS | --now [--data] [--namespace ocf]

First no new work is taken, then running executions end: cancelled, or waited for, or (`--now`) given up with their
pods. Then the workload goes. What holds data stays unless `--data`: the namespace, its Secrets, and the volume claims
of NATS and PostgreSQL. The two cluster-wide PriorityClasses go when no pod outside the namespace uses them. Safe to
repeat.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.kube import PART_OF, KubectlFailed, Manifest, kubectl, objects, rendered, resource, say, wait

KSVC, DISPATCHER = "service.v1.serving.knative.dev", "deployment/dispatcher"
_ARCHIVE_SECONDS = 300
_PODS_SECONDS = 180.0
_CLASS = "priorityclass.v1.scheduling.k8s.io"
#: Deleted with `--data` only.
DATA = ("namespace", "persistentvolumeclaim", "secret")
_PODS = "app.kubernetes.io/component in (function,job)"


def finish(namespace: str, *arguments: str) -> None:
    """Stop the intake, and let executions end; the dispatcher and functions that this needs are still there.

    Raises:
        KubectlFailed: some are left.
    """
    kubectl("delete", KSVC, "gateway", "--ignore-not-found", "--wait=false", namespace=namespace)
    submits_wait(namespace)
    where = ["kubectl", "--namespace", namespace, "exec", DISPATCHER, "-c", "dispatcher", "--"]
    done = subprocess.run([*where, "python", "-m", "ocf.functions.runtime.drain_executions", *arguments], check=False)
    if done.returncode:
        raise KubectlFailed("executions are left (above); repeat, or give them up with --now")


def _dispatcher(namespace: str) -> list[Manifest]:
    return objects("deployment.v1.apps", "--field-selector=metadata.name=dispatcher", namespace=namespace)


def submits_wait(namespace: str) -> None:
    """Let the dispatcher handle all routes but submits.

    Raises:
        KubectlFailed: it does not become ready.
    """
    [found] = _dispatcher(namespace)
    [container] = found["spec"]["template"]["spec"]["containers"]
    [routes] = [one["value"] for one in container["env"] if one["name"] == "DISPATCH_CONSUMERS"]
    others = ",".join(route for route in routes.split(",") if route != "submit")
    kubectl("set", "env", DISPATCHER, f"DISPATCH_CONSUMERS={others}", namespace=namespace)
    try:
        kubectl("rollout", "status", DISPATCHER, f"--timeout={_PODS_SECONDS:.0f}s", namespace=namespace)
    except KubectlFailed:
        raise KubectlFailed("no dispatcher is ready, so executions cannot end; --now gives them up") from None


def remove(manifests: list[Manifest], namespace: str, *, data: bool) -> None:
    """Delete the objects of the overlay, but for data and the cluster's own; wait until the pods are gone."""
    for one in manifests:
        kind = resource(one)
        if kind in DATA or kind == _CLASS:
            continue
        say(
            kubectl(
                "delete", kind, one["metadata"]["name"], "--ignore-not-found", "--wait=false", namespace=namespace
            ).rstrip()
        )
    kubectl("delete", "job,configmap", "--selector", PART_OF, "--ignore-not-found", namespace=namespace)
    wait("the pods are gone", lambda: not objects("pod", "--selector", PART_OF, namespace=namespace), _PODS_SECONDS)
    if data:
        kubectl("delete", "persistentvolumeclaim", "--all", namespace=namespace)
        kubectl("delete", "namespace", namespace, "--ignore-not-found")


def give_up(namespace: str) -> None:
    """End the pods of functions at once: their executions are lost with them."""
    kubectl("delete", KSVC, "--all", "--wait=false", namespace=namespace)
    kubectl("delete", DISPATCHER, "--ignore-not-found", "--wait=false", namespace=namespace)
    for kind in ("jobsink.v1alpha1.sinks.knative.dev",):
        if objects(kind, namespace=namespace):
            kubectl("delete", kind, "--all", "--wait=false", namespace=namespace)
    kubectl("delete", "job", "--all", "--wait=false", namespace=namespace)
    kubectl("delete", "pod", "--selector", _PODS, "--grace-period=10", "--wait=false", namespace=namespace)


def remove_priorities(manifests: list[Manifest], namespace: str) -> None:
    """Delete the PriorityClasses of the overlay that no pod of another namespace uses."""
    used = {
        pod["spec"].get("priorityClassName")
        for pod in objects("pod", "--all-namespaces")
        if pod["metadata"]["namespace"] != namespace
    }
    for one in manifests:
        name = one["metadata"]["name"]
        if resource(one) != _CLASS:
            continue
        if name in used:
            say(f"priorityclass {name} stays: a pod of another namespace uses it")
        else:
            say(kubectl("delete", _CLASS, name, "--ignore-not-found").rstrip())


def main(arguments: list[str]) -> int:
    """Remove it; exit status."""
    parser = argparse.ArgumentParser(description="Remove an installation")
    parser.add_argument("overlay", type=Path, help="folder of the overlay that is installed")
    parser.add_argument("--namespace", default="ocf")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--cancel", action="store_true", help="cancel the executions")
    how.add_argument("--wait", type=int, metavar="SECONDS", help="let them end, within this time")
    how.add_argument("--now", action="store_true", help="give them up, with what they have not stored")
    parser.add_argument("--data", action="store_true", help="also the namespace, its Secrets, and the volumes")
    given = parser.parse_args(arguments)
    try:
        manifests = rendered(given.overlay)
        if given.now:
            give_up(given.namespace)
        elif _dispatcher(given.namespace):
            seconds = _ARCHIVE_SECONDS if given.cancel else given.wait
            finish(given.namespace, *(("--cancel",) if given.cancel else ()), "--seconds", str(seconds))
        remove(manifests, given.namespace, data=given.data)
        remove_priorities(manifests, given.namespace)
    except KubectlFailed as error:
        sys.stderr.write(f"knative_uninstall: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
