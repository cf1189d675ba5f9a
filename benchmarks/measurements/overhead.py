"""What is ours between an execute event and the prompt: a warm slot of the scripted agent, whose own time is near zero.

Taken from the times in the streams: the server's of the execute command, ours of each chunk. The agent's first word
is a tool call, which is said at once (text would be held for 20 ms to be joined).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measurement import Options, Row, Target
from benchmarks.stack_memory import warm
from ocf.events import subjects
from tests.support.stack import Project, running_stack

STEPS = [{"shell": {"command": "true", "output": [], "exit": 0}}, {"text": "done"}]
SLOTS = 4


async def one(project: Project) -> dict[str, float]:
    """Milliseconds from the execute command to each phase, and from the submit to its fact."""
    execution = await project.submit(STEPS)
    await project.ended(execution)
    wanted = {}
    for verb in ("submit", "execute"):
        message = await project.bus.last(subjects.COMMANDS, subjects.command(verb, project.name, execution))
        assert message is not None
        async for kept in project.bus.history(subjects.COMMANDS, message.subject):
            wanted[verb] = kept.time
    said = {}
    for chunk in await project.chunks(execution):
        detail = chunk.detail or {}
        said.setdefault(str(detail.get("phase") or chunk.type.value), chunk.timestamp)
    start = wanted["execute"]
    assert start is not None
    assert wanted["submit"] is not None
    found = {name: 1000 * (said[name] - start).total_seconds() for name in ("status", "agent", "workspace", "model")}
    found["first"] = 1000 * (said["tool_call"] - start).total_seconds()
    found["submit"] = 1000 * (start - wanted["submit"]).total_seconds()
    return found


async def measure(options: Options) -> list[Row]:
    """As many at a time as there are warm slots, one after the other."""
    found: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="ocf-bench-") as folder,
        running_stack(Path(folder), WARM_SLOTS=str(SLOTS)) as stack,
    ):
        async with stack.project() as project:
            await one(project)  # slots are opened for the models that were asked for
            while len(found) < options.of(24):
                await warm(stack, SLOTS)
                found += [await one(project) for _ in range(SLOTS - 1)]
    note = (
        "from the execute event kept by NATS to the moment before OpenCode is asked: delivery, record, lease, slot, "
        "workspace and model proxy; what OpenCode takes for session and prompt comes after"
    )

    def of(name: str, start: str = "") -> list[float]:
        return [each[name] - (each[start] if start else 0) for each in found]

    return [
        Row("own overhead: execute event to prompt, warm", "ms", of("model"), target=Target("p50", 30), note=note),
        Row("execute event to the scripted agent's first word, warm", "ms", of("first")),
        Row("of it: to `started` (dispatch, record, lease)", "ms", of("status")),
        Row("of it: to OpenCode acquired", "ms", of("workspace", "agent")),
        Row("of it: workspace prepared, model proxy assigned", "ms", of("model", "workspace")),
        Row("of it: session, prompt, first event", "ms", of("first", "model")),
        Row("submit event to execute event", "ms", of("submit")),
    ]
