"""The command line: what a terminal is given, and what is asked of the gateway."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from ocf.cli import standard_streams
from ocf.cli.app import app
from ocf.cli.common import plain, printable
from ocf.cli.render import FOLD_ITEMS, View, attempts, ending, task_list
from ocf.events.client.gateway import Address

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        (f"a{CLIPBOARD}b", "ab"),
        ("\x1b]0;a title\x1b\\b", "b"),
        ("\x1b]52;c;never ended", ""),
        ("\x1b[2J\x1b[1;1Hat the top", "at the top"),
        ("\x1b[?1049h\x1bc\x1b(0\x1bPq#0\x1b\\x", "x"),
        ("\x1b]0;\x1b]52;c;x\x07y", "y"),
        ("a\rb\x08\x07\x9b2Jc\x7f\x00", "ab2Jc"),
        ("tab\tline\nend\x1b", "tab\tline\nend"),
        ("Grüße 🚀", "Grüße 🚀"),
        ("a\u202egpj.exe\u2066", "agpj.exe"),
    ],
)
def test_a_terminal_gets_colours_and_nothing_else_to_obey(said: str, shown: str) -> None:
    """Clipboard, title, cursor, screen, character sets, cut off sequences: gone. Text and colours stay."""
    assert printable(said) == shown


def test_output_of_an_agent_does_not_reach_the_clipboard() -> None:
    """Whichever field it is in, and cut into chunks in its middle."""
    terminal = io.StringIO()
    chunks: list[dict[str, Any]] = [
        {"type": "text", "data": "a\x1b]52;c;"},
        {"type": "text", "data": "ZXZpbA==\x07b\n"},
        {"type": "tool_call", "detail": {"tool": f"ba{CLIPBOARD}sh", "title": f"t{CLIPBOARD}"}},
        {"type": "tool_result", "data": f"r{CLIPBOARD}", "detail": {"ok": True}},
        {"type": "file_change", "detail": {"path": f"p{CLIPBOARD}", "change": "added"}},
        {"type": "todo", "detail": {"items": [{"content": f"i{CLIPBOARD}", "status": "in_progress"}]}},
        {"type": "permission", "detail": {"title": CLIPBOARD, "request_id": CLIPBOARD, "options": [CLIPBOARD]}},
        {"type": "status", "data": CLIPBOARD},
    ]
    screen = Console(file=terminal, force_terminal=True, width=100)
    with View(screen) as view:
        view.model = CLIPBOARD
        for chunk in chunks:
            view.show(chunk)
    screen.print(ending({"status": "failed", "message": f"m{CLIPBOARD}", "model": CLIPBOARD}))
    assert "\x1b]52" not in terminal.getvalue()
    assert "\x07" not in terminal.getvalue()


#: Texts that are markup once a control character is gone, or beside another text.
MARKUP = [
    *(f"[{control}/x][{control}red]" for control in ("", "\x7f", "\x00", "\r", "\x1b(B", "\u202e", "\x1b]0;t\x07")),
    *("[/", "/x]", "[red", "x]", "[", "a\\", "\\[0-9\\]", ":bug:"),
]


@pytest.mark.parametrize("foreign", MARKUP, ids=repr)
def test_markup_in_foreign_text_is_text(foreign: str) -> None:
    """In every chunk and in the lines at the end it is shown as it is, neither obeyed nor an error."""
    terminal = io.StringIO()
    detail: dict[str, Any] = dict.fromkeys(
        ("tool", "title", "path", "request_id", "exit_code", "additions", "deletions"), foreign
    )
    detail |= {"options": [foreign], "items": [{"content": foreign, "status": "pending"}]}
    kinds = "text reasoning stdout stderr tool_call tool_result file_change status todo permission question gap new"
    screen = Console(file=terminal, force_terminal=True, color_system=None, width=300)
    with View(screen) as view:
        for kind in kinds.split():
            view.show({"type": kind, "data": foreign, "detail": detail})
            view.show({"type": kind, "data": foreign})
    status: dict[str, Any] = {"status": "failed", "artifacts": "lost", "output": [foreign]}
    status |= dict.fromkeys(("reason", "message", "artifacts_message", "model"), foreign)
    status |= {"errors": [{"field": foreign, "message": foreign}], "diff": {"files": 1} | detail}
    status["rerun"] = {"of": foreign, "divergences": [{"call": 1, "part": foreign, "text": foreign}]}
    begun = {"number": 1, "worker": foreign, "started_at": "2026-01-01T10:00:00Z", "ended": foreign}
    for line in (ending(status), *attempts([begun])):
        screen.print(line, emoji=False)
    screen.print(
        task_list([{"submitted_at": begun["started_at"], "title": foreign} | status | {"execution_id": ID}], 300)
    )
    shown = printable(terminal.getvalue())
    assert shown.count(printable(foreign)) >= 30


@pytest.mark.parametrize("second", MARKUP, ids=repr)
def test_texts_beside_each_other_are_no_markup(second: str) -> None:
    """A bracket that one leaves open, another may close."""
    for first in MARKUP:
        shown = Text.from_markup(f"[bold]{plain(first)}[/]{plain(second)}[dim]{plain(first)}[/]", emoji=False)
        assert [str(span.style) for span in shown.spans] == ["bold", "dim"]
        joined = Text.from_markup(f"[bold]{plain(first)}{plain(second)}[/]", emoji=False)
        assert [str(span.style) for span in joined.spans] == ["bold"]
        for found, texts in ((shown, (first, second, first)), (joined, (first, second))):
            # Backslashes at the end of a value are doubled where no tag follows.
            assert found.plain.replace("\\", "") == printable("".join(texts)).replace("\\", "")


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A terminal five hours behind UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_times_are_those_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every list, and the lines of an execution, show times in the terminal's time zone."""
    at = "2026-01-02T03:04:05.678Z"
    answers: dict[str, Any] = {
        f"/tasks/{ID}/status": {
            "execution_id": ID, "project_id": "p", "status": "failed", "submitted_at": at, "started_at": at,
            "attempts": [{"number": 1, "worker": "w", "started_at": at, "ended_at": at, "ended": "failed"}],
        },
        "/tasks": {"items": [{"execution_id": ID, "status": "failed", "submitted_at": at}], "next": None},
        "/sessions": {"items": [{"session_id": ID, "state": "open", "created_at": at}], "next": None},
        f"/sessions/{ID}": {"session_id": ID, "from_execution_id": None, "created_at": at, "labels": {"a": "b"}},
        "/dlq": {"items": [{"seq": 1, "consumer": "c", "subject": "s", "failed_at": at, "reason": "r"}], "next": None},
        "/triggers": {"triggers": [{"name": "r", "on": {}, "matched": 1, "last_event": {"id": "e", "time": at}}]},
        "/hooks": {"hooks": [{"source": "s", "secrets": [{"created_at": at, "expires_at": at}]}]},
        "/schedules": {
            "schedules": [{"name": "n", "cron": "c", "timezone": "UTC", "paused": False, "next": at, "last": None}]
        },
    }  # fmt: skip

    class Answers:
        address = Address("http://h")

        async def call(self, method: str, path: str, **_: Any) -> Any:
            return answers[path]

    monkeypatch.setattr("ocf.cli.verb.connected", lambda work, *_: asyncio.run(work(Answers())))
    shown = CliRunner().invoke(app, ["session", "show", ID]).stdout
    assert shown.splitlines()[1:] == [
        "from_execution_id -",
        "created_at        2026-01-01 22:04:05",
        'labels            {"a": "b"}',
    ]
    lists = (["list"], ["hook", "list", "p"], *([what, "list"] for what in ("session", "dlq", "trigger", "schedule")))
    for verb in (["status", ID], *lists):
        done = CliRunner().invoke(app, verb, env={"COLUMNS": "120"})
        assert done.exit_code == 0, (verb, done.output)
        assert "2026-01-01 22:04" in done.stdout, (verb, done.stdout)
        assert "2026-01-02" not in done.stdout, (verb, done.stdout)


