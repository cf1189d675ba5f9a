"""Setup scripts and secrets of a task, from the submit to the archive, with the scripted agent in the sandbox."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import zstandard

from ocf.events.lifecycle import Reason, State
from ocf.events.output import Chunk, ChunkType
from ocf.functions.core.object_deletion import setup_key
from tests.integration.test_docs_run import block
from tests.support.processes import command_line
from tests.support.stack import Project, Stack, running_stack

PAGES = {"secret-task": "use-secrets", "setup-task": "set-up-workspaces"}
VALUE = "tok-planted-9xQ4-0123456789"


class Origin(ThreadingHTTPServer):
    """An API that wants a header, and repeats it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Api(BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.server.seen.append(given)
        value = given.removeprefix("Bearer ")
        body = f"{self.path} {given} {base64.b64encode(value.encode()).decode()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Origin]:
    """A running origin."""
    origin = Origin()
    thread = threading.Thread(target=origin.serve_forever, daemon=True)
    thread.start()
    try:
        yield origin
    finally:
        origin.shutdown()
        origin.server_close()
        thread.join()


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with serving() as origin:
        yield origin


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Stack]:
    allow = origin.url.removeprefix("http://")
    with running_stack(tmp_path_factory.mktemp("stack"), NETWORK_ALLOW=allow) as stack:
        yield stack


async def posted(stack: Stack, project: Project, steps: str, **body: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=stack.answer["gateway"], trust_env=False) as client:
        task = {**body, "project_id": project.name, "prompt": f"[[steps]] {steps}"}
        return await client.post("/tasks/execute", json=task, timeout=30)


async def submitted(stack: Stack, project: Project, steps: str, **body: Any) -> str:
    answer = await posted(stack, project, steps, **body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def secret(origin: Origin, **more: Any) -> dict[str, Any]:
    return {"value": VALUE, "url": origin.url, "inject": {"header": "Authorization", "format": "Bearer {}"}, **more}


def texts(chunks: list[Chunk]) -> str:
    return "".join(chunk.data for chunk in chunks)


def first(chunks: list[Chunk], kind: ChunkType) -> str:
    return next(chunk.data for chunk in chunks if chunk.type is kind)


async def test_the_agent_uses_a_secret_that_it_cannot_read(stack: Stack, origin: Origin) -> None:
    """The agent's shell and its setup reach the origin with the secret by OCF_SECRET_NAME_URL. Neither the answers,
    which repeat it, nor environment and /proc show it."""
    look = "env; cat /proc/self/environ /proc/*/environ /proc/*/cmdline 2> /dev/null | tr '\\\\0' '\\\\n'; true"
    steps = f'[{{"run": "curl -s $OCF_SECRET_API_URL/agent"}}, {{"run": "{look}"}}, {{"text": "done"}}]'
    origin.seen.clear()
    async with stack.project() as project:
        setup = {"run": "curl -s $OCF_SECRET_API_URL/setup"}
        execution = await submitted(stack, project, steps, secrets={"API": secret(origin)}, setup=setup)
        record = await project.archived(execution)
        assert record.state is State.COMPLETED, record
        said = texts(await project.archive(execution))
        objects = [await project.store.get(f"{project.name}/{execution}/{n}") for n in await project.objects(execution)]
    assert origin.seen == [f"Bearer {VALUE}"] * 2
    assert "/setup Bearer [redacted] [redacted]" in said
    assert "/agent Bearer [redacted] [redacted]" in said
    assert "OCF_SECRET_API_URL=http://127.0.0.1:" in said
    assert VALUE not in said
    assert not any(VALUE.encode() in data for data in objects)


async def test_a_secret_for_a_host_outside_the_ceiling_is_rejected(stack: Stack, origin: Origin) -> None:
    """The submit names the field and the setting; a value that cannot be redacted is refused by the gateway."""
    async with stack.project() as project:
        outside = secret(origin) | {"url": "https://api.example/"}
        execution = await submitted(stack, project, "[]", secrets={"API": outside})
        rejected = await project.fact(execution, "rejected")
        short = await posted(stack, project, "[]", secrets={"API": secret(origin) | {"value": "short"}})
    assert rejected["errors"] == [
        {"field": "secrets.API.url", "message": "api.example:443 is not within the operator's NETWORK_ALLOW"}
    ]
    assert short.status_code == 422
    assert "secrets.API.value" in short.text


async def test_setup_runs_before_the_prompt_and_is_not_in_the_diff(stack: Stack) -> None:
    """Its output is in the stream as stdout and stderr, the agent finds its files, the diff has only the agent's."""
    async with stack.project() as project:
        setup = {"run": "echo made; echo careful >&2\necho content > made.txt"}
        steps = '[{"run": "cat made.txt"}, {"write": {"path": "own.txt", "content": "x"}}]'
        execution = await submitted(stack, project, steps, setup=setup)
        record = await project.archived(execution)
        chunks = await project.archive(execution)
        patch = await project.store.get(f"{project.name}/{execution}/workspace.patch")
    assert record.state is State.COMPLETED, record
    assert first(chunks, ChunkType.STDOUT) == "made\n"
    assert first(chunks, ChunkType.STDERR) == "careful\n"
    assert "content" in texts(chunks)
    assert b"own.txt" in patch
    assert b"made.txt" not in patch


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ({"run": "echo first; false; echo second"}, "setup ended with code 1"),
        ({"run": "sleep 60", "timeout_seconds": 1}, "setup ran longer than 1 s"),
        ({"run": "cat /etc/shadow"}, "setup ended with code 1"),
        ({"run": "curl -s http://127.0.0.1:1/ || exit 9"}, "setup ended with code 9"),
    ],
)
async def test_a_setup_that_fails_ends_the_execution(stack: Stack, setup: dict[str, Any], message: str) -> None:
    """With reason `setup_failed`, without a prompt; the script is as confined as the agent."""
    async with stack.project() as project:
        execution = await submitted(stack, project, '[{"text": "prompted"}]', setup=setup)
        record = await project.ended(execution)
        said = texts(await project.chunks(execution))
    assert (record.state, record.reason) == (State.FAILED, Reason.SETUP_FAILED)
    assert record.message == message
    assert "prompted" not in said
    assert "second" not in said


