"""What the embedded stack tells its functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocf.stack.keys import load_or_generate
from ocf.stack.process_specs import PORTS, Layout, Plan, environment


def _plan(data: Path, **environ: str) -> Plan:
    return Plan(Layout(data), load_or_generate(data), dict.fromkeys(PORTS, 4000), environ, "ocf")


def test_the_user_of_the_machine_may_name_own_directories(tmp_path: Path) -> None:
    """Without tokens there is one user: working directory, home and temporary files; never the stack's own data."""
    made = environment(_plan(tmp_path))
    assert str(Path.home()) in made["WORKSPACE_SOURCES"].split(",")
    assert made["PRIVATE_DIRS"] == str(tmp_path)


@pytest.mark.parametrize("name", ["GATEWAY_JWT_SECRET", "GATEWAY_JWKS_URL"])
def test_tenants_read_nothing_of_the_machine(tmp_path: Path, name: str) -> None:
    """Callers with tokens may name only what the operator lists."""
    assert environment(_plan(tmp_path, **{name: "x"}))["WORKSPACE_SOURCES"] == ""
    listed = environment(_plan(tmp_path, **{name: "x", "WORKSPACE_SOURCES": "/srv/sources"}))
    assert listed["WORKSPACE_SOURCES"] == "/srv/sources"
