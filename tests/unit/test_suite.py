"""`ocf suite run`: what is asked of the gateway, and what its answers become."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import junitparser
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from ocf.cli import render, suite
from ocf.cli.app import app
from ocf.cli.suite import Row, as_junit
from ocf.cli.suite_file import InvalidSuite, read
from ocf.events.client.gateway_retry import CallFailed

ID = "0b9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a1"
SIDE: dict[str, Any] = {"missing": [], "calls": "x"}
AGAIN = {"status": "completed", "result": "done", "rerun": {"divergences": []}}


class Gateway:
    """Reruns of the originals `ID0` to `ID9`, whose ids end in `b`; `reruns` says how each went."""

    def __init__(self) -> None:
        self.reruns: dict[str, dict[str, Any]] = {}
        self.differs: dict[str, list[str]] = {}
        self.missing: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.uploaded: list[str] = []
        self.most = self.open = 0
        self.address = SimpleNamespace(project="default")

    async def call(self, method: str, path: str, *, body: Any = None, **query: Any) -> dict[str, Any]:
        if path == "/models":
            return {"models": [], "agent_version": "1.18.33"}
        number = path.split("/")[2][-1]
        if path.endswith("/rerun"):
            if number == "9":
                raise CallFailed("no \x1b]0;x\x07recording", 409)
            self.bodies.append(body)
            self.open += 1
            self.most = max(self.most, self.open)
            return {"execution_id": f"{number}b"}
        differs = self.differs.get(number, [])
        calls = "y" if "calls" in differs else "x"
        return {"differs": differs, "a": {"missing": self.missing, "calls": calls}, "b": SIDE}

    async def upload(self, path: str, file: Path, media_type: str) -> dict[str, Any]:
        self.uploaded.append(file.name)
        return {"execution_id": f"{ID}5"}

    async def watch(self, execution: str) -> AsyncIterator[dict[str, Any]]:
        for _ in range(3):
            await asyncio.sleep(0)
        self.open -= 1
        yield {"type": "end"}

    async def lasting(self, path: str) -> dict[str, Any]:
        rerun = path.split("/")[2]
        return {**AGAIN, **(self.reruns.get(rerun[0], {}) if rerun.endswith("b") else {})}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.delenv("PROJECT_ID", raising=False)
    found = Gateway()

    def connected(work: Any, *_: object) -> None:
        raise typer.Exit(asyncio.run(work(found)))

    monkeypatch.setattr("ocf.cli.verb.connected", connected)
    return found


def run(tmp_path: Path, text: str, *words: str) -> Result:
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    return CliRunner().invoke(app, ["suite", "run", str(file), *words])


def results(found: Result) -> list[tuple[str, int | None, str]]:
    return [(row["result"], row["call"], row["message"]) for row in json.loads(found.stdout)["executions"]]


def of(*numbers: int) -> str:
    return "executions:\n" + "".join(f"- {{name: n{number}, execution: {ID}{number}}}\n" for number in numbers)


def test_each_result_and_the_exit_status(gateway: Gateway, tmp_path: Path) -> None:
    """The same; stopped at a call; another patch; another end; a lost worker; no recording: none stops another."""
    found = {"divergences": [{"call": 7, "part": "message 9"}], "more": 2}
    gateway.reruns["2"] = {"status": "failed", "reason": "diverged", "rerun": found}
    gateway.differs["3"] = ["output", "files"]
    gateway.reruns["4"] = {"result": "not done"}
    gateway.reruns["6"] = {"status": "failed", "reason": "worker_lost", "message": "gone"}
    done = run(tmp_path, of(1, 2, 3, 4, 6, 9), "--json")
    assert done.exit_code == 1
    assert results(done) == [
        ("same", None, ""),
        ("diverged", 7, "3 requests differ, first in call 7"),
        ("other result", None, "not the same: diff"),
        ("other result", None, "not the same: result"),
        ("failed", None, "was completed, is failed worker_lost gone"),
        ("failed", None, "no \x1b]0;x\x07recording"),
    ]
    done = run(tmp_path, of(1), "--json")
    assert (done.exit_code, json.loads(done.stdout)["same"]) == (0, True)


def test_results_are_printed_where_the_junit_file_cannot_be_written(gateway: Gateway, tmp_path: Path) -> None:
    """A folder that does not exist is an error before anything runs."""
    done = run(tmp_path, of(1), "--json", "--junit", str(tmp_path))
    assert (done.exit_code, json.loads(done.stdout)["same"]) == (1, True)
    assert "cannot be written: Is a directory" in done.stderr
    done = run(tmp_path, of(1), "--json", "--junit", str(tmp_path / "none/junit.xml"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "does not exist" in done.stderr


def test_only_what_the_suite_names_must_be_the_same(gateway: Gateway, tmp_path: Path) -> None:
    """`calls` of an entry; with `nearest` a difference that changes nothing is told and is no failure."""
    gateway.differs.update({number: ["tool_calls", "calls"] for number in "123"})
    gateway.reruns["3"] = {"rerun": {"divergences": [{"call": 2, "part": "tools"}]}}
    text = (
        f"on_divergence: nearest\nexecutions:\n- {{name: a, execution: {ID}1}}\n"
        f"- {{name: b, execution: {ID}2, same: [calls], on_divergence: fail}}\n- {{name: c, execution: {ID}3}}\n"
    )
    done = run(tmp_path, text, "--json", "--model", "anthropic/claude-x")
    told = "1 requests differ, first in call 2"
    assert results(done) == [("same", None, ""), ("other result", None, "not the same: calls"), ("same", 2, told)]
    model = {"model_config": {"provider": "anthropic", "model": "claude-x"}}
    assert gateway.bodies == [{**model, "on_divergence": what} for what in ("nearest", "fail", "nearest")]


def test_what_cannot_be_compared_is_not_the_same(gateway: Gateway, tmp_path: Path) -> None:
    """An archive without its patch."""
    gateway.missing = ["the patch"]
    assert results(run(tmp_path, of(1), "--json")) == [("failed", None, "not compared: the patch")]


def test_no_more_reruns_than_the_limit_are_open(gateway: Gateway, tmp_path: Path) -> None:
    """Three of eight at a time; rows are in the order of the file."""
    done = run(tmp_path, of(*range(1, 9)), "--json", "--parallel", "3")
    assert gateway.most == 3
    assert [row["name"] for row in json.loads(done.stdout)["executions"]] == [f"n{number}" for number in range(1, 9)]


def test_a_bundle_is_imported_if_it_is_the_one(gateway: Gateway, tmp_path: Path) -> None:
    """Its path begins at the suite; another SHA-256 is not sent, and the others run."""
    (tmp_path / "a.ocf.tar").write_bytes(b"bundle")
    digest = hashlib.sha256(b"bundle").hexdigest()
    entries = [("a", digest, "a"), ("b", "0" * 64, "a"), ("c", digest, "missing")]
    text = "".join(f"- {{name: {name}, bundle: {file}.ocf.tar, sha256: '{sha}'}}\n" for name, sha, file in entries)
    rows = results(run(tmp_path, f"executions:\n{text}", "--json"))
    assert [row[0] for row in rows] == ["same", "failed", "failed"]
    assert rows[1][2].startswith("sha256: ")
    assert digest in rows[1][2]
    assert rows[2][2].startswith("bundle: ")
    assert gateway.uploaded == ["a.ocf.tar"]


def test_another_agent_version_is_refused_by_name(gateway: Gateway, tmp_path: Path) -> None:
    """Before anything runs; the one that the stack has is taken."""
    done = run(tmp_path, of(1), "--agent-version", "1.19.0")
    assert (done.exit_code, gateway.bodies) == (1, [])
    assert done.stderr == "ocf: --agent-version: the stack has OpenCode 1.18.33, not 1.19.0\n"
    assert run(tmp_path, of(1), "--agent-version", "1.18.33").exit_code == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a YAML object with `executions`"),
        ("[1]", "must be a YAML object with `executions`"),
        ("a: [", "no YAML: "),
        ("executions: []", "executions: List should have at least 1 item"),
        ("executions: [{name: a}]", "executions.0: needs either `execution` (an id) or `bundle`"),
        ("executions: [{name: a, bundle: b}]", "executions.0: `sha256` belongs to `bundle`"),
        ("executions: [{name: a, execution: 3f2a}]", "executions.0.execution: String should match"),
        (f"{of(1)}\nsame: [files]", "same.0: Input should be 'diff', 'result' or 'calls'"),
        (f"{of(1)}\non_divergence: live", "on_divergence: Input should be 'fail' or 'nearest'"),
        (f"{of(1)}\nsmae: [diff]", "smae: Extra inputs are not permitted"),
        (of(1, 1), "the name 'n1' is there twice"),
        ("#" * (1 << 20) + "\n", "a suite has at most 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(tmp_path: Path, text: str, problem: str) -> None:
    """In one line, before anything is asked of a gateway."""
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSuite) as refused:
        read(file)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


ROWS = [
    Row("the build that loops", "same", execution_id=f"{ID}1", rerun_of=f"{ID}2", seconds=2.5),
    Row("b <&\x1b]0;x\x07", "diverged", 12, 1, "1 requests differ, first in call 12\x00\x1b[0m", f"{ID}1", f"{ID}2"),
    Row("c", "other result", message="not the same: diff", execution_id=f"{ID}1", rerun_of=f"{ID}2"),
    Row("d", message="no recording"),
]


def test_junit_is_read_by_a_parser_of_junit(tmp_path: Path) -> None:
    """junitparser finds the cases, failures and errors that its own count has too; nothing of a terminal is in it."""
    path = tmp_path / "junit.xml"
    path.write_bytes(as_junit("suite.yaml", ROWS))
    (found,) = list(junitparser.JUnitXml.fromfile(str(path)))
    stated = (found.name, found.tests, found.failures, found.errors, found.time)
    assert stated == ("suite.yaml", 4, 2, 1, 2.5)
    cases = list(found)
    assert [case.name for case in cases] == ["the build that loops", "b <&", "c", "d"]
    kinds = [[type(one) for one in case.result] for case in cases]
    assert kinds == [[], [junitparser.Failure], [junitparser.Failure], [junitparser.Error]]
    assert cases[1].result[0].message == "diverged at call 12: 1 requests differ, first in call 12[0m"
    found.update_statistics()
    assert (found.tests, found.failures, found.errors) == stated[1:4]


def test_terminal_codes_of_a_recording_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the table of a suite nor at the end of a rerun, which quotes the difference."""
    screen = io.StringIO()
    monkeypatch.setattr(suite, "console", lambda: Console(file=screen, width=120))
    suite._print(ROWS)
    differs = {"call": 1, "part": "message 2\x1b[2J", "text": "was \x1b]0;evil\x07, is \x9b31m"}
    status = {"status": "completed", "rerun": {"of": f"{ID}1\x1b", "calls": 1, "divergences": [differs]}}
    said = re.sub("\x1b\\[[0-9;:]*m", "", screen.getvalue() + render.ending(status))  # colours may be
    assert "message 2" in said
    assert not {"\x1b", "\x07", "\x9b"} & set(said)


@pytest.mark.parametrize("width", [80, 40])
def test_the_table_fits_the_screen(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Each name, and each result whole."""
    screen = io.StringIO()
    monkeypatch.setattr(suite, "console", lambda: Console(file=screen, width=width))
    suite._print(ROWS)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for part in ("the build that loops", "diverged at call 12", "other result", "failed", "1 of 4 are the same"):
        assert part in screen.getvalue()