@pytest.mark.usefixtures("new_york")
def test_every_attempt_is_shown() -> None:
    """When it began, how long it took, how it ended, on which worker; the one that runs says so."""
    begun = {"worker": "w-1", "started_at": "2026-01-01T10:00:00Z"}
    first = {**begun, "number": 1, "ended_at": "2026-01-01T10:00:12.500Z", "ended": "worker_lost"}
    one, two = attempts([first, {**begun, "number": 2, "worker": "w-2", "ended_at": None, "ended": None}])
    for part in ("attempt 1", "2026-01-01 05:00:00", "12.5 s", "worker_lost", "w-1"):
        assert part in one
    assert "running" in two
    assert "w-2" in two


class Page:
    """A gateway with two pages of dead letters."""

    async def call(self, method: str, path: str, **query: Any) -> dict[str, Any]:
        letter = {"consumer": "submit", "subject": "ocf.cmd.x", "failed_at": "2026-01-01T10:00:00Z", "reason": "r"}
        items = [{**letter, "seq": seq} for seq in (1, 2, 3) if seq > query["after"]]
        return {"items": items[: query["limit"]], "next": items[query["limit"] - 1]["seq"] if len(items) > 2 else None}


def test_dead_letters_are_listed_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page names the next one, and `--after` gives it."""
    monkeypatch.setattr("ocf.cli.verb.connected", lambda work, *_: asyncio.run(work(Page())))
    assert "ocf dlq list --after 2" in CliRunner().invoke(app, ["dlq", "list", "--limit", "2"]).stdout
    said = CliRunner().invoke(app, ["dlq", "list", "--limit", "2", "--after", "2"]).stdout
    assert said.startswith("3 ")
    assert "--after" not in said


ID = "0b5f2f0e-6a3b-4c1e-9d70-3a6f7b1c2d3e"
#: Every verb that calls a gateway.
VERBS = [
    ["run", "hello"],
    ["submit", "hello"],
    ["watch", ID],
    ["status", ID],
    ["list"],
    ["cancel", ID],
    ["delete", ID],
    ["reply", ID, "r", "once"],
    ["output", ID],
    ["diff", ID],
    ["diff", ID, "--json"],
    ["token", ID],
    ["replay", ID],
    ["session", "create"],
    ["session", "list"],
    ["session", "attach", ID, "--follow"],
    ["session", "destroy", ID],
    ["result", "push", ID],
    ["credential", "list"],
    ["credential", "delete", "bot"],
    ["dlq", "list"],
    ["dlq", "redrive", "1"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_without_a_stack_no_verb_acts_on_a_stranger(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data directory in which nothing runs is an error that names what would be right; nothing is connected to."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it must not ask anybody")

    monkeypatch.setattr("httpx2.AsyncClient.send", refuse)
    monkeypatch.setenv("OCF_GATEWAY", "http://127.0.0.1:3003")
    found = CliRunner().invoke(app, [*verb, "--data-dir", str(tmp_path / "x")])
    assert (found.exit_code, found.stderr.count("\n")) == (1, 1)
    for part in (f"no stack runs in {tmp_path}/x", f"ocf up --data-dir {tmp_path}/x", "--gateway", "OCF_GATEWAY"):
        assert part in found.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "+ x -> ... ?"), ("latin-1", "+ x -> ... ?"), ("utf-8", "✓ ✗ → … 🚀")]
)
def test_marks_have_stand_ins_where_the_encoding_has_none(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that is printed can raise."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    standard_streams.prepare()
    print("✓ ✗ → … 🚀 \ud83d", end="", flush=True)
    assert raw.getvalue().decode(encoding) == f"{shown} ?"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_list_shows_whole_ids_at_every_width(width: int) -> None:
    """An id that is cut cannot be typed; no line is wider than the screen."""
    terminal = io.StringIO()
    item = {"execution_id": ID, "status": "completed", "submitted_at": "2026-01-02T03:04:05Z", "title": "t" * 300}
    Console(file=terminal, force_terminal=True, color_system=None, width=width).print(task_list([item], width))
    assert ID in terminal.getvalue()
    assert "completed" in terminal.getvalue()
    assert max(map(len, terminal.getvalue().splitlines())) <= width


def test_long_plans_and_lines_are_folded() -> None:
    """100,000 items are 50 and how many more; a line of a tool is one line of the screen."""
    terminal = io.StringIO()
    items = [{"content": f"item {number}", "status": "pending"} for number in range(100_000)]
    with View(Console(file=terminal, force_terminal=True, color_system=None, width=40)) as view:
        view.show({"type": "todo", "detail": {"items": items}})
        view.show({"type": "tool_call", "detail": {"tool": "bash", "title": "x" * 5_000_000}})
        for _ in range(100):
            view.show({"type": "text", "data": "y" * 1_000})
    said = printable(terminal.getvalue())
    assert f"… {100_000 - FOLD_ITEMS:,}".replace(",", "") in said
    assert said.count("item ") == FOLD_ITEMS
    assert (said.count("x") < 50, said.count("y") >= 100_000) == (True, True)


def test_the_bottom_line_does_not_claim_a_state_while_disconnected() -> None:
    """The execution may have ended since; the last known state is named as that."""
    terminal, lost = io.StringIO(), [False]
    with View(Console(file=terminal, force_terminal=True, color_system=None, width=80), lambda: lost[0]) as view:
        view.show({"type": "status", "data": "started", "detail": {"state": "running"}})
        lost[0] = True
    assert "disconnected, last known: running" in printable(terminal.getvalue())


@pytest.mark.parametrize(("artifacts", "shown"), [("lost", True), ("pending", True), ("stored", False), (None, False)])
def test_status_names_the_state_of_the_workspace(artifacts: str | None, shown: bool) -> None:
    """`ocf run` and `ocf status` say why a workspace is not, or not yet, in S3."""
    said = ending({"status": "completed", "artifacts": artifacts, "artifacts_message": "S3 [did] not take it"})
    assert ("S3 \\[did] not take it" in said) is shown


def test_a_list_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are shown, and that there are more, with the option that shows them."""
    item = {"status": "failed", "submitted_at": "2026-01-02T03:04:05.678Z"}

    class Answers:
        address = Address("http://h")

        async def call(self, method: str, path: str, *, limit: int, **_: Any) -> Any:
            return {
                "items": [{**item, "execution_id": f"{number}{ID[1:]}"} for number in range(2)][:limit],
                "next": None,
            }

    monkeypatch.setattr("ocf.cli.verb.connected", lambda work, *_: asyncio.run(work(Answers())))
    assert CliRunner().invoke(app, ["list", "-n", "1"]).stdout.splitlines()[-1] == "there are more: add --limit 2"
    assert "there are more" not in CliRunner().invoke(app, ["list", "-n", "2"]).stdout
