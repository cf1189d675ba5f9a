"""The monitoring manifests that follow from the rules and the metrics: PrometheusRule and Grafana dashboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

#: Title, unit, and queries with their legends. One panel each, two to a row.
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Executions running", "short", (("sum(ocf_executions_running)", "running"), ("sum(ocf_warm_slots)", "warm slots"))),
    ("Ended per minute", "short", (("60 * sum by (state) (rate(ocf_executions_ended_total[5m]))", "{{state}}"),)),
    ("Why they fail", "short", (('60 * sum by (reason) (rate(ocf_executions_ended_total{reason!=""}[15m]))', "{{reason}}"),)),
    (
        "Duration",
        "s",
        (
            ("histogram_quantile(0.5, sum by (le) (rate(ocf_execution_seconds_bucket[15m])))", "p50"),
            ("histogram_quantile(0.95, sum by (le) (rate(ocf_execution_seconds_bucket[15m])))", "p95"),
        ),
    ),
    (
        "Wait for a worker, time to first output (p95)",
        "s",
        (
            ("histogram_quantile(0.95, sum by (le) (rate(ocf_queue_wait_seconds_bucket[15m])))", "queue"),
            ("histogram_quantile(0.95, sum by (le) (rate(ocf_first_output_seconds_bucket[15m])))", "first output"),
        ),
    ),
    ("Cancel to last process gone (p95)", "s", (("histogram_quantile(0.95, sum by (le) (rate(ocf_cancel_seconds_bucket[30m])))", "p95"),)),
    ("Tokens per minute", "short", (("60 * sum by (model, direction) (rate(ocf_model_tokens_total[5m]))", "{{model}} {{direction}}"),)),
    ("Spent per hour", "currencyUSD", (("3600 * sum by (model) (rate(ocf_model_cost_usd_total[15m]))", "{{model}}"),)),
    (
        "Events waiting",
        "short",
        (
            ("max by (consumer) (ocf_consumer_lag)", "{{consumer}}"),
            ("max by (consumer) (ocf_consumer_unsettled)", "{{consumer}} unsettled"),
        ),
    ),
    (
        "Deliveries per second",
        "short",
        (
            ("sum by (consumer, answer) (rate(ocf_deliveries_total[5m]))", "{{consumer}} {{answer}}"),
            ("sum by (consumer) (rate(ocf_redeliveries_total[5m]))", "{{consumer}} again"),
        ),
    ),
    ("Dead letters", "short", (("sum by (consumer) (increase(ocf_dead_letters_total[1h]))", "{{consumer}}"),)),
    ("Output", "Bps", (("sum(rate(ocf_output_bytes_total[5m]))", "bytes per second"),)),
)  # fmt: skip


def pages(root: Path) -> dict[str, str]:
    """`knative/monitoring/prometheusrule.yaml` and `dashboard.json`."""
    rules = yaml.safe_load((root / "knative/monitoring/rules.yaml").read_text())
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ocf", "labels": {"app.kubernetes.io/part-of": "ocf"}},
        "spec": rules,
    }
    head = "# Generated from rules.yaml by scripts/generate.py.\n"
    return {
        "knative/monitoring/prometheusrule.yaml": head + yaml.safe_dump(rule, sort_keys=False, width=120),
        "knative/monitoring/dashboard.json": json.dumps(_dashboard(), indent=2) + "\n",
    }


def _dashboard() -> dict[str, Any]:
    return {
        "title": "OpenCode functions",
        "uid": "ocf",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [_panel(index, *panel) for index, panel in enumerate(PANELS)],
    }


def _panel(index: int, title: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "id": index + 1,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(queries)
        ],
    }
