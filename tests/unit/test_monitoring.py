"""Alerts and dashboard speak of metrics that exist, and every alert has its page in the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from ocf.functions.dispatcher.routes import ROUTES
from ocf.functions.observability import metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "knative/monitoring/rules.yaml"
NAME = re.compile(r"\bocf_[a-z_]+")


def known() -> set[str]:
    """Every series name that can be scraped."""
    names = set()
    for family in metrics.REGISTRY.collect():
        names |= {f"{family.name}{ending}" for ending in ("", "_total", "_bucket", "_sum", "_count")}
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


def test_the_alerts_are_tested_with_series_as_they_are_exposed() -> None:
    """A test on a series that no process has proves nothing."""
    metrics.expect_ends()
    for consumer in (*(row.consumer for row in ROUTES), "sink-acme", "sink-audit"):
        metrics.expect_deliveries(consumer)
        metrics.consumer_lag.labels(consumer)
        metrics.consumer_unsettled.labels(consumer)
    lines = generate_latest(metrics.REGISTRY).decode().splitlines()
    exposed = {series(line.rpartition(" ")[0]) for line in lines if not line.startswith("#")}
    tests = yaml.safe_load((RULES.parent / "rules.test.yaml").read_text())["tests"]
    used = {series(each["series"]) for test in tests for each in test["input_series"]}
    # The buckets of a histogram are the code's own; a test needs but a few of them.
    missing = {each for each in used - exposed if not each[0].endswith("_bucket")}
    assert missing == set()


def series(text: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Name and labels, without those that Prometheus adds."""
    name, _, labels = text.partition("{")
    return name, frozenset(pair for pair in re.findall(r'(\w+)="([^"]*)"', labels) if pair[0] != "pod")


def test_scraped_endpoints_exist() -> None:
    """Each PodMonitor's labels are those of pods that listen at its port (`user-port` is what Knative calls theirs)."""
    named = {"function": "services.yaml", "dispatcher": "dispatcher.yaml"}
    for monitor in yaml.safe_load_all((RULES.parent / "podmonitor.yaml").read_text()):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        pods = list(
            yaml.safe_load_all((ROOT / "knative/base" / named[wanted["app.kubernetes.io/component"]]).read_text())
        )
        assert pods
        for pod in pods:
            template = pod["spec"]["template"]
            assert wanted.items() <= template["metadata"]["labels"].items()
            [port] = template["spec"]["containers"][0]["ports"]
            assert endpoint["port"] == {"http1": "user-port"}.get(port["name"], port["name"])
            assert endpoint["path"] == "/metrics"


def test_the_loss_of_any_dispatcher_is_noticed() -> None:
    """One line per row of the wiring."""
    (rule,) = (rule for rule in alerts() if rule["alert"] == "OcfDispatcherGone")
    assert re.findall(r'consumer="(\w+)"', rule["expr"]) == [row.consumer for row in ROUTES]


@pytest.mark.parametrize("name", [rule["alert"] for rule in alerts()])
def test_every_alert_has_its_page(name: str) -> None:
    """Whoever is woken finds what to do."""
    page = (ROOT / "docs/how-to/respond-to-alerts.md").read_text()
    assert re.search(rf"^#+ {name}$", page, re.MULTILINE)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus)")
def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    """promtool's own unit tests of the rules."""
    subprocess.run(["promtool", "test", "rules", "rules.test.yaml"], cwd=RULES.parent, check=True, capture_output=True)
