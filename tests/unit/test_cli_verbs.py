"""Verbs on their own: files that they read and write, readers that leave, settings that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ocf.cli import sessions, tasks
from ocf.cli.app import app
from ocf.events.client.gateway import Address

ID = "0b5f2f0e-6a3b-4c1e-9d70-3a6f7b1c2d3e"


class Gateway:
    """It keeps what it is sent; its downloads come in pieces that end within a character."""

    address = Address("http://h")

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def call(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        self.sent.append(body)
        return {"name": "stored"}

    async def lasting(self, _: str) -> Any:
        return {"executions": [ID]}

    async def download(self, _: str, **__: Any) -> AsyncIterator[bytes]:
        for byte in "label,runs\nä,1\n".encode():
            yield bytes([byte])


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """The gateway of every verb."""
    made = Gateway()
    monkeypatch.setattr("ocf.cli.verb.connected", lambda work, *_: asyncio.run(work(made)))
    return made


def ocf(*words: str, **environ: str) -> tuple[int, str]:
    """Exit status and all output of a verb."""
    found = CliRunner(env={"COLUMNS": "200", **environ}).invoke(app, list(words))
    return found.exit_code, found.output


def test_a_date_in_a_rule_is_its_text(gateway: Gateway, tmp_path: Path) -> None:
    """JSON has no dates, and a label is a text."""
    file = tmp_path / "rules.yaml"
    file.write_text("name: a\non: {type: x}\ntask: {prompt: p, labels: {since: 2026-01-01}}\n")
    assert ocf("trigger", "apply", "-f", str(file)) == (0, "a\n")
    assert gateway.sent == [
        {
            "project_id": "default",
            "name": "a",
            "on": {"type": "x"},
            "task": {"prompt": "p", "labels": {"since": "2026-01-01"}},
        }
    ]


@pytest.mark.parametrize("value", ["!!timestamp 2026-01-01", "!!binary aGk=", ".nan", "&a [*a]"])
def test_what_json_cannot_hold_is_an_error_before_the_first_rule_is_stored(
    value: str, gateway: Gateway, tmp_path: Path
) -> None:
    """It names file and rule."""
    file = tmp_path / "rules.yaml"
    file.write_text(f"name: a\n---\nname: b\nlabels: {{since: {value}}}\n")
    status, said = ocf("trigger", "apply", "-f", str(file))
    assert (status, said.startswith(f"ocf: {file}: rule b: "), said.count("\n")) == (1, True, 1)
    assert gateway.sent == []


@pytest.mark.usefixtures("gateway")
def test_usage_is_copied_byte_by_byte() -> None:
    """A piece of the network may end within a character."""
    assert ocf("usage", "--csv") == (0, "label,runs\nä,1\n")


@pytest.mark.usefixtures("gateway")
def test_an_export_leaves_the_unfinished_file_of_another_one(tmp_path: Path) -> None:
    """It says which file that is; without one it writes, and leaves nothing unfinished."""
    other = tmp_path / "x.tar.part"
    other.write_text("half")
    status, said = ocf("export", ID, "-o", str(tmp_path / "x.tar"))
    assert (status, said) == (1, f"ocf: {other} exists: another export writes it; if none does, remove it\n")
    assert other.read_text() == "half"
    assert ocf("export", ID, "-o", str(tmp_path / "y.tar"))[0] == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.tar.part", "y.tar"]
    assert "No such file" in ocf("export", ID, "-o", str(tmp_path / "none/x.tar"))[1]


async def test_a_watched_session_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    """`ocf session attach --follow | head` ends when `head` does."""

    async def closed(*_: object) -> int:
        return tasks.CLOSED_PIPE

    monkeypatch.setattr(sessions, "follow", closed)
    async with asyncio.timeout(10):
        assert await sessions._watch(gateway, ID, set(), json_output=False) == tasks.CLOSED_PIPE  # type: ignore[arg-type]


def test_a_wrong_variable_is_named_before_the_stack_is_detached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process in the background could only write it to its log."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it must start nothing")

    monkeypatch.setattr("subprocess.Popen", refuse)
    status, said = ocf("up", "--detach", "--data-dir", str(tmp_path / "x"), TASK_TIMEOUT="soon")
    assert (status, "bad environment: TASK_TIMEOUT: " in said) == (2, True)
