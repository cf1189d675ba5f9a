"""A session with the real OpenCode: what it remembers is read from the model's own journal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ocf.functions.models.offline_model import OfflineModel
from tests.support.offline import OPENCODE, offline_spec
from tests.support.sessions import opened
from tests.support.stack import Project, Stack, running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(400),
]

WORDS = ("marigold", "obsidian", "tamarind")


async def three_turns(stack: Stack, project: Project) -> None:
    id_ = await opened(project)
    for number, word in enumerate(WORDS):
        if number:
            # Whatever worker comes next, in whatever directory, it has nothing but what S3 holds.
            await stack.back("execute", stack.kill("execute"), timeout=120)
        if number == 2:
            await stack.back("nats", stack.kill("nats"))
            await until(lambda: connected(project), what="the bus is back")
        execution = await project.submit(f"Remember the word {word}.", session_id=id_)
        record = await project.ended(execution, timeout=150)
        assert record.state == "completed", record


async def connected(project: Project) -> bool:
    return project.bus.nc.is_connected


def directory(entry: dict[str, Any]) -> str:
    """Where OpenCode told the model that it works."""
    [found] = {*re.findall(r"[Ww]orking directory: ([^\s\\\"]+)", json.dumps(entry["body"]))}
    return str(found)


def prompts(entry: dict[str, Any]) -> list[str]:
    """What the person said in one request to the model."""
    return [json.dumps(one["content"]) for one in entry["body"]["messages"] if one["role"] == "user"]


async def test_the_third_turn_reaches_the_model_with_the_first_two(tmp_path: Path) -> None:
    """The worker is killed between turns, NATS before the third; each turn works in a directory of its own. Still the
    last request's messages hold all three prompts, in order, and the answers."""
    async with OfflineModel(offline_spec()) as model:
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/scripted", "OCF_MODEL_ENDPOINT": model.base_url}
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project:
                await three_turns(stack, project)
        journal = [entry for entry in await model.journal() if prompts(entry)]
        asked = [entry for entry in journal if any(WORDS[2] in text for text in prompts(entry))]
        first = [entry for entry in journal if WORDS[0] in str(prompts(entry)) and WORDS[1] not in str(prompts(entry))]
    found = [word for text in prompts(asked[-1]) for word in WORDS if word in text]
    assert found == list(WORDS)
    answers = [one for one in asked[-1]["body"]["messages"] if one["role"] == "assistant"]
    assert len(answers) >= 2
    assert directory(first[-1]) != directory(asked[-1])
