"""The pinned OpenCode knows every switch that the product sets: a switch it has dropped would be ignored silently."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from ocf.functions.execute.agent import config
from tests.support.agents import server_spec
from tests.support.offline import OPENCODE

#: OpenCode's own, and those that its runtime reads.
_PREFIXES = ("OPENCODE_", "BUN_JSC_")


def test_pinned_opencode_knows_each_switch(tmp_path: Path) -> None:
    """Each variable that is set for OpenCode or for the engine below it occurs in the program."""
    if not OPENCODE.exists():
        pytest.fail("OpenCode is not installed: make install")
    names = [name for name in config.environment(server_spec(tmp_path), "pw") if name.startswith(_PREFIXES)]
    assert "OPENCODE_DISABLE_FFF" in names
    with OPENCODE.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as program:
        unknown = [name for name in names if program.find(name.removeprefix("BUN_JSC_").encode()) < 0]
    assert unknown == []
