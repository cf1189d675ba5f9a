"""The suite that the pinned OpenCode is held to was recorded with it."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from ocf.cli.suite_file import Suite, read
from ocf.functions.models import catalog
from ocf.functions.recording import recorded_calls_reader
from ocf.functions.recording.line_types import NAME
from tests.support.offline import ROOT

FILE = ROOT / "tests/suite/opencode.suite.yaml"


@pytest.fixture(scope="module")
def suite() -> Suite:
    return read(FILE)


def test_the_suite_was_recorded_with_the_opencode_that_is_pinned(suite: Suite) -> None:
    """Another pin: run it with the new version, explain each difference in CHANGELOG.md, record it again."""
    for entry in suite.executions:
        bundle = (FILE.parent / str(entry.bundle)).read_bytes()
        assert hashlib.sha256(bundle).hexdigest() == entry.sha256, entry.name
        with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
            file = tar.extractfile(NAME)
            assert file is not None
            recording = recorded_calls_reader.read(io.BytesIO(file.read()))
        wanted = f"opencode {catalog.opencode_version()}"
        assert recording.head.agent == wanted, f"{entry.name}: see CONTRIBUTING.md, 'Another OpenCode'"


def test_the_suite_ends_at_the_first_difference(suite: Suite) -> None:
    """A request that is not as recorded is never passed over, and patch, result and calls are compared."""
    assert {entry.on_divergence or suite.on_divergence for entry in suite.executions} == {"fail"}
    assert suite.same == ["diff", "result", "calls"]
    assert len(suite.executions) == 4
