"""The check of overlays against the schemas of Kubernetes and Knative finds what it should (`make check` runs it)."""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from ocf.cli.triggers import documents
from ocf.events.envelope import Event
from ocf.functions.rules.rule import Rule
from ocf.functions.rules.rulebook import CompiledRule, view
from scripts import knative_check
from scripts.knative_check import OVERLAYS, SCHEMAS, mistakes
from tests.integration.test_docs_run import block

ROOT = Path(__file__).parents[2]
KNOWN = json.loads(SCHEMAS.read_text())
Manifest = dict[str, Any]
EXECUTE: Manifest = next(
    one
    for one in yaml.safe_load_all((ROOT / "knative/base/services.yaml").read_text())
    if one["metadata"]["name"] == "execute"
)


def test_every_overlay_is_checked() -> None:
    """Whatever is added to the folder is found."""
    assert {"local", "production", "jobsink", "events", "inbox", "workspaces"} <= set(OVERLAYS)


def test_valid_manifests_pass() -> None:
    """A generated service, and what the pages tell people to write."""
    assert list(mistakes(EXECUTE, KNOWN)) == []
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/how-to/receive-webhooks.md").read_text(), re.DOTALL)
    assert [list(mistakes(one, KNOWN)) for block in blocks for one in yaml.safe_load_all(block)] == [[]]


def test_the_sources_of_the_page_are_valid_and_its_rules_match_their_events(tmp_path: Path) -> None:
    """Broker, Trigger, PingSource and ApiServerSource by Knative's own schemas; events as their adapters make them."""
    page = "docs/how-to/receive-knative-events.md"
    found = [one for mark in ("broker", "ping", "api-server") for one in yaml.safe_load_all(block(page, mark))]
    assert {"Broker", "Trigger", "PingSource", "ApiServerSource"} <= {one["kind"] for one in found}
    assert [list(mistakes(one, KNOWN)) for one in found] == [[]] * len(found)
    [ping] = [one for one in found if one["kind"] == "PingSource"]
    failed = {"reason": "BackoffLimitExceeded", "message": "it failed", "involvedObject": {"kind": "Job", "name": "b"}}
    events = {
        "ping-rule": ("dev.knative.sources.ping", json.loads(ping["spec"]["data"])),
        "api-server-rule": ("dev.knative.apiserver.resource.add", failed),
    }
    for mark, (type_, data) in events.items():
        (tmp_path / mark).write_text(block(page, mark))
        [fields] = documents(str(tmp_path / mark))
        rule = CompiledRule(Rule.model_validate(fields), "p")
        event = view(Event(type_, "/apis/v1/x", "1", datetime(2026, 1, 1, tzinfo=UTC), json.dumps(data).encode()))
        assert (rule.broken, rule.mismatch(event)) == ("", None)
        assert rule.submit(event, str(uuid.uuid4())).prompt
        other = view(Event(type_, "/apis/v1/x", "1", datetime(2026, 1, 1, tzinfo=UTC), b'{"reason": "Started"}'))
        assert mark == "ping-rule" or rule.mismatch(other)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pod: pod.update(containerConcurency=5), "'containerConcurency' was unexpected"),
        (lambda pod: pod.update(timeoutSeconds="an hour"), "timeoutSeconds: 'an hour' is not of type 'integer'"),
        (lambda pod: pod["containers"][0]["resources"].update(limit={}), "resources: .*'limit' was unexpected"),
        (lambda pod: pod["volumes"].append({"emptyDir": {}}), "'name' is a required property"),
    ],
)
def test_a_wrong_field_is_named(spoil: Callable[[Manifest], Any], said: str) -> None:
    """A typing error, a wrong type, a missing field: each with its path."""
    wrong = copy.deepcopy(EXECUTE)
    spoil(wrong["spec"]["template"]["spec"])
    [mistake] = mistakes(wrong, KNOWN)
    assert re.search(said, mistake)


def test_a_kind_without_schema_is_a_mistake() -> None:
    """Nothing passes because nobody looked."""
    [mistake] = mistakes({"apiVersion": "example.com/v1", "kind": "Thing"}, KNOWN)
    assert "no schema of example.com/v1 Thing" in mistake


def test_a_part_of_an_object_may_lack_what_is_required_and_nothing_else() -> None:
    """`knative/cluster` patches what Knative's manifests made: a typing error in it is found all the same."""
    for part in knative_check.parts():
        assert list(mistakes(part, KNOWN, part=True)) == []
    [part] = [one for one in knative_check.parts() if one["kind"] == "Deployment"]
    part["spec"]["template"]["spec"]["terminationGracePeriod"] = 3900
    [mistake] = mistakes(part, KNOWN, part=True)
    assert "'terminationGracePeriod' was unexpected" in mistake


def test_without_kubectl_it_says_aloud_that_nothing_was_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A silent pass would be taken for one."""
    monkeypatch.setattr(knative_check, "kubectl", lambda: None)
    assert knative_check.main() == 0
    assert "NOTHING WAS CHECKED" in capsys.readouterr().err


def test_the_page_says_which_versions_were_checked() -> None:
    """The promise is older than the schemas."""
    minor = ".".join(KNOWN["kubernetes"].removeprefix("v").split(".")[:2])
    page = " ".join((ROOT / "docs/how-to/install-on-a-cluster.md").read_text().split())
    assert f"schemas of Kubernetes {minor} and Knative 1.22" in page


def test_a_variable_that_is_used_before_its_definition_is_a_mistake() -> None:
    """Kubernetes leaves `$(NAME)` as it is then; `$$(NAME)` is no use of it."""
    given = copy.deepcopy(EXECUTE)
    container = given["spec"]["template"]["spec"]["containers"][0]
    url = {"name": "URL", "value": "http://x.$(PLACE)/$$(NOT)"}
    container["env"] = [{"name": "PLACE", "value": "a"}, url]
    assert list(mistakes(given, KNOWN)) == []
    container["env"].reverse()
    assert list(mistakes(given, KNOWN)) == ["env: URL uses $(PLACE), which the list defines later or not at all"]
