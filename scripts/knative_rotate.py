#!/usr/bin/env python3
"""Rotates a secret of a running installation, with executions running (docs/how-to/rotate-keys.md).

    knative_rotate.py --keys DIR encryption           the key that seals secrets: first every reader, then the gateway
    knative_rotate.py --keys DIR dispatch             the dispatcher's token
    knative_rotate.py --keys DIR nats                 new signing keys and users in the same NATS account
    knative_rotate.py --keys DIR nats --finish        refuse the earlier ones, once every backend has its new ones
    knative_rotate.py --keys DIR nats --revoke CREDS  refuse one user only

Safe to repeat, also after it broke off: the state is in DIR. It changes the Secrets that it is about, and no other.

NATS in the namespace is restarted with its new configuration. Elsewhere, `--server-command` brings the values of its
Helm chart to it; `$JWTS` in it is the file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.kube import ROOT, KubectlFailed, Manifest, kubectl, objects, say, wait

KSVC = "service.v1.serving.knative.dev"
FUNCTIONS = ("submit", "execute", "cancel", "cleanup", "archive", "session", "history", "trigger", "result")
#: They open what the gateway has sealed.
READERS = ("execute", "trigger", "result")
#: Seconds for a new revision, a restarted server, or the kubelet's copy of a Secret in a running pod.
_PATIENCE = 300.0
_NATS_FILE = "/etc/ocf/nats/functions.creds"


class Installation:
    """The installation whose secrets come from the folder `keys`."""

    def __init__(self, keys: Path, namespace: str, server_command: str | None) -> None:
        self._keys = keys
        self._namespace = namespace
        self._server_command = server_command

    def secrets(self, *arguments: str) -> str:
        """Return what `knative_secrets.py` prints.

        Raises:
            KubectlFailed: it refuses the arguments.
        """
        script = [sys.executable, str(ROOT / "scripts/knative_secrets.py"), "--keys", str(self._keys)]
        done = subprocess.run(
            [*script, "--namespace", self._namespace, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise KubectlFailed(done.stderr.strip())
        return done.stdout

    def apply(self, *arguments: str) -> None:
        """Apply the Secrets that `knative_secrets.py` prints."""
        say(kubectl("apply", "--filename", "-", given=self.secrets(*arguments)).rstrip())

    def has(self, service: str) -> bool:
        """Return whether there is this Knative Service; the overlay `jobsink` has no `execute`."""
        return bool(objects(KSVC, f"--field-selector=metadata.name={service}", namespace=self._namespace))

    def roll(self, *services: str) -> None:
        """Make a new revision of each service, and wait until requests go to it; pods read a Secret at their start."""
        there = [name for name in services if self.has(name)]
        patch = {"spec": {"template": {"metadata": {"annotations": {"ocf.dev/rolled": str(time.time_ns())}}}}}
        for name in there:
            kubectl("patch", KSVC, name, "--type", "merge", "--patch", json.dumps(patch), namespace=self._namespace)
        for name in there:
            wait(f"the new revision of {name} is ready", lambda name=name: self._settled(name), _PATIENCE)
            say(f"{name}: new revision")

    def _settled(self, name: str) -> bool:
        [found] = objects(KSVC, f"--field-selector=metadata.name={name}", namespace=self._namespace)
        status, newest = found.get("status", {}), found.get("status", {}).get("latestReadyRevisionName")
        current = status.get("observedGeneration") == found["metadata"]["generation"]
        # Not the conditions: on a full node, where further pods wait, Knative says `False` of a revision that serves.
        served = any(one.get("revisionName") == newest and one.get("percent") for one in status.get("traffic", []))
        return current and served and status.get("latestCreatedRevisionName") == newest

    def restart_dispatchers(self) -> None:
        """Replace the dispatchers' pods at once, leader and standby; messages wait meanwhile."""
        selector = "app.kubernetes.io/component=dispatcher"
        kubectl("delete", "pod", "--selector", selector, "--wait=false", namespace=self._namespace)

    def restart_nats(self) -> None:
        """Bring the server its new configuration.

        Raises:
            KubectlFailed: there is no server in the namespace, and no `--server-command`.
        """
        if self._server_command is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "jwts.yaml"
                path.write_text(self.secrets("--only", "ocf-nats-server/jwts.yaml"))
                subprocess.run(self._server_command, shell=True, check=True, env={**os.environ, "JWTS": str(path)})  # noqa: S602
            return
        if not objects("statefulset", "--field-selector=metadata.name=nats", namespace=self._namespace):
            raise KubectlFailed("no StatefulSet nats here: --server-command says how its configuration gets to NATS")
        kubectl("rollout", "restart", "statefulset/nats", namespace=self._namespace)
        kubectl("rollout", "status", "statefulset/nats", f"--timeout={_PATIENCE:.0f}s", namespace=self._namespace)
        say("NATS: restarted with its new configuration")

    def wait_for_files(self) -> None:
        """Wait until every running pod has the new credentials: the kubelet renews a mounted Secret within minutes."""
        wanted = hashlib.sha256(self._applied_credentials()).hexdigest()
        wait("every pod has the new credentials", lambda: self._all_have(wanted), _PATIENCE, every=5.0)
        say("every pod has the new credentials")

    def _applied_credentials(self) -> bytes:
        [found] = objects("secret", "--field-selector=metadata.name=ocf-nats", namespace=self._namespace)
        return base64.b64decode(found["data"]["functions.creds"])

    def _all_have(self, wanted: str) -> bool:
        pods = objects(
            "pod",
            "--selector=app.kubernetes.io/component in (function,dispatcher,job)",
            "--field-selector=status.phase=Running",
            namespace=self._namespace,
        )
        return all(self._digest(pod) in (wanted, "") for pod in pods)

    def _digest(self, pod: Manifest) -> str:
        """Return the digest of the pod's credentials file; empty if the pod has just ended."""
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        try:
            said = kubectl("exec", name, "-c", container, "--", "sha256sum", _NATS_FILE, namespace=self._namespace)
        except KubectlFailed as error:
            if "not found" in str(error) or "completed" in str(error):
                return ""
            raise
        return said.split()[0]


