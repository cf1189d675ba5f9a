"""Peers of a warm run, under the same client and model: OpenCode's own server, OpenHands' agent server.

Both are given every advantage: they run outside any sandbox, stay up between runs, and have been used before.
OpenHands' runs where `OPENHANDS` names its installed command `agent-server` (PyPI `openhands-agent-server`, with
`openhands-tools`; Python 3.12 or newer, tmux).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psutil
from websockets.asyncio.client import connect

from benchmarks.scripted_model import ScriptedModel
from benchmarks.warm_run import SCRIPTS, Run, lags
from ocf.stack.ports import free_port
from tests.support.offline import OPENCODE, opencode_env

#: Path of OpenHands' `agent-server`; empty where it is not installed.
OPENHANDS = os.environ.get("OPENHANDS", "")
_ENDED = ("finished", "error", "stuck", "paused")


class Peer(Protocol):
    """A server that runs the scripts of `SCRIPTS`."""

    async def run(self, script: str) -> Run:
        """Run one script in a directory of its own and watch it to its end."""
        ...


class _Watch:
    """Collects what a viewer sees of one run; times in seconds since 1970."""

    def __init__(self, model: ScriptedModel, script: str, process: psutil.Process) -> None:
        self.name = uuid.uuid4().hex[:8]
        self.prompt = f"RUN: {self.name} {SCRIPTS[script]}"
        self.words: list[tuple[float, str]] = []
        self.results: list[float] = []
        self._model, self._process = model, process
        self._cpu, self.started = _tree_cpu(process), time.time()

    def run(self) -> Run:
        """Return the run, which has just ended."""
        ended, model = time.time(), self._model
        return Run(
            end=ended - self.started,
            model=model.requests[self.name][0] - self.started,
            first_word=self.words[0][0] - self.started,
            last_word=self.words[-1][0] - self.started,
            finished=model.finished[self.name] - self.started,
            messages=len(self.words),
            lags=list(lags(self.words, model.written[self.name])),
            results=[at - self.started for at in self.results],
            cpu={"server": _tree_cpu(self._process) - self._cpu},
        )


def _tree_cpu(process: psutil.Process) -> float:
    spent = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


class BareServer:
    """`opencode serve`, watched over its own event stream. Its directory is booted, so a run is as warm as can be."""

    def __init__(self, model: ScriptedModel, folder: Path, process: psutil.Process, http: httpx2.AsyncClient) -> None:
        self._model, self._folder, self._process, self._http = model, folder, process, http

    async def run(self, script: str) -> Run:
        """Implement `Peer.run`, in the directory that every run of this server uses."""
        watch = _Watch(self._model, script, self._process)
        session = (await self._post("/session", {"title": "t"})).json()["id"]
        kinds: dict[str, str] = {}
        async with self._http.stream("GET", "/event") as events:
            async for line in events.aiter_lines():
                if not line.startswith("data:"):
                    continue
                now, event = time.time(), json.loads(line[5:])
                properties = event.get("properties", {})
                if event["type"] == "server.connected":
                    body = {
                        "model": {"providerID": "ocf-openai", "modelID": "m1"},
                        "parts": [{"type": "text", "text": watch.prompt}],
                    }
                    await self._post(f"/session/{session}/prompt_async", body)
                elif event["type"] == "message.part.updated":
                    part = properties["part"]
                    kinds[part["id"]] = part["type"]
                    if part["type"] == "tool" and part["state"]["status"] == "completed":
                        watch.results.append(now)
                elif event["type"] == "message.part.delta" and kinds.get(properties["partID"]) == "text":
                    watch.words.append((now, properties["delta"]))
                elif event["type"] == "session.idle" and properties.get("sessionID") == session:
                    return watch.run()
        raise RuntimeError("OpenCode's event stream ended")

    async def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        answer = await self._http.post(path, json=body)
        return answer.raise_for_status()


@asynccontextmanager
async def bare_server(model: ScriptedModel, folder: Path) -> AsyncIterator[BareServer]:
    """Run `opencode serve` with a home and a directory below `folder` until the block ends."""
    home, directory, port = folder / "home", folder / "work", free_port()
    for path in (home, directory):
        path.mkdir()
    await asyncio.to_thread(subprocess.run, ["git", "init", "-q", directory], check=True)
    env = opencode_env(home, model.base_url, "key", "m1")
    argv = [str(OPENCODE), "serve", "--hostname", "127.0.0.1", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=home, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            while not re.search(rb"listening on", await process.stdout.readline()):
                continue
        base = f"http://127.0.0.1:{port}"
        params = {"directory": str(directory)}
        async with httpx2.AsyncClient(base_url=base, params=params, timeout=300, trust_env=False) as http:
            yield BareServer(model, directory, psutil.Process(process.pid), http)
    finally:
        process.kill()
        await process.wait()


class OpenHands:
    """OpenHands' agent server, watched over its session socket; each run has a conversation and a folder of its own."""

    def __init__(self, model: ScriptedModel, folder: Path, process: psutil.Process, http: httpx2.AsyncClient) -> None:
        self._model, self._folder, self._process, self._http = model, folder, process, http

    async def run(self, script: str) -> Run:
        """Implement `Peer.run`."""
        watch = _Watch(self._model, script, self._process)
        directory = self._folder / watch.name
        directory.mkdir()
        llm = {
            "usage_id": "agent",
            "model": "openai/m1",
            "base_url": self._model.base_url,
            "api_key": "key",
            "stream": True,
        }
        tools = [{"name": name} for name in ("terminal", "file_editor", "task_tracker")]
        message = {"role": "user", "content": [{"type": "text", "text": watch.prompt}], "run": True}
        body = {
            "agent": {"kind": "Agent", "llm": llm, "tools": tools},
            "workspace": {"kind": "LocalWorkspace", "working_dir": str(directory)},
            "autotitle": False,
            "initial_message": message,
        }
        conversation = (await self._http.post("/api/conversations", json=body)).raise_for_status().json()["id"]
        url = f"{str(self._http.base_url).replace('http', 'ws')}/sockets/session/{conversation}?after_seq=-1"
        async with asyncio.timeout(300), connect(url, max_size=None) as socket:
            async for raw in socket:
                now, frame = time.time(), json.loads(raw)
                if frame["type"] == "delta":
                    watch.words.append((now, frame["content"]))
                elif frame["type"] == "durable" and frame["event"]["kind"] == "ObservationEvent":
                    watch.results.append(now)
                elif frame["type"] == "durable" and _status(frame["event"]) in _ENDED:
                    return watch.run()
        raise RuntimeError("the agent server's stream ended")


