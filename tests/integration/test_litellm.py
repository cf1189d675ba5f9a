"""docs/how-to/use-cloud-models.md with OpenCode, LiteLLM, and a scripted model that speaks the clouds' formats."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from ocf.functions.models.offline_model import OfflineModel
from tests.integration.test_docs_run import block
from tests.support.offline import OPENCODE, offline_spec
from tests.support.python_tools import python_tool
from tests.support.stack import running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(900),
]
PAGE = "docs/how-to/use-cloud-models.md"
KEY = "sk-litellm-0123456789"
SCRIPT = """{"fixtures": [
  {"match": {"userMessage": "case-cloud", "hasToolResult": false}, "response": {"toolCalls":
    [{"id": "c1", "name": "bash", "arguments": {"command": "echo cloud > made.txt", "description": "write"}}]}},
  {"match": {"userMessage": "case-cloud"}, "response": {"content": "Answered."}}
]}"""


def configuration(model: OfflineModel) -> dict[str, Any]:
    """The page's, with the scripted model in the place of the clouds; Vertex AI's tokens come from Google alone."""
    found = yaml.safe_load(block(PAGE, "litellm"))
    url = model.base_url.removesuffix("/v1")
    here = {
        "claude": {"aws_bedrock_runtime_endpoint": url, "aws_access_key_id": "x", "aws_secret_access_key": "x"},
        "gpt": {"api_base": url, "api_key": "x"},
    }
    models = [one for one in found["model_list"] if one["model_name"] in here]
    for one in models:
        one["litellm_params"] |= here[one["model_name"]]
    return {**found, "model_list": models}


@asynccontextmanager
async def gateway(folder: Path, model: OfflineModel) -> AsyncIterator[str]:
    """The page's command; yields the base URL."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration(model)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = block(PAGE, "litellm-run").removeprefix("$ ")
    command = command.replace("0.0.0.0", "127.0.0.1").replace("4000", str(port))
    tools = await asyncio.to_thread(python_tool, "litellm")
    environ = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    argv = command.split()
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, cwd=folder, env=environ, stdout=log, stderr=log)
    try:

        async def ready() -> bool:
            assert process.returncode is None, (folder / "log").read_text()
            try:
                async with httpx2.AsyncClient(trust_env=False) as client:
                    return (await client.get(f"http://127.0.0.1:{port}/health/liveliness")).is_success
            except httpx2.TransportError:
                return False

        await until(ready, timeout=400, what="LiteLLM")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        await process.wait()


async def test_models_of_bedrock_and_azure_run_a_task(tmp_path: Path) -> None:
    """The operator's default is Bedrock's model, a task names Azure's; each makes a tool call and is counted."""
    (tmp_path / "script.json").write_text(SCRIPT)
    (tmp_path / "models.json").write_text(block(PAGE, "litellm.facts"))
    async with (
        OfflineModel(offline_spec([tmp_path / "script.json"])) as model,
        gateway(tmp_path / "litellm", model) as endpoint,
    ):
        environ = {
            "OPENCODE_BIN": str(OPENCODE),
            "OCF_MODEL": "cloud/claude",
            "OCF_MODEL_ENDPOINT": endpoint,
            "OPENCODE_API_KEY": KEY,
            "OCF_MODELS_FILE": str(tmp_path / "models.json"),
        }
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project:
                for chosen in ({}, {"model_config": {"provider": "cloud", "model": "gpt"}}):
                    execution = await project.submit("case-cloud", **chosen)
                    record = await project.ended(execution, 300)
                    assert (record.state, record.result) == ("completed", "Answered."), record
                    assert [file.path for file in record.diff.changed] == ["made.txt"]
                    assert record.usage.output_tokens > 0
                    assert (record.usage.cost_usd > 0) is not bool(chosen)
        asked = [entry["path"] for entry in await model.journal()]
    assert any(path.startswith("/model/anthropic.claude") for path in asked), asked
    assert any(path.startswith(("/openai/deployments/my-deployment/", "/v1/chat/")) for path in asked), asked
