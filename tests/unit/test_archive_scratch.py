"""The archive's scratch folders: gone at the end, and what a killed process left is gone at the next start."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from ocf.functions.archive.scratch_folders import scratch, sweep


def test_only_what_nobody_holds_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in use stays, a killed process's goes, and nobody else's files are touched."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "ocf-archive-left"
    left.mkdir()
    (left / "output.ndjson.gz").write_bytes(b"half")
    other = tmp_path / "somebody-elses"
    other.mkdir()
    with scratch() as folder:
        (folder / "mine").write_bytes(b"")
        assert sweep() == 1
        assert (folder / "mine").exists()
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["somebody-elses"]
