"""Two executions compared: by their steps and patches, over REST, and on a screen."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ocf.cli.compare import lines
from ocf.events.lifecycle import State
from ocf.events.output import Usage
from ocf.functions.core import execution_comparison
from ocf.functions.core.execution_comparison import StepDifference, Steps, compare_patches, compare_steps
from tests.support.gateway import DAMAGED, ID, OTHER, World
from tests.support.gateway import chunk as text_chunk

Chunks = list[dict[str, Any]]
SLOT = "/data/one/slots/" + "a" * 32 + "/workspace"


def chunk(type_: str, data: str = "", **detail: Any) -> dict[str, Any]:
    return {"seq": 1, "type": type_, "data": data, "detail": detail}


async def outputs(chunks: Chunks) -> AsyncIterator[bytes]:
    for number, one in enumerate(chunks, 1):
        yield json.dumps({**one, "seq": number}).encode()


async def compared(a: Chunks, b: Chunks) -> StepDifference:
    return await compare_steps(Steps(outputs(a)), Steps(outputs(b)))


async def test_what_is_chance_makes_no_difference() -> None:
    """Chunks, ids, costs, folders, phases, and when a tool's output arrived."""
    a = [
        chunk("status", "getting ready", phase="agent"),
        *(chunk("text", "he"), chunk("usage"), chunk("text", "llo")),
        chunk("tool_call", "x", tool="bash", input={"command": f"ls {SLOT}"}),
        *(chunk("stdout", "f", call_id="c1"), chunk("tool_result", f"{SLOT}/f", ok=True, exit_code=0)),
    ]
    b = [
        chunk("text", "hello"),
        chunk("tool_call", "y", tool="bash", input={"command": f"ls {SLOT.replace('one', 'other')}"}, call_id="c2"),
        chunk("tool_result", f"{SLOT.replace('one', 'other')}/f", ok=True, exit_code=0, duration_ms=5),
    ]
    found = await compared(a, b)
    assert (found.common, found.rows, found.differs) == (3, [], [])


async def test_where_two_executions_part_is_shown() -> None:
    """The first different steps stand beside each other, so do the same ones after them; differing parts are named."""
    a = [
        *(chunk("text", "look"), chunk("tool_result", "1 failed", ok=False, exit_code=1)),
        *(chunk("todo", items=[{"content": "fix", "status": "pending"}]), chunk("text", "end")),
    ]
    b = [chunk("text", "look"), chunk("tool_result", "2 passed", ok=True, exit_code=0), chunk("text", "end")]
    found = await compared(a, b)
    assert (found.common, found.differs) == (1, ["plan", "tool_calls"])
    shown = [(row.same, row.a and row.a.text, row.b and row.b.text) for row in found.rows]
    assert shown == [
        (True, "look", "look"),
        (False, "failed exit 1\n1 failed", "ok exit 0\n2 passed"),
        (False, "pending: fix", None),
        (True, "end", "end"),
    ]
    assert found.rows[1].a is not None
    assert found.rows[1].a.seq == 2


