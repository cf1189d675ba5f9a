"""A key is planted in a task, and a provider that says it back; then every place is searched for it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import signal
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest
import zstandard

from ocf.events import subjects
from ocf.events.redaction import forms_of
from ocf.functions.core.object_deletion import setup_key
from tests.support.stack import Project, running_stack, until

pytestmark = pytest.mark.slow

KEY = "sk-planted-7fK2-0123456789-abcdefghijkl"
MCP_KEY = "lin-planted-8gL3-0123456789-mnopqrstuvwx"
SECRET = "sec-planted-5dJ1-0123456789-uvwxyzabcdef"
ATTACHED = "attached-9hM4-0123456789"
OPERATORS = "sk-operator-9xQ4-0123456789-abcdefghijkl"
STREAMS = (subjects.COMMANDS, subjects.EVENTS, subjects.OUTPUT, subjects.DLQ)
BUCKETS = (subjects.EXECUTIONS_BUCKET, subjects.SESSIONS_BUCKET)


class Provider:
    """A model and an API that repeat the key they were shown, in answers and refusals, and a receiver of traces."""

    def __init__(self) -> None:
        self.port = 0
        self.keys: set[str] = set()
        self.secrets: list[str] = []
        self.traces: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status, answer, content = 200, b"", b"application/json"
        if "traces" in head[0]:
            self.traces.append(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)
        elif head[0].startswith("GET"):
            self.secrets.append(headers["x-key"])
            answer, content = f"Your secret is {headers['x-key']}.".encode(), b"text/plain"
        else:
            key = headers["authorization"].removeprefix("Bearer ")
            self.keys.add(key)
            said = {"role": "assistant", "content": f"Your key is {key}, in hex {key.encode().hex()}."}
            answer = json.dumps({"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}).encode()
            if b'"stream":true' in body:
                content, answer = b"text/event-stream", b"".join(halves(key))
            if b"refuse" in body:
                status, answer = 401, json.dumps({"error": {"message": f"the key {key} is not known"}}).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            % (status, content, len(answer))
        )
        writer.write(answer)
        await writer.drain()
        writer.close()


def halves(key: str) -> Iterator[bytes]:
    """The key in a stream, cut in two: no event of it holds the whole."""
    for text in (key[: len(key) // 2], key[len(key) // 2 :]):
        yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n".encode()
    yield b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@asynccontextmanager
async def providing() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()


async def submitted(gateway: str, project: str, port: int, steps: list[dict[str, object]]) -> str:
    """Through the gateway, with the key in the clear, as a person would; it is sealed there."""
    model = {"provider": "openai", "model": "m", "api_endpoint": f"http://127.0.0.1:{port}/v1", "api_key": KEY}
    body = {
        "project_id": project,
        "prompt": f"[[steps]] {json.dumps(steps)}",
        "model_config": model,
        "limits": {"answer_seconds": 600},
        "mcp": {
            "tracker": {
                "type": "remote",
                "url": f"http://127.0.0.1:{port}/mcp",
                "headers": {"Authorization": f"Bearer {MCP_KEY}"},
            }
        },
        "secrets": {
            "PLANTED": {
                "value": SECRET,
                "url": f"http://127.0.0.1:{port}/api",
                "inject": {"header": "X-Key", "format": "{}"},
            }
        },
        # What the setup prints and keeps is searched, too.
        "setup": {"run": "curl -s $OCF_SECRET_PLANTED_URL/setup | tee kept; env | tee -a kept", "cache_key": "k"},
        "attachments": [
            {"name": "a.txt", "media_type": "text/plain", "data": base64.b64encode(ATTACHED.encode()).decode()}
        ],
    }
    async with httpx2.AsyncClient(base_url=gateway) as client:
        answer = await client.post("/tasks/execute", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def processes(roots: list[psutil.Process]) -> Iterator[tuple[str, bytes]]:
    """Environment and command line of each, where this user may read them (nobody else may either)."""
    for process in roots:
        for name in ("environ", "cmdline"):
            with suppress(OSError):
                yield f"{name} of {process.pid}", Path(f"/proc/{process.pid}/{name}").read_bytes()


def files(top: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below: logs, what the servers store, states, temporary files, core dumps if there were any."""
    for path in top.rglob("*"):
        with suppress(OSError):  # it went meanwhile
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


async def stored(project: Project, executions: list[str]) -> AsyncIterator[tuple[str, bytes]]:
    """Every message of every stream and bucket, and every object of the executions and setups, unpacked."""
    for stream in (*STREAMS, *(f"KV_{bucket}" for bucket in BUCKETS)):
        async for message in project.bus.history(stream, ">"):
            yield f"{stream} {message.subject}", message.data + json.dumps(dict(message.headers)).encode()
    for execution in executions:
        for name in await project.objects(execution):
            data = await project.store.get(f"{project.name}/{execution}/{name}")
            if name.endswith(".zst"):
                data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
            elif name.endswith(".gz"):
                data = gzip.decompress(data)
            yield f"object {name}", data
    async for info in project.store.list(setup_key(project.name, "").removesuffix(".tar.zst")):
        data = await project.store.get(info.key)
        yield f"setup {info.key}", zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


async def bundled(gateway: str, project: str, execution: str) -> list[tuple[str, bytes]]:
    """Return the names and contents of the objects that `ocf export` writes."""
    async with httpx2.AsyncClient(base_url=gateway, timeout=60) as client:
        answer = await client.get(f"/tasks/{execution}/bundle", params={"project_id": project})
    assert answer.status_code == 200, answer.text
    found = []
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        for info in tar.getmembers():
            file = tar.extractfile(info)
            data = b"" if file is None else file.read()
            if info.name.endswith(".zst"):
                data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
            found.append((f"bundle {info.name}", gzip.decompress(data) if info.name.endswith(".gz") else data))
    return found