async def test_a_kept_setup_is_restored_and_not_run_again(stack: Stack) -> None:
    """The second execution with the same key, script and source gets the files without the script; another project, and
    another script, do not."""
    setup = {"run": "mkdir -p deps/a; date +%N > deps/a/stamp; ln -s a deps/b", "cache_key": "v1"}
    steps = '[{"run": "cat deps/b/stamp"}]'
    async with stack.project() as project, stack.project() as other:
        runs = []
        for owner, script in (
            (project, setup),
            (project, setup),
            (other, setup),
            (project, setup | {"cache_key": "v2"}),
        ):
            execution = await submitted(stack, owner, steps, setup=script)
            assert (await owner.archived(execution)).state is State.COMPLETED
            runs.append(await owner.archive(execution))
    said = [first(run, ChunkType.TOOL_RESULT) for run in runs]
    assert said[0] == said[1]
    assert len(set(said)) == 3
    assert "setup restored: 2 files" in texts(runs[1])
    assert ["setup kept" in texts(run) for run in runs] == [True, False, True, True]


async def test_a_damaged_layer_is_not_used(stack: Stack) -> None:
    """An object that is not a layer any more, or that leads out of the workspace, is stated, and the script runs."""
    setup = {"run": "echo x > made", "cache_key": "v1"}
    async with stack.project() as project:
        first = await submitted(stack, project, '[{"text": "a"}]', setup=setup)
        assert (await project.archived(first)).state is State.COMPLETED
        prefix = setup_key(project.name, "").removesuffix(".tar.zst")
        (kept,) = [info.key async for info in project.store.list(prefix)]
        for damaged in (b"nothing", zstandard.compress(_tar_with("../../escaped"))):
            await project.store.put(kept, damaged)
            execution = await submitted(stack, project, '[{"run": "cat made"}]', setup=setup)
            assert (await project.archived(execution)).state is State.COMPLETED
            said = texts(await project.archive(execution))
            assert "the kept setup cannot be used" in said
            assert "setup kept" in said


def _tar_with(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


async def test_a_cancel_ends_a_running_setup(stack: Stack, tmp_path: Path) -> None:
    """Within seconds, with its processes."""
    async with stack.project() as project:
        execution = await submitted(stack, project, "[]", setup={"run": "echo begun; sleep 987654"})
        await project.running(execution, "begun")
        await project.client.cancel(execution)
        assert (await project.ended(execution)).state is State.CANCELLED
    left = [child for child in stack.children() if "987654" in command_line(child)]
    assert left == []


async def test_the_bodies_of_the_how_tos_run(stack: Stack, origin: Origin) -> None:
    """docs/how-to/use-secrets.md and set-up-workspaces.md: their tasks are accepted and do what the pages say."""
    tasks = {name: json.loads(block(f"docs/how-to/{page}.md", name)) for name, page in PAGES.items()}
    used = tasks["secret-task"]["secrets"]["TRACKER"]
    used["url"] = used["url"].replace("https://api.example.com", origin.url)
    said = {}
    async with stack.project() as project:
        api = "curl -s $OCF_SECRET_TRACKER_URL"
        for name, steps in (
            ("secret-task", f'[{{"run": "{api}/issues/1; {api}/users"}}]'),
            ("setup-task", '[{"run": "cat deps/marker"}]'),
        ):
            execution = await submitted(stack, project, steps, **tasks[name])
            assert (await project.archived(execution)).state is State.COMPLETED
            said[name] = first(await project.archive(execution), ChunkType.TOOL_RESULT)
    assert "/v1/issues/1 Bearer [redacted]" in said["secret-task"]
    assert "the path is not within /issues, /issues/*" in said["secret-task"]
    assert said["setup-task"] == "installed\n"