async def test_a_late_difference_in_a_long_text_is_shown_and_long_outputs_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The shown part is where the texts differ, also far in and beyond what is held; the rest is counted."""
    long = "x" * 300_000
    found = await compared([chunk("text", long + "a")], [chunk("text", long + "b")])
    assert (found.common, found.differs) == (0, ["output"])
    found = await compared([chunk("text", long[:9_000] + "a")], [chunk("text", long[:9_000] + "b")])
    assert found.rows[0].a is not None
    assert found.rows[0].a.text.endswith("xa")
    many = [chunk("tool_call", tool=str(number)) for number in range(1_000)]
    found = await compared(many, [chunk("text", "none")])
    assert (len(found.rows), found.left_out) == (201, 800)
    monkeypatch.setattr(execution_comparison, "OUTPUT_BYTES", 1_000)
    steps = Steps(outputs([chunk("text", "x" * 400)] * 9))
    await compare_steps(steps, Steps(outputs([])))
    assert steps.truncated


@given(
    st.lists(st.sampled_from([chunk("text", "a"), chunk("text", "b"), chunk("todo"), chunk("tool_call", tool="t")])),
    st.lists(st.sampled_from([chunk("text", "a"), chunk("text", "b"), chunk("todo"), chunk("tool_call", tool="t")])),
)
async def test_no_difference_is_silent(a: Chunks, b: Chunks) -> None:
    """Executions are the same exactly if all of their steps are; each step stands in one row, in order."""
    found = await compared(a, b)
    whole = [[(step.type, step.text) async for step in all_steps(chunks)] for chunks in (a, b)]
    assert bool(found.differs) == (whole[0] != whole[1]) == bool(found.rows)
    for side, steps in zip(("a", "b"), whole, strict=True):
        shown = [step for row in found.rows if (step := getattr(row, side))]
        rest = steps[max(0, found.common - 2) :] if found.rows else []
        assert [(step.type, step.text) for step in shown][-len(rest) :] == rest or not rest


async def all_steps(chunks: Chunks) -> AsyncIterator[Any]:
    steps = Steps(outputs(chunks))
    while (found := await steps.next()) is not None:
        yield found[0]


def patch(path: str, line: str) -> str:
    return f"diff --git a/{path} b/{path}\nindex 1..2 100644\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-old\n+{line}\n"


def test_patches_are_compared_by_file() -> None:
    """Files with equal changes are left out; spaces and quotes in names are no obstacle; long changes are bounded."""
    same = patch("same.py", "x")
    found, more = compare_patches(
        same + patch("a b/c.py", "one") + patch("only a", "x"), same + patch("a b/c.py", "two")
    )
    assert ([(file.path, file.change) for file in found], more) == (
        [("a b/c.py", "differs"), ("only a", "only_a")],
        0,
    )
    assert [line for line in found[0].lines if line[:1] in "-+"] == ["-+one", "++two"]
    found, _ = compare_patches(patch("big", "x\n+" * 2_000), patch("big", "y"))
    assert found[0].lines[0].startswith("… more than")
    found, more = compare_patches("".join(patch(f"f{number}", "x") for number in range(500)), "")
    assert (len(found), more, sum(len(file.lines) for file in found) <= 2_000) == (200, 300, True)


async def ended(world: World, execution: str, text: str, **fields: Any) -> None:
    """An archived execution without anything in the streams."""
    packed = gzip.compress(text_chunk(1, world.clock.now(), text) + b"\n")
    await world.store.put(f"default/{execution}/output.ndjson.gz", packed)
    now = world.clock.now()
    times = {"started_at": now, "ended_at": now, "last_sequence": 1, "archived": True}
    await world.record(execution, **{"state": State.COMPLETED, **times, **fields})


async def test_two_executions_are_compared_over_rest() -> None:
    """Figures of both, what differs, and what is no longer stored."""
    world = World()
    await ended(world, ID, "hello", usage=Usage(requests=2, input_tokens=10, cost_usd=0.5))
    await ended(world, OTHER, "bye", state=State.FAILED, reason="agent_error", diff={"files": 1})
    found = (await world.client.get(f"/tasks/{ID}/compare/{OTHER}")).json()
    assert (found["same"], found["differs"], found["common_steps"]) == (False, ["end", "output"], 0)
    assert (found["a"]["usage"]["cost_usd"], found["a"]["steps"], found["a"]["missing"]) == (0.5, 1, [])
    assert (found["b"]["reason"], found["b"]["missing"]) == ("agent_error", ["the patch"])
    assert (await world.client.get(f"/tasks/{ID}/compare/{ID}")).json()["same"] is True


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_archive_is_said(name: str) -> None:
    """Whatever is in it, the answer is a problem document."""
    world = World()
    await ended(world, ID, "x")
    await ended(world, OTHER, "x")
    await world.store.put(f"default/{OTHER}/output.ndjson.gz", DAMAGED[name])
    assert (await world.client.get(f"/tasks/{ID}/compare/{OTHER}")).status_code == 502


async def test_only_ended_executions_of_the_callers_projects_are_compared() -> None:
    """409 names the one that runs; 404 for an unknown one, and for one of another project or another caller."""
    world = World()
    await ended(world, ID, "x")
    await world.record(OTHER)
    answer = await world.client.get(f"/tasks/{ID}/compare/{OTHER}")
    assert (answer.status_code, OTHER in answer.json()["detail"]) == (409, True)
    assert (await world.client.get(f"/tasks/{OTHER}/compare/{ID}")).status_code == 409
    foreign = "2d9f3f0e-6f0e-4c6e-9f5e-2f4f6f1f7a33"
    await world.record(foreign, "secret", state=State.COMPLETED)
    assert (await world.client.get(f"/tasks/{ID}/compare/{foreign}")).status_code == 404
    assert (await world.client.get(f"/tasks/{ID}/compare/not-an-id")).status_code == 422


@pytest.mark.parametrize("width", [80, 40])
async def test_a_comparison_fits_the_screen_and_controls_no_terminal(width: int) -> None:
    """Figures in two columns, then what each did, whatever an agent wrote: no control sequence, no markup."""
    world = World()
    await ended(world, ID, "evil \x1b]0;title\x07 [bold]", model="anthropic/a-model")
    await ended(world, OTHER, "good", model="b")
    found = (await world.client.get(f"/tasks/{ID}/compare/{OTHER}")).json()
    screen = Console(width=width, force_terminal=True, color_system=None, record=True)
    for line in lines(found):
        screen.print(line, highlight=False)
    text = screen.export_text()
    assert "\x1b" not in text
    assert "evil  [bold]" in text
    assert "different: output" in text
    assert max(len(line) for line in text.splitlines()) <= width
