"""The AsyncAPI document, read by the official parser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ocf.events.event_types import TYPES
from tests.support.npm import modules
from tests.support.offline import ROOT, node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import { Parser, fromFile } from "@asyncapi/parser";
const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const messages = document?.messages().all() ?? [];
console.log(JSON.stringify({
  diagnostics: diagnostics.map((one) => `${one.path.join(".")}: ${one.message}`),
  headers: Object.fromEntries(messages.map((one) => [one.name(), one.headers()?.required() ?? []])),
  servers: Object.fromEntries((document?.servers().all() ?? []).map((one) => [one.id(), one.security().length])),
}));
"""


def test_the_official_parser_has_nothing_to_say(tmp_path: Path) -> None:
    """No error and no warning; every message requires the CloudEvents headers, every server has its credentials."""
    (tmp_path / "node_modules").symlink_to(modules("asyncapi"))
    (tmp_path / "parse.mjs").write_text(PROGRAM)
    argv = [node(), "parse.mjs", ROOT / "schemas/asyncapi.yaml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["diagnostics"] == []
    assert set(found["headers"]) == set(TYPES)
    wanted = {f"ce-{name}" for name in ("specversion", "id", "source", "type", "subject", "time", "datacontenttype")}
    assert all(wanted <= set(required) for required in found["headers"].values())
    assert "ce-sequence" in found["headers"]["dev.ocf.task.output.v1"]
    assert found["servers"] == {"nats": 1, "websocket": 2}
