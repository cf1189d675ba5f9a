"""The command line: what a terminal is given, and what is asked of the gateway."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from functions.cli import dlq
from functions.cli.common import printable
from functions.cli.render import View, attempts, ending

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


def test_every_attempt_is_shown() -> None:
    """When it began, how long it took, how it ended, on which worker; the one that runs says so."""
    begun = {"worker": "w-1", "started_at": "2026-01-01T10:00:00Z"}
    first = {**begun, "number": 1, "ended_at": "2026-01-01T10:00:12.500Z", "ended": "worker_lost"}
    one, two = attempts([first, {**begun, "number": 2, "worker": "w-2", "ended_at": None, "ended": None}])
    for part in ("attempt 1", "2026-01-01 10:00:00", "12.5 s", "worker_lost", "w-1"):
        assert part in one
    assert "running" in two
    assert "w-2" in two


class Page:
    """A gateway with two pages of dead letters."""

    async def call(self, method: str, path: str, **query: Any) -> dict[str, Any]:
        letter = {"consumer": "submit", "subject": "ocf.cmd.x", "failed_at": "2026-01-01T10:00:00Z", "reason": "r"}
        items = [{**letter, "seq": seq} for seq in (1, 2, 3) if seq > query["after"]]
        return {"items": items[: query["limit"]], "next": items[query["limit"] - 1]["seq"] if len(items) > 2 else None}


def test_dead_letters_are_listed_page_by_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page names the next one, and `--after` gives it."""
    import asyncio

    monkeypatch.setattr(dlq, "with_gateway", lambda work, *_: asyncio.run(work(Page())))
    dlq.list_(limit=2, project="default", data_dir=None, json_output=False, after=0)
    assert "ocf dlq list --after 2" in capsys.readouterr().out
    dlq.list_(limit=2, project="default", data_dir=None, json_output=False, after=2)
    said = capsys.readouterr().out
    assert said.startswith("3 ")
    assert "--after" not in said
