"""A real model in the loop: SmolLM2-135M on llama.cpp, both from PyPI, behind the real OpenCode in a whole stack."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from ocf.events.output import ChunkType
from tests.support.offline import OPENCODE, ROOT
from tests.support.python_tools import python_tool
from tests.support.stack import running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(900),
]
#: An agent of the task's own: OpenCode's system prompt would cost the small model minutes.
AGENT = {"agent": "teller", "agents": {"teller": {"content": "---\nmode: primary\ndescription: tells\n---\nAnswer."}}}
MODEL = {
    "provider": "local",
    "model": "smollm2",
    "enabled_tools": [],
    "max_tokens": 1000,
    "temperature": 0,
    "facts": {"context": 8192, "output": 1024},
}


class TinyModel:
    """The running server, and what it counts itself."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def counted(self) -> tuple[int, int]:
        """Return the tokens that it has read and written."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.url}/metrics")).text
        read, written = (
            re.search(rf"^llamacpp:{name}_total (\S+)$", text, re.MULTILINE)
            for name in ("prompt_tokens", "tokens_predicted")
        )
        assert read is not None
        assert written is not None
        return int(float(read[1])), int(float(written[1]))

    async def idle(self) -> bool:
        """Return whether it generates nothing."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            return not any(slot["is_processing"] for slot in (await client.get(f"{self.url}/slots")).json())


@asynccontextmanager
async def tiny_model() -> AsyncIterator[TinyModel]:
    """The server, in a process of its own."""
    python = await asyncio.to_thread(python_tool, "tiny-model")
    process = await asyncio.create_subprocess_exec(
        python / "python",
        ROOT / "tests/support/tools/tiny_model.py",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(300):
            while not (line := (await process.stdout.readline()).decode()).startswith("listening on "):
                assert line or process.returncode is None, "the tiny model did not start"
        yield TinyModel(line.split()[-1])
    finally:
        process.kill()
        await process.wait()


async def test_words_stream_tokens_are_the_servers_own_and_a_cancel_ends_them(tmp_path: Path) -> None:
    """A run's text comes in many chunks and is its result; its usage equals what the server has counted; a cancel in
    the middle of an answer ends the generation."""
    async with tiny_model() as model:
        environ = {"OPENCODE_BIN": str(OPENCODE), "OCF_MODEL": "local/smollm2", "OCF_MODEL_ENDPOINT": f"{model.url}/v1"}
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project:
                model_config = MODEL | {"api_endpoint": f"{model.url}/v1"}
                task = AGENT | {"model_config": model_config, "limits": {"silence_seconds": 600}}
                before = await model.counted()
                execution = await project.submit("What is the capital of France?", **task)
                record = await project.ended(execution, 400)
                assert record.state == "completed", (record.reason, record.message)
                chunks = [chunk for chunk in await project.chunks(execution) if chunk.type is ChunkType.TEXT]
                assert len(chunks) > 3
                assert "".join(chunk.data for chunk in chunks).strip() == (record.result or "").strip()
                after = await model.counted()
                counted = (after[0] - before[0], after[1] - before[1])
                assert (record.usage.input_tokens, record.usage.output_tokens) == counted

                execution = await project.submit("Write a long story about a ship.", **task)

                async def speaks() -> bool:
                    return any(chunk.type is ChunkType.TEXT for chunk in await project.chunks(execution))

                await until(speaks, timeout=300, what="the first words")
                await project.client.cancel(execution)
                assert (await project.ended(execution)).state == "cancelled"
                await until(model.idle, what="the model has stopped")
                _, written = await model.counted()
    assert written - after[1] < 1000