def encryption(here: Installation) -> None:
    """Rotate `ENCRYPTION_KEY` in two phases: every reader knows the new key before anything is sealed under it."""
    here.apply("--rotate", "ocf-encryption", "--secret", "ocf-encryption")
    here.roll(*READERS)
    here.apply("--finish", "ocf-encryption", "--secret", "ocf-encryption")
    here.roll("gateway", *READERS)


def dispatch(here: Installation) -> None:
    """Rotate `DISPATCH_TOKEN`; deliveries are refused and repeated until both sides have the new one."""
    here.apply("--rotate", "ocf-dispatch", "--secret", "ocf-dispatch")
    here.roll(*FUNCTIONS)
    here.restart_dispatchers()


def nats(here: Installation, backends: list[str]) -> None:
    """Let NATS accept new signing keys beside the present ones, then give every process new credentials."""
    here.apply("--rotate", "ocf-nats", "--secret", "ocf-nats-server")
    here.restart_nats()
    names = ["ocf-nats", "ocf-gateway", "ocf-backend", *(f"ocf-backend-{project}" for project in backends)]
    projects = [argument for project in backends for argument in ("--backend", project)]
    here.apply(*projects, *(argument for name in names for argument in ("--secret", name)))
    here.roll("gateway")
    here.wait_for_files()
    say("Now give every backend its new credentials (Secret ocf-backend). Then: the same command with --finish.")


def nats_server(here: Installation, *arguments: str) -> None:
    """Change what NATS refuses, and end the connections of those it refuses; all others come back by themselves."""
    here.apply(*arguments, "--secret", "ocf-nats-server")
    here.restart_nats()


def main(arguments: list[str]) -> int:
    """Rotate; exit status."""
    parser = argparse.ArgumentParser(description="Rotate a secret of a running installation")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the seeds (knative_secrets.py)")
    parser.add_argument("--namespace", default="ocf")
    parser.add_argument("what", choices=("encryption", "dispatch", "nats"))
    parser.add_argument("--finish", action="store_true", help="nats: refuse the earlier credentials")
    parser.add_argument("--revoke", action="append", default=[], metavar="CREDS", help="nats: refuse this user")
    parser.add_argument("--backend", action="append", default=[], metavar="PROJECT", help="nats: also a backend of it")
    parser.add_argument("--server-command", help="nats: brings the Helm values in $JWTS to a NATS elsewhere")
    given = parser.parse_args(arguments)
    if not (given.keys / "keys.json").is_file():
        parser.error(f"--keys: {given.keys} has no keys.json")
    if given.what != "nats" and (given.finish or given.revoke):
        parser.error("--finish and --revoke are for nats")
    here = Installation(given.keys, given.namespace, given.server_command)
    try:
        if given.what == "encryption":
            encryption(here)
        elif given.what == "dispatch":
            dispatch(here)
        elif given.revoke:
            nats_server(here, *(argument for one in given.revoke for argument in ("--revoke", one)))
        elif given.finish:
            here.wait_for_files()
            nats_server(here, "--finish", "ocf-nats")
        else:
            nats(here, given.backend)
    except KubectlFailed as error:
        sys.stderr.write(f"knative_rotate: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
