"""The production values of NATS in the official chart: `NATS_CHART` is its folder (helm/charts/nats of nats-io/k8s)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import HELM

ROOT = Path(__file__).parents[2]
CHART = os.environ.get("NATS_CHART")
SERVER = Path(sys.executable).with_name("nats-server")

pytestmark = pytest.mark.skipif(not (CHART and HELM), reason="needs helm and the chart of NATS (NATS_CHART)")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the chart makes of our values and of an installation's own JWTs, by kind."""
    folder = tmp_path_factory.mktemp("helm")
    secrets = [sys.executable, str(ROOT / "scripts/knative_secrets.py"), "--keys", str(folder / "keys")]
    jwts = subprocess.run([*secrets, "--only", "ocf-nats-server/jwts.yaml"], capture_output=True, text=True, check=True)
    (folder / "jwts.yaml").write_text(jwts.stdout)
    values = [str(ROOT / "knative/overlays/production/nats-values.yaml"), str(folder / "jwts.yaml")]
    command = [str(HELM), "template", "nats", str(CHART), "--namespace", "nats", *(f"--values={one}" for one in values)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return {one["kind"]: one for one in yaml.safe_load_all(said.stdout) if one}


def test_three_servers_that_are_nobody_special(rendered: dict[str, dict[str, Any]]) -> None:
    """Replicas, a budget, a priority; every container with bounds and what Pod Security's `restricted` asks for."""
    assert rendered["StatefulSet"]["spec"]["replicas"] == 3
    assert rendered["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    assert (pod["priorityClassName"], pod["automountServiceAccountToken"]) == ("ocf-control", False)
    for container in pod["containers"]:
        assert set(container["resources"]) == {"requests", "limits"}
        security = container["securityContext"]
        assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_server_accepts_its_configuration(rendered: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """`nats-server -t`, with the JWTs, the cluster and the WebSocket; only folders are others here."""
    text = rendered["ConfigMap"]["data"]["nats.conf"].replace("/data", str(tmp_path / "data"))
    text = re.sub(r'"tls": \{[^}]*\}', '"no_tls": true', text.replace("/var/run/nats", str(tmp_path)))
    config = tmp_path / "nats.conf"
    config.write_text(text)
    command = [str(SERVER), "-t", "-c", str(config)]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env={"SERVER_NAME": "nats-0"}, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "configuration file" in said.stderr + said.stdout
