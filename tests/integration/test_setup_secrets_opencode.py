"""A secret and a setup with the real OpenCode: what the scripted model was sent is read from its journal."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from ocf.events.lifecycle import State
from ocf.events.redaction import forms_of
from ocf.functions.models.offline_model import OfflineModel
from tests.integration.test_setup_secrets import VALUE, secret, serving, texts
from tests.support.offline import OPENCODE, offline_spec
from tests.support.stack import running_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(400),
]
COMMAND = "cat made; curl -s $OCF_SECRET_API_URL/agent; env; cat /proc/*/environ 2> /dev/null | tr '\\0' '\\n'"
SCRIPT = {
    "fixtures": [
        {
            "match": {"hasToolResult": False},
            "response": {
                "toolCalls": [
                    {"id": "use", "name": "bash", "arguments": {"command": COMMAND, "description": "use the secret"}}
                ]
            },
        },
        {"match": {"toolCallId": "use"}, "response": {"content": "Done."}},
    ]
}


async def test_the_model_sees_answers_and_never_the_secret(tmp_path: Path) -> None:
    """The shell tool of the real OpenCode finds the files of the setup and uses the secret; the model gets the tool's
    result with the answer of the origin, in which the secret is redacted, and no spelling of it anywhere else."""
    (tmp_path / "script.json").write_text(json.dumps(SCRIPT))
    with serving() as origin:
        async with OfflineModel(offline_spec([tmp_path / "script.json"])) as model:
            environ = {
                "OPENCODE_BIN": str(OPENCODE),
                "OCF_MODEL": "local/scripted",
                "OCF_MODEL_ENDPOINT": model.base_url,
                "NETWORK_ALLOW": origin.url.removeprefix("http://"),
            }
            with running_stack(tmp_path, **environ) as stack:
                async with stack.project() as project, httpx2.AsyncClient(trust_env=False) as client:
                    body = {
                        "project_id": project.name,
                        "prompt": "Use the secret.",
                        "setup": {"run": "echo made by the setup > made; curl -s $OCF_SECRET_API_URL/setup"},
                        "secrets": {"API": secret(origin)},
                    }
                    answer = await client.post(f"{stack.answer['gateway']}/tasks/execute", json=body, timeout=30)
                    execution = str(answer.json()["execution_id"])
                    record = await project.archived(execution, timeout=240)
                    assert record.state is State.COMPLETED, record
                    said = texts(await project.archive(execution))
            journal = json.dumps(await model.journal())
    assert origin.seen == [f"Bearer {VALUE}"] * 2
    assert "/setup Bearer [redacted] [redacted]" in said
    assert "made by the setup" in journal
    assert "/agent Bearer [redacted] [redacted]" in journal
    assert "OCF_SECRET_API_URL=http://127.0.0.1:" in journal
    assert [form for form in forms_of(VALUE) if form in journal or form in said] == []