async def run_again(gateway: str, project: Project, execution: str) -> str:
    """The id of an ended rerun."""
    async with httpx2.AsyncClient(base_url=gateway, timeout=60) as client:
        answer = await client.post(f"/tasks/{execution}/rerun", params={"project_id": project.name}, json={})
    assert answer.status_code == 202, answer.text
    rerun = str(answer.json()["execution_id"])
    assert (await project.archived(rerun, 90)).state == "completed"
    return rerun


@pytest.mark.timeout(300)
async def test_a_planted_key_is_nowhere(tmp_path: Path) -> None:
    """The provider gets it, and says it back. It is in no event, record, log, trace, file, object, core dump, command
    line or process environment, however it is spelled: after a run that completes, one that is refused with the key in
    the words, one whose agent crashes, and one whose worker crashes. The operator's key, which no task may have, the
    header of an MCP server, and a secret that setup and agent use, the same: also in recording and bundle, and in a
    rerun, whose requests never reach the secret's origin and whose question is answered as it was."""
    environments = "env; cat /proc/self/environ; cat /proc/*/environ 2> /dev/null"
    look = {"run": f"curl -s $OCF_SECRET_PLANTED_URL/agent; {environments}; ulimit -c unlimited; true"}
    ask = {"model": {"prompt": "hello"}}
    async with providing() as provider:
        environ = {
            "OPENCODE_API_KEY": OPERATORS,
            "LOG_LEVEL": "debug",
            "NETWORK_ALLOW": f"127.0.0.1:{provider.port}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{provider.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with running_stack(tmp_path, **environ) as stack:
            async with stack.project() as project:
                ran = {
                    "completed": [
                        {"model": {"prompt": "hello", "stream": True}},
                        ask,
                        look,
                        {"write": {"path": "notes", "content": "x"}},
                        {"question": {"question": "Which colour?", "options": ["red", "blue"]}},
                    ],
                    "model_auth": [look, {"model": {"prompt": "refuse"}}],
                    "agent_error": [ask, {"die": -11}],
                    "worker_lost": [ask, look, {"text": "I am up"}, {"sleep": 600}],
                }
                ids = {
                    end: await submitted(stack.answer["gateway"], project.name, provider.port, steps)
                    for end, steps in ran.items()
                }
                asking = await project.when(ids["completed"], lambda record: record.waiting_for is not None, 90)
                assert asking.waiting_for is not None
                await project.client.reply(ids["completed"], asking.waiting_for.request_id, "blue")
                await project.running(ids["worker_lost"], "I am up", 60)
                for end in ("completed", "model_auth", "agent_error"):
                    await project.ended(ids[end], 90)
                found = [*processes([*psutil.Process(stack.process.pid).children(recursive=True)])]
                for worker in stack.workers():  # there are the keys, and not in their parent
                    worker.send_signal(signal.SIGABRT)
                for end, execution in ids.items():
                    record = await project.archived(execution, 90)
                    assert (record.reason or record.state) == end, record.message or record
                assert provider.keys == {KEY}
                await until(lambda: _some(provider), what="traces")
                found += [one async for one in stored(project, list(ids.values()))]
                said = [chunk.data for chunk in await project.chunks(ids["completed"])]
                assert "Your key is [redacted], in hex [redacted]." in "".join(said)
                assert "[redacted]" in said  # the two halves
                assert "Your secret is [redacted]." in "".join(said)
                assert set(provider.secrets) == {SECRET}
                asked = len(provider.secrets)
                again = await run_again(stack.answer["gateway"], project, ids["completed"])
                assert len(provider.secrets) == asked
                said = [chunk.data for chunk in await project.chunks(again)]
                assert "Your secret is [redacted]." in "".join(said)
                assert "blue" in "".join(said)  # what was answered then
                found += [one async for one in stored(project, [again])]
                found += await bundled(stack.answer["gateway"], project.name, ids["completed"])
        found += [*files(tmp_path), *((f"trace {n}", data) for n, data in enumerate(provider.traces))]
    # The search looks where things are: what the agent said is found, and so is the environment of its processes.
    assert any(b"I am up" in data for name, data in found if name.startswith(subjects.OUTPUT))
    assert any(b"Your secret is [redacted]." in data for name, data in found if name.startswith("setup "))
    assert any(b"Your secret is [redacted]." in data for name, data in found if name == "bundle model.ndjson.zst")
    assert any(b"OPENCODE_CONFIG_CONTENT" in data for name, data in found if name.startswith("environ"))
    forms = [form.encode() for key in (KEY, OPERATORS, MCP_KEY, SECRET) for form in forms_of(key)]
    assert [name for name, data in found if any(form in data for form in forms)] == []
    assert [name for name, _ in found if Path(name).name.startswith("core")] == []
    # An attachment is content: it is in the command, which the archive's events have too, and in nothing that lists,
    # logs or reports an execution.
    told = [
        (name, data)
        for name, data in found
        if name.startswith((subjects.EVENTS, subjects.OUTPUT, "KV_", "environ", "cmdline", "trace"))
        or name.endswith(".log")
        or (name.startswith("object ") and name != "object events.ndjson" and not name.startswith("object data/"))
    ]
    attached = [form.encode() for form in forms_of(ATTACHED)]
    assert [name for name, data in told if any(form in data for form in attached)] == []
    assert any(form in data for name, data in found for form in attached if name.startswith(subjects.COMMANDS))


async def _some(provider: Provider) -> bool:
    return bool(provider.traces)
