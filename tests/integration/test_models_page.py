"""docs/how-to/choose-models.md, as it stands, in a whole stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2

from tests.integration.test_docs_run import ROOT, block
from tests.support.faulty_model import chat, faulty_model
from tests.support.stack import running_stack

PAGE = "docs/how-to/choose-models.md"


async def test_the_models_page_runs(tmp_path: Path) -> None:
    """Its commands list the catalog; its task reaches its own endpoint with its key and parameters, and has a price."""
    task = json.loads(block(PAGE, "own-endpoint"))
    asked = task["model_config"]
    key = asked["api_key"]
    async with faulty_model(chat("It ", "is ", "small.", prompt=1_000_000)) as model:
        asked["api_endpoint"] = model.base_url
        with running_stack(tmp_path) as stack:
            async with stack.project() as project, httpx2.AsyncClient(base_url=stack.answer["gateway"]) as client:
                steps = [{"model": {"prompt": task["prompt"], "stream": True}}]
                body = {**task, "project_id": project.name, "prompt": f"[[steps]] {json.dumps(steps)}"}
                answer = await client.post("/tasks/execute", json=body, timeout=30)
                assert answer.status_code == 202, answer.text
                record = await project.ended(answer.json()["execution_id"], 60)
            listed = commands(stack.data_dir, tmp_path)
    assert "anthropic/claude-sonnet-4-5" in listed
    assert '{"models":' in listed.replace(" ", "")
    (request,) = model.requests
    assert request.headers["authorization"] == f"Bearer {key}"
    sent = {name: request.body[name] for name in ("model", "temperature", "max_tokens")}
    assert sent == {name: asked[name] for name in sent}
    # A million tokens of input are half a dollar, which the page's limit is; the output is over it.
    assert (record.state, record.reason) == ("failed", "budget_exceeded"), record
    assert record.usage.cost_usd > task["limits"]["max_cost_usd"]


def commands(data_dir: Path, folder: Path) -> str:
    """What the page's commands print for the stack in `data_dir`."""
    script = "\n".join(line.removeprefix("$ ") for line in block(PAGE, "models").splitlines())
    (folder / "ocf").write_text(f'#!/bin/sh\nexec {sys.executable} -m ocf.cli.main "$@"\n')
    (folder / "ocf").chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OCF_DATA_DIR": str(data_dir)}
    argv = ["bash", "-euc", script]
    done = subprocess.run(argv, env=environ, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
