"""The tasks in the how-to guides are tasks: the gateway reads them, submit accepts them."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

from ocf.events.sealing import Keyring, generate_key
from ocf.functions.gateway.request_schemas import ExecuteTask
from ocf.functions.gateway.sealed_secrets import seal_task
from tests.support.handlers import submit
from tests.support.parts import PROJECT, bench

PAGES = Path(__file__).parents[2] / "docs/how-to"
_BLOCK = re.compile(r"<!-- run by tests: ([\w-]+) -->\n```json\n(.*?)```", re.DOTALL)
TASKS = [
    pytest.param(text, id=f"{page.stem}-{mark}")
    for page in sorted(PAGES.glob("*.md"))
    for mark, text in _BLOCK.findall(page.read_text())
]


@pytest.mark.parametrize("text", TASKS)
async def test_a_task_of_a_page_is_accepted(text: str) -> None:
    """From the request body to the fact `accepted`, with the secrets sealed in between."""
    made, execution = bench(NETWORK_ALLOW="*"), str(uuid.uuid4())
    body = seal_task(ExecuteTask.model_validate_json(text), PROJECT, Keyring(generate_key()))
    body = body.model_copy(update={"execution_id": execution, "project_id": PROJECT})
    task = json.loads(body.model_dump_json(by_alias=True, exclude_unset=True))
    await submit(made.deps, made.raw_submit(task, PROJECT, execution))
    assert await made.said(execution) == ["accepted"]


def test_each_page_about_tasks_has_one() -> None:
    """The pattern above finds them."""
    assert len(TASKS) >= 5
