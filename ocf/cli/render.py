"""Terminal rendering of output: text as it arrives, tool calls folded, a status line at the bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ocf.cli.common import local_time, plain, printable

STYLES = {
    "pending": "yellow",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
    "timed_out": "red",
    "rejected": "red",
}
MARKS = {"completed": "✓", "failed": "✗", "cancelled": "■", "timed_out": "◷", "rejected": "✗"}
_CHANGES = {"added": ("+", "green"), "modified": ("~", "yellow"), "deleted": ("-", "red")}
_TODO = {"completed": "✓", "in_progress": "▸", "pending": "○", "cancelled": "✗"}
#: Lines of a tool's output that are shown; one more line counts the rest (`ocf output` has it all).
FOLD_LINES = 6
#: Items of a plan that are shown.
FOLD_ITEMS = 50
#: Characters of an unfinished line in the live part of the screen.
_TAIL = 2_000
#: Minimum columns for the last column of a table; an id alone has 36.
_LAST_COLUMN = 12
#: Minimum columns for times with year and seconds.
_WIDE = 100
#: Tools whose effect has a chunk of its own.
_SHOWN_OTHERWISE = ("todowrite", "todoread")


class View:
    """Prints chunks. In a terminal with a live bottom line; elsewhere plain lines only.

    Args:
        console: where to.
        disconnected: whether the connection is lost, so that the state is only the last known one.
    """

    def __init__(self, console: Console, disconnected: Callable[[], bool] = lambda: False) -> None:
        self._disconnected = disconnected
        self._console = console
        self._started = time.monotonic()
        self._partial: list[str] = []
        self._style = ""
        self._streamed: set[str] = set()  # tools whose output was already shown live
        self._usage: dict[str, Any] = {}
        self._todo: list[dict[str, Any]] = []
        self._state = "pending"
        self.model = ""
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(get_renderable=self._bottom, console=console, refresh_per_second=10, transient=True)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_line()
        if self._live.is_started:
            self._live.stop()

    def show(self, chunk: dict[str, Any]) -> None:
        """Print one chunk."""
        shown = getattr(self, f"_on_{chunk['type']}", self._on_other)
        shown(str(chunk.get("data") or ""), chunk.get("detail") or {})

    def _on_text(self, data: str, _: dict[str, Any]) -> None:
        self._stream(data, "")

    def _on_reasoning(self, data: str, _: dict[str, Any]) -> None:
        self._stream(data, "dim italic")

    def _on_stdout(self, data: str, detail: dict[str, Any]) -> None:
        self._streamed.add(str(detail.get("call_id")))
        self._stream(data, "dim")

    def _on_stderr(self, data: str, detail: dict[str, Any]) -> None:
        self._streamed.add(str(detail.get("call_id")))
        self._stream(data, "red dim")

    def _on_tool_call(self, data: str, detail: dict[str, Any]) -> None:
        if detail.get("tool") in _SHOWN_OTHERWISE:
            return
        text = detail.get("title") or _main_argument(detail.get("input") or {}) or data
        self._line(f"[bold cyan]●[/] [bold]{plain(detail.get('tool', 'tool'))}[/] {plain(self._short(str(text)))}")

    def _on_tool_result(self, data: str, detail: dict[str, Any]) -> None:
        if detail.get("tool") in _SHOWN_OTHERWISE:
            return
        lines = data.rstrip().splitlines()
        if str(detail.get("call_id")) not in self._streamed:
            for line in lines[:FOLD_LINES]:
                self._line(f"  [dim]{plain(self._short(line))}[/]")
            if len(lines) > FOLD_LINES:
                self._line(f"  [dim italic]… {len(lines) - FOLD_LINES} more lines[/]")
        mark = "[green]ok[/]" if detail.get("ok") else "[red]failed[/]"
        code = f" · exit {plain(detail['exit_code'])}" if detail.get("exit_code") else ""
        took = f" · {detail['duration_ms'] / 1000:.1f} s" if detail.get("duration_ms") else ""
        self._line(f"  [dim]⎿[/] {mark}[dim]{code}{took}[/]")

    def _on_file_change(self, data: str, detail: dict[str, Any]) -> None:
        mark, style = _CHANGES.get(str(detail.get("change")), ("~", "yellow"))
        counts = "".join(f" [{c}]{s}{plain(detail[k])}[/]" for k, s, c in _COUNTS if detail.get(k))
        self._line(f"[{style}]{mark}[/] {plain(detail.get('path') or data)}{counts}")

    def _on_status(self, data: str, detail: dict[str, Any]) -> None:
        self._state = detail.get("state") or self._state
        if data:
            self._line(f"[{STYLES.get(self._state, 'dim')}]·[/] [dim]{plain(data)}[/]")

    def _on_usage(self, _: str, detail: dict[str, Any]) -> None:
        self._usage = detail

    def _on_todo(self, _: str, detail: dict[str, Any]) -> None:
        self._todo = list(detail.get("items") or [])
        for item in self._todo[:FOLD_ITEMS]:
            self._line(f"  [dim]{_TODO.get(item['status'], '○')} {plain(self._short(item['content']))}[/]")
        if len(self._todo) > FOLD_ITEMS:
            self._line(f"  [dim italic]… {len(self._todo) - FOLD_ITEMS} more items[/]")

    def _on_permission(self, data: str, detail: dict[str, Any]) -> None:
        options = " | ".join(detail.get("options") or ["ANSWER"])
        self._line(f"[bold yellow]? {plain(detail.get('title') or data)}[/]")
        self._line(f"  [dim]answer with:[/] ocf reply ID {plain(detail.get('request_id'))} {plain(options)}")

    _on_question = _on_permission

    def _on_gap(self, data: str, _: dict[str, Any]) -> None:
        self._line(f"[red]… output is missing here: {plain(data)}[/]")

    def _on_other(self, data: str, _: dict[str, Any]) -> None:
        if data:
            self._line(plain(data))

    def _stream(self, data: str, style: str) -> None:
        if style != self._style:
            self._end_line()
            self._style = style
        first, *others = data.split("\n")
        self._partial.append(first)
        for line in others:
            self._print(Text(printable("".join(self._partial)), style=style))
            self._partial = [line]

    def _end_line(self) -> None:
        if partial := "".join(self._partial):
            self._print(Text(printable(partial), style=self._style))
        self._partial = []

    def _short(self, text: str) -> str:
        return _short(text, min(160, self._console.width - 4)) if self._console.is_terminal else _short(text)

    def _line(self, markup: str) -> None:
        self._end_line()
        self._print(markup)

    def _print(self, what: str | Text) -> None:
        # Without a terminal there is no width: lines stay whole.
        self._console.print(what, highlight=False, emoji=False, soft_wrap=not self._console.is_terminal)

    def _bottom(self) -> Group:
        state = f"disconnected, last known: {self._state}" if self._disconnected() else self._state
        parts = [state, f"{time.monotonic() - self._started:.0f} s", tokens(self._usage)]
        if self._todo:
            done = sum(item["status"] in ("completed", "cancelled") for item in self._todo)
            now = next((item["content"] for item in self._todo if item["status"] == "in_progress"), "")
            parts.append(f"{done}/{len(self._todo)} {now}".rstrip())
        if self.model:
            parts.append(self.model)
        text = printable(" · ".join(part for part in parts if part))
        self._spinner.update(text=Text(text, style="dim", overflow="ellipsis"))
        tail = "".join(self._partial)[-_TAIL:]
        partial = [Text(printable(tail), style=self._style)] if tail else []
        return Group(*partial, self._spinner)


_COUNTS = (("additions", "+", "green"), ("deletions", "−", "red"))


def tokens(usage: dict[str, Any]) -> str:
    """Return `3,120 tokens · $0.0123`, or "" before the first request."""
    total = sum(int(usage.get(f"{kind}_tokens") or 0) for kind in ("input", "output", "cache_read", "cache_write"))
    cost = float(usage.get("cost_usd") or 0)
    return f"{total:,} tokens" + (f" · ${cost:.4f}" if cost else "") if total else ""


def ending(status: dict[str, Any]) -> str:
    """Return the last lines of a run, as markup: its state, problems, and the JSON value asked for by a schema."""
    state = status["status"]
    style = STYLES.get(state, "")
    parts = [f"[bold {style}]{MARKS.get(state, '·')} {plain(state)}[/]"]
    if status.get("reason"):
        parts.append(f"[red]{plain(status['reason'])}[/]")
    if status.get("duration_ms") is not None:
        parts.append(f"{status['duration_ms'] / 1000:.1f} s")
    parts.append(tokens(status.get("usage") or {}))
    diff = status.get("diff") or {}
    if files := diff.get("files"):
        counts = f"[green]+{plain(diff['additions'])}[/] [red]−{plain(diff['deletions'])}[/]"
        parts.append(f"{plain(files)} file{'s' * (files != 1)} {counts}")
    if status.get("model"):
        parts.append(f"[dim]{plain(status['model'])}[/]")
    text = " · ".join(part for part in parts if part)
    problems = [str(status["message"])] if status.get("message") else []
    problems += [str(status["artifacts_message"])] if status.get("artifacts") in ("lost", "pending") else []
    problems += [f"{error['field']}: {error['message']}" for error in status.get("errors") or []]
    lines = [text, *(f"  {plain(problem)}" for problem in problems)]
    lines += [plain(line) for line in _rerun(status.get("rerun") or {})]
    if status.get("output") is not None:
        lines.append(plain(json.dumps(status["output"], indent=2, ensure_ascii=False)))
    return "\n".join(lines)


def _rerun(rerun: dict[str, Any]) -> list[str]:
    """Return how a rerun went: calls, and what differed from the recording."""
    if not rerun:
        return []
    found, live = rerun.get("divergences") or [], rerun.get("live_calls") or 0
    count = len(found) + (rerun.get("more") or 0)
    calls = f"{rerun.get('calls') or 0} recorded calls" + (f", {live} live ones" if live else "")
    lines = [f"  rerun of {rerun['of']}: {calls}, {count or 'no'} difference{'s' * (count != 1)}"]
    lines += [f"  call {one['call']}, {one['part']}: {one.get('text') or 'differs'}" for one in found[:10]]
    return lines


def attempts(tries: list[dict[str, Any]]) -> list[str]:
    """Return each attempt as a line of markup: start, duration, end, worker."""
    lines = []
    for one in tries:
        begun, ended = datetime.fromisoformat(one["started_at"]), one.get("ended_at")
        took = f"{(datetime.fromisoformat(ended) - begun).total_seconds():.1f} s" if ended else "running"
        how = str(one.get("ended") or "")
        text = [local_time(one["started_at"]), took, f"[{STYLES.get(how, 'yellow')}]{plain(how)}[/]" if how else ""]
        text.append(f"[dim]on {plain(one['worker'])}[/]")
        lines.append(f"[dim]attempt {one['number']:<6}[/] " + " · ".join(part for part in text if part))
    return lines


def task_list(items: list[dict[str, Any]], width: int) -> Table:
    """Return executions, newest first. Ids stay whole."""
    rows = []
    for item in items:
        state, style = item["status"], STYLES.get(item["status"], "")
        took = f"{item['duration_ms'] / 1000:.1f} s" if item.get("duration_ms") is not None else ""
        submitted = time_cell(item["submitted_at"], width)
        title = plain(" ".join(printable(item.get("title") or "").split()))
        mark = f"[{style}]{MARKS.get(state, '·')}[/]"
        rows.append((mark, plain(item["execution_id"]), f"[{style}]{plain(state)}[/]", submitted, took, title))
    return listing(("ID", "status", "submitted", "took", "title"), rows, width)


def time_cell(text: str, width: int) -> str:
    """Return a time for a column of a list; without year and seconds on a narrow screen."""
    return local_time(text)[slice(19) if width >= _WIDE else slice(5, 16)]


def listing(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Return rows of markup as a table, or as two lines each where that is too wide: the first column stays whole.

    Args:
        heads: Names of the columns.
        rows: A mark, then a cell for each column; the last one is cut to the screen.
        width: Columns of the screen.
    """
    sizes = [max(cell_len(_text(row[at]).plain) for row in rows) for at in range(1, len(heads))]
    sizes = [max(size, len(head)) for size, head in zip(sizes, heads, strict=False)]
    left = width - 1 - sum(sizes) - 2 * len(heads)
    wide = left >= _LAST_COLUMN
    table = Table(box=None, pad_edge=False, header_style="bold dim", show_header=wide)
    if wide:
        table.add_column()
        for head, size in zip(heads, [*sizes, 0], strict=True):
            # Rich shrinks all columns when they are too wide; only the last one may be cut.
            table.add_column(head, no_wrap=True, overflow="ellipsis", min_width=size or None)
        for row in rows:
            table.add_row(*map(_text, row[:-1]), _cut(row[-1], left))
        return table
    table.padding = (0, 1, 0, 0)
    table.add_column()
    table.add_column(no_wrap=True, overflow="ellipsis")
    for mark, first, *rest in rows:
        table.add_row(_text(mark), _text(first))
        table.add_row("", _cut(" ".join(cell for cell in rest if cell), width - 2))
    return table


def _text(markup: str) -> Text:
    return Text.from_markup(markup, emoji=False)


def _cut(markup: str, width: int) -> Text:
    text = _text(markup)
    text.truncate(max(width, 1), overflow="ellipsis")
    return text


def _main_argument(input_: dict[str, Any]) -> str:
    """Return the most informative part of a tool's input."""
    for name in ("command", "filePath", "file_path", "path", "pattern", "url", "description"):
        if input_.get(name):
            return str(input_[name])
    return ""


def _short(text: str, width: int = 160) -> str:
    line = " ".join(text.split()) if "\n" in text else text
    return line if len(line) <= width else line[: width - 1] + "…"
