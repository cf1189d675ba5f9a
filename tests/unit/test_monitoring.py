"""Alerts and dashboard speak of metrics that exist, and every alert has its page in the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from functions import metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "knative/monitoring/rules.yaml"
NAME = re.compile(r"\bocf_[a-z_]+")


def known() -> set[str]:
    """Every series name that can be scraped."""
    names = set()
    for family in metrics.REGISTRY.collect():
        names |= {family.name, f"{family.name}_total", f"{family.name}_bucket", f"{family.name}_sum"}
    return names


def alerts() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_alerts_and_panels_use_metrics_that_exist() -> None:
    """A renamed metric would silence an alert without a word."""
    panels = json.loads((ROOT / "knative/monitoring/dashboard.json").read_text())["panels"]
    said = [rule["expr"] for rule in alerts()] + [target["expr"] for panel in panels for target in panel["targets"]]
    used = {name for expression in said for name in NAME.findall(expression)}
    assert used
    assert used <= known()


@pytest.mark.parametrize("name", [rule["alert"] for rule in alerts()])
def test_every_alert_has_its_page(name: str) -> None:
    """Whoever is woken finds what to do."""
    page = (ROOT / "docs/operations.md").read_text()
    assert re.search(rf"^#+ {name}$", page, re.MULTILINE)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus)")
def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    """promtool's own unit tests of the rules."""
    subprocess.run(["promtool", "test", "rules", "rules.test.yaml"], cwd=RULES.parent, check=True, capture_output=True)