def _status(event: dict[str, Any]) -> str | None:
    if event["kind"] != "ConversationStateUpdateEvent":
        return None
    value = event.get("value")
    if isinstance(value, dict):
        return value.get("execution_status")
    return value if event.get("key") == "execution_status" else None


@asynccontextmanager
async def openhands(model: ScriptedModel, folder: Path) -> AsyncIterator[OpenHands]:
    """Run the agent server with its files below `folder` until the block ends.

    Titles and VS Code are off and its price list is local: without the internet it would wait for each.
    """
    port, home = free_port(), folder / "home"
    home.mkdir()
    env = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(home),
        "TERM": "dumb",
        "OH_SECRET_KEY": "k" * 32,
        "OH_ENABLE_VSCODE": "0",
        "OH_CONVERSATIONS_PATH": str(folder / "conversations"),
        "OH_WORKSPACE_PATH": str(folder / "ws"),
        "OH_BASH_EVENTS_DIR": str(folder / "bash"),
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            OPENHANDS, "--host", "127.0.0.1", "--port", str(port), cwd=folder, env=env, stdout=log, stderr=log
        )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as http:
            async with asyncio.timeout(600):  # the first start after its installation compiles for minutes
                while not await _ready(http):
                    if process.returncode is not None:
                        raise RuntimeError(f"the agent server ended: {(folder / 'log').read_text()[-2000:]}")
                    await asyncio.sleep(0.1)
            yield OpenHands(model, folder, psutil.Process(process.pid), http)
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(http: httpx2.AsyncClient) -> bool:
    with suppress(httpx2.TransportError):
        return (await http.get("/ready")).status_code == 200
    return False
