"""The Helm chart makes the objects of the overlay that it is generated from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.knative_check import SCHEMAS, build, mistakes
from tests.support.helm import HELM

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/opencode-functions"
Manifest = dict[str, Any]

pytestmark = pytest.mark.skipif(not HELM or not shutil.which("kubectl"), reason="needs kubectl")


def helm(*arguments: str, verb: str = "template", status: int = 0) -> str:
    """Output of Helm, or its refusal."""
    command = [str(HELM), verb, "ocf", str(CHART), "--namespace", "ocf", "--kube-version", "1.35.0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def rendered(*arguments: str) -> list[Manifest]:
    """The objects of the chart, without its test."""
    return [one for one in yaml.safe_load_all(helm("--skip-tests", *arguments)) if one]


def by_name(objects: list[Manifest]) -> dict[str, Manifest]:
    """The objects by kind and name, with one name for the ConfigMap."""
    text = re.sub(r"\bocf-config-[0-9a-z]{10}\b", "ocf-config", json.dumps(objects))
    return {f"{one['kind']} {one['metadata']['name']}": one for one in json.loads(text)}


def test_the_chart_is_the_overlay_production() -> None:
    """`helm template` is `kubectl kustomize`, but for the namespace, and name and annotations of the Job."""
    chart, overlay = by_name(rendered()), by_name(build("production"))
    del overlay["Namespace ocf"]
    job = chart.pop("Job setup-1")
    assert job["metadata"].pop("annotations")["argocd.argoproj.io/hook"] == "Sync"
    chart["Job setup"] = {**job, "metadata": {**job["metadata"], "name": "setup"}}
    assert chart.keys() == overlay.keys()
    for name, one in overlay.items():
        assert chart[name] == one, name


def test_the_generated_files_are_up_to_date() -> None:
    """`scripts/chart.py --check` has nothing to say."""
    command = [sys.executable, str(ROOT / "scripts/chart.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_object_fits_the_schemas_of_kubernetes_and_knative() -> None:
    """Strictly, with values that are not the defaults, the test pod included; the linter has no complaint."""
    known = json.loads(SCHEMAS.read_text())
    digest = f"r.example/x@sha256:{'a' * 64}"
    values = ("--set", f"images.full={digest}", "--set", f"images.slim={digest}", "--set-string", "config.WARM_SLOTS=0")
    objects = [one for one in yaml.safe_load_all(helm(*values)) if one]
    (pod,) = (one for one in objects if one["kind"] == "Pod")
    # The schemas have pods in templates only.
    objects[objects.index(pod)] = {
        **pod,
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {"template": {"spec": pod["spec"]}},
    }
    assert [f"{one['metadata']['name']}: {said}" for one in objects for said in mistakes(one, known)] == []
    images = set(re.findall(r'"image": "([^"]+)"', json.dumps(objects)))
    assert images == {digest}
    lint = subprocess.run([str(HELM), "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=120)
    assert lint.returncode == 0, lint.stdout


def test_a_changed_setting_is_a_new_revision_of_every_function() -> None:
    """The ConfigMap gets another name, and whatever uses it the same one; nothing else changes."""
    names = []
    for value in ("0", "1"):
        objects = rendered("--set-string", f"config.WARM_SLOTS={value}")
        (used,) = set(re.findall(r"ocf-config-[0-9a-f]{10}", json.dumps(objects)))
        names.append(used)
    assert names[0] != names[1]


def test_the_release_is_in_its_own_namespace() -> None:
    """No object and no address names another one."""
    objects = rendered("--namespace", "agents")
    places = {one["metadata"].get("namespace", "agents") for one in objects}
    assert places == {"agents"}
    assert not re.findall(r"\.ocf\.svc|namespace: ocf\b", yaml.safe_dump_all(objects))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("config.WARM_SLOTS=2", "/config/WARM_SLOTS"),
        ("config.SANDBOX=none", "/config/SANDBOX"),
        ("images.full=registry.example.com/opencode", "/images/full"),
        ("replicas=2", "replicas"),
    ],
)
def test_a_wrong_value_is_refused_by_name(given: str, said: str) -> None:
    """The schema names the value: a number that is no text, a wrong mode, an image without a tag, an unknown name."""
    assert said in helm("--set", given, status=1)
