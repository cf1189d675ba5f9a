"""A running shell's output arrives as a window on its last 30,000 characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocf.events.output import ChunkType, Draft
from ocf.functions.execute.agent.tool_parts import ToolPart, feed_tool, file_changes

WINDOW = 30_000


def shell(output: str, status: str = "running") -> dict[str, object]:
    shown = output if len(output) <= WINDOW else "...\n\n" + output[-WINDOW:]
    state: dict[str, object] = {"status": status, "input": {"command": "x"}, "metadata": {"output": shown, "exit": 0}}
    if status == "completed":
        state |= {"output": shown, "time": {"start": 1, "end": 2}}
    return {"id": "prt_1", "callID": "call_1", "tool": "bash", "state": state}


def stdout(drafts: list[Draft]) -> str:
    return "".join(draft.data for draft in drafts if draft.type is ChunkType.STDOUT)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=12))
def test_a_moving_window_loses_and_doubles_nothing(pieces: list[int]) -> None:
    """As long as less than a window is written between two looks, the pieces add up to the output."""
    known, output, drafts, line = ToolPart(), "", [], 0
    for count in pieces:
        output += "".join(f"{line + i}\n" for i in range(count))
        line += count
        drafts += feed_tool(known, shell(output), "/w")
    drafts += feed_tool(known, shell(output, "completed"), "/w")
    assert stdout(drafts) == output
    assert not [draft for draft in drafts if draft.type is ChunkType.GAP]


def test_output_faster_than_the_window_leaves_a_stated_gap() -> None:
    """What was never in a window is named as a gap, and the newest window follows."""
    known = ToolPart()
    first, second = "a" * 100, "".join(f"{i}\n" for i in range(20_000))
    feed_tool(known, shell(first), "/w")
    drafts = feed_tool(known, shell(first + second), "/w")
    assert [draft.type for draft in drafts] == [ChunkType.GAP, ChunkType.STDOUT]
    assert drafts[1].data == second[-WINDOW:]


def test_an_older_window_says_nothing() -> None:
    """A late update with less output is ignored."""
    known = ToolPart()
    feed_tool(known, shell("one\ntwo\n"), "/w")
    assert feed_tool(known, shell("one\n"), "/w") == []
    assert stdout(feed_tool(known, shell("one\ntwo\nthree\n"), "/w")) == "three\n"


def test_no_output_is_no_output() -> None:
    """OpenCode's own "(no output)" and its notes to the model are not the shell's."""
    known = ToolPart()
    drafts = feed_tool(known, shell("(no output)\n\n<shell_metadata>\ntimed out\n</shell_metadata>", "completed"), "/w")
    assert stdout(drafts) == ""


@pytest.mark.parametrize(
    ("tool", "call", "metadata", "expected"),
    [
        ("write", {"filePath": "a.py", "content": "1\n2"}, {"exists": False}, [("a.py", "added", 2)]),
        ("write", {"filePath": "/w/a.py", "content": "1"}, {"exists": True}, [("a.py", "modified", None)]),
        ("write", {"filePath": "/etc/x", "content": "1"}, {"exists": False}, []),
        (
            "edit",
            {"filePath": "a", "oldString": ""},
            {"filediff": {"file": "/w/a", "additions": 3}},
            [("a", "added", 3)],
        ),
        (
            "apply_patch",
            {},
            {
                "files": [
                    {"filePath": "/w/a", "type": "delete"},
                    {"filePath": "/w/b", "movePath": "/w/c", "type": "move"},
                ]
            },
            [("a", "deleted", None), ("b", "deleted", None), ("c", "added", None)],
        ),
        ("read", {"filePath": "a"}, {}, []),
    ],
)
def test_tools_that_write_name_what_they_changed(
    tool: str, call: dict[str, str], metadata: dict[str, object], expected: list[tuple[str, str, int | None]]
) -> None:
    """Paths are relative to the workspace; what is outside of it is not reported."""
    changes = file_changes(tool, call, metadata, "/w")
    assert [(change.path, change.change, change.additions) for change in changes] == expected


def test_a_window_that_opencode_never_sends_costs_no_more_than_one_of_its_own() -> None:
    """30 MB in one update: its end is said, behind a gap, and only that end is compared with what comes next."""
    shell = ToolPart()
    part = {"id": "prt_1", "callID": "c", "tool": "bash", "messageID": "m", "sessionID": "s"}
    running = {"status": "running", "input": {"command": "yes"}}
    for output in ("first", "ab" * 15_000_000, "ab" * 15_000_000 + "c"):
        drafts = feed_tool(shell, {**part, "state": {**running, "metadata": {"output": output}}}, "/w")
        assert len(shell.window) <= 65_536
    assert [d.data for d in drafts] == ["c"]
    done = {**running, "status": "completed", "output": "x", "metadata": {"output": "x", "exit": 0}}
    feed_tool(shell, {**part, "state": done}, "/w")
    assert shell.window == ""
