"""What a task brings for its agent, from the submit to the archive, with the real OpenCode in a whole stack."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ocf.functions.models.offline_model import OfflineModel
from tests.integration.test_docs_run import block
from tests.support.mcp import TOKEN, tracker
from tests.support.offline import OPENCODE, ROOT, offline_spec
from tests.support.stack import Project, running_stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
]

SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A repository with these files."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


async def ended(project: Project, prompt: str, **task: Any) -> Any:
    return await project.ended(await project.submit(prompt, **task), timeout=200)


async def test_a_remote_mcp_server_is_used_and_its_header_is_in_no_output(tmp_path: Path) -> None:
    """The gateway seals the header, the worker adds it on the way; a server outside NETWORK_ALLOW is refused."""
    async with (
        tracker() as (port, guard),
        OfflineModel(offline_spec([ROOT / "tests/support/task-field-cases.json"])) as model,
    ):
        environ = {
            "OPENCODE_BIN": str(OPENCODE),
            "OCF_MODEL": "local/scripted",
            "OCF_MODEL_ENDPOINT": model.base_url,
            "NETWORK_ALLOW": f"127.0.0.1:{port}",
        }
        server = {"type": "remote", "url": f"http://127.0.0.1:{port}/mcp"}
        body = {
            "prompt": "ask-remote",
            "mcp": {"tracker": {**server, "headers": {"Authorization": f"Bearer {TOKEN}"}}},
        }
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project, httpx2.AsyncClient(base_url=stack.answer["gateway"]) as client:
                answer = await client.post("/tasks/execute", json={**body, "project_id": project.name}, timeout=30)
                execution = answer.json()["execution_id"]
                record = await project.ended(execution, timeout=200)
                assert (record.state, record.result) == ("completed", "Asked."), record
                said = "".join(chunk.data for chunk in await project.chunks(execution))
                assert "MCP server tracker is ready" in said
                assert "You are [redacted]" in said
                assert TOKEN not in said
                outside = await ended(project, "x", mcp={"a": {**server, "url": "https://mcp.example.com/mcp"}})
                assert (outside.state, outside.errors[0].field) == ("rejected", "mcp.a.url")
    assert guard.seen
    assert guard.refused == 0


async def test_fields_of_a_task_reach_the_model_and_its_result_comes_back(tmp_path: Path) -> None:
    """JSON by a schema, or `output_invalid`; attachments by content and from an earlier execution; a command and an
    agent from git, and those of the repository itself, whose plugin and MCP server never run."""
    shared = repository(
        tmp_path / "repos/shared",
        {
            "commands/look.md": "---\nagent: keen\n---\nLook at $1.",
            "skills/release/SKILL.md": "---\nname: release\ndescription: How to release\n---\nPush the button.",
        },
    )
    hostile = repository(
        tmp_path / "repos/own",
        {
            ".opencode/agents/house.md": "You are the HOUSE-AGENT.",
            ".opencode/agents/broken.md": "---\nmode: x\n---\n",
            ".opencode/plugin/evil.js": "require('fs').writeFileSync('plugin-ran', 'x')",
            "opencode.json": json.dumps({"mcp": {"evil": {"type": "local", "command": ["touch", "mcp-ran"]}}}),
        },
    )
    async with OfflineModel(offline_spec([ROOT / "tests/support/task-field-run-cases.json"])) as model:
        environ = {
            "OPENCODE_BIN": str(OPENCODE),
            "OCF_MODEL": "local/scripted",
            "OCF_MODEL_ENDPOINT": model.base_url,
            "WORKSPACE_SOURCES": str(tmp_path / "repos"),
            "ALLOW_REPOSITORY_CONFIG": "true",
        }
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project:
                record = await ended(project, "run-json", output_schema=SCHEMA)
                assert (record.state, record.output) == ("completed", {"answer": 42})
                fact = await project.fact(record.execution_id, "completed")
                assert fact["output"] == {"answer": 42}
                record = await ended(project, "run-words", output_schema=SCHEMA)
                assert (record.state, record.reason, record.output) == ("failed", "output_invalid", None)
                assert "no structured output" in (record.message or "")

                wrote = await ended(project, "run-write")
                await project.archived(wrote.execution_id, 60)
                text = {"name": "a.txt", "media_type": "text/plain", "data": base64.b64encode(b"GIVEN-TEXT").decode()}
                left = {"name": "b.txt", "media_type": "text/plain", "execution_id": wrote.execution_id}
                record = await ended(project, "run-files", attachments=[text, {**left, "path": "notes/left.txt"}])
                assert record.state == "completed", record
                record = await ended(project, "run-files", attachments=[{**left, "path": "notes/missing.txt"}])
                assert (record.state, record.reason) == ("failed", "invalid_workspace")
                assert "attachments.0: there is no file 'notes/missing.txt'" in (record.message or "")

                git = {"git": f"file://{shared}", "path": "commands"}
                keen = {"keen": {"content": "---\nmode: primary\n---\nYou are the KEEN-AGENT."}}
                record = await ended(project, "/look moon", commands={"from": git}, agents=keen)
                assert record.state == "completed", record

                page = json.loads(block("docs/how-to/define-agents-skills-and-commands.md", "definitions"))
                page["skills"]["release"]["from"] = {"git": f"file://{shared}", "path": "skills/release"}
                record = await ended(project, page.pop("prompt"), **page)
                assert record.state == "completed", record

                source = {"source": "directory", "path": str(hostile)}
                record = await ended(project, "run-files as house", agent="house", workspace=source)
                assert record.state == "completed", record
                said = "".join(chunk.data for chunk in await project.chunks(record.execution_id))
                assert "ignored: agent broken: mode must be one of" in said
                assert not [file.path for file in record.diff.changed]
        asked = [
            json.dumps(entry["body"]["messages"]) for entry in await model.journal() if "messages" in entry["body"]
        ]
    files = next(text for text in asked if "GIVEN-TEXT" in text)
    assert "LEFT-BEHIND" in files
    review = next(text for text in asked if "Review src/app.py." in text)
    assert "You review code. Be brief." in review
    assert "How to release" in review
    look = next(text for text in asked if "Look at moon." in text)
    assert "You are the KEEN-AGENT." in look
    assert any("You are the HOUSE-AGENT." in text and "run-files as house" in text for text in asked)
