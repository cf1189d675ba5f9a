"""The command line as a process: whom it talks to, and that nothing ends it with a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from ocf.stack.ports import free_port
from ocf.stack.state import LOCK, STATE, Running, locked
from tests.support.detached import running_stack

OCF = (sys.executable, "-m", "ocf.cli.main")
ROOT = Path(__file__).resolve().parents[2]
ID = "0b5f2f0e-6a3b-4c1e-9d70-3a6f7b1c2d3e"


class Gateway:
    """A gateway's GETs and its stream, scripted; it remembers what it was asked, and with which token."""

    def __init__(self, instance: str | None = "mine", port: int = 0) -> None:
        self.instance = instance
        self.port = port or free_port()
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.chunks: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        #: Answer of every call but `GET /health`.
        self.anything: dict[str, Any] | None = None
        self.finished = asyncio.Event()
        self.status = {"execution_id": ID, "project_id": "default", "status": "completed"}
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await serve(self._stream, "127.0.0.1", self.port, process_request=self._answer)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.split("?")[0]
        self.asked.append(path)
        self.tokens.extend(request.headers.get_all("Authorization"))
        if path.endswith("/stream"):
            return None
        bodies: dict[str, Any] = {"/health": {"status": "ok", "open": True, "instance": self.instance}}
        bodies |= {"/tasks": {"items": self.tasks}, f"/tasks/{ID}/status": self.status}
        found = self.anything if self.anything and path != "/health" else bodies.get(path)
        return connection.respond(
            HTTPStatus.OK if found else HTTPStatus.NOT_FOUND, json.dumps(found or {"detail": "no"})
        )

    async def _stream(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        first = int(connection.request.path.split("from=")[1].split("&")[0])
        for chunk in self.chunks:
            if chunk["seq"] >= first:
                await connection.send(json.dumps(chunk))
        waits = [asyncio.ensure_future(self.finished.wait()), asyncio.ensure_future(connection.wait_closed())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await connection.send(json.dumps({"type": "end"}))


@asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[Gateway]:
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


@contextmanager
def stack_in(data_dir: Path, url: str, instance: str = "mine") -> Iterator[None]:
    """A data directory as a running stack leaves it."""
    data_dir.mkdir(exist_ok=True)
    with locked(data_dir):
        say(data_dir, url, instance)
        yield


def say(data_dir: Path, url: str, instance: str = "mine") -> None:
    (data_dir / STATE).write_text(json.dumps(asdict(Running(url, instance, {"SANDBOX": "preferred"}))))


def environ(**more: str) -> dict[str, str]:
    names = ("OCF_GATEWAY", "OCF_CONTEXT", "OCF_DATA_DIR", "OCF_TOKEN", "PYTHONIOENCODING", "LC_ALL", "PYTHONUTF8")
    mine = {"PYTHONPATH": str(ROOT), "OCF_CONTEXTS": "/nonexistent"}
    return {**{k: v for k, v in os.environ.items() if k not in names}, **mine, **more}


async def ocf(*words: str, cwd: Path, stdout: Any = subprocess.PIPE, **env: str) -> tuple[int | None, str, str]:
    """Exit status, stdout and stderr of a verb; stderr never has a traceback."""
    process = await started(*words, cwd=cwd, stdout=stdout, **env)
    said, problems = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in problems, problems.decode()
    assert b"Exception ignored" not in problems, problems.decode()
    return process.returncode, (said or b"").decode(), problems.decode()


async def started(*words: str, cwd: Path, stdout: Any = subprocess.PIPE, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *OCF, *words, cwd=cwd, env=environ(**env), stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE
    )


async def line(process: asyncio.subprocess.Process, text: str) -> str:
    """The next line of its stderr with that text."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while said := (await process.stderr.readline()).decode():
            if text in said:
                return said
    raise AssertionError(f"it ended without saying {text!r}")


async def test_the_default_port_is_nobody_special(tmp_path: Path) -> None:
    """Whatever answers on 3003, a verb in an empty directory asks it nothing."""
    try:
        stranger = Gateway(port=3003)
        await stranger.start()
    except OSError:
        pytest.skip("port 3003 is in use on this machine")
    try:
        for where in (["list"], ["--data-dir", "x", "list"], ["list", "--data-dir", "x"]):
            status, _, problem = await ocf(*where, cwd=tmp_path)
            assert (status, "no stack runs in" in problem) == (1, True)
        assert stranger.asked == []
    finally:
        await stranger.stop()


async def test_a_stale_state_file_names_nobody(tmp_path: Path) -> None:
    """After a SIGKILL the file is still there; the lock is not held, so what answers at its URL is asked nothing."""
    async with serving(Gateway()) as stranger:
        (tmp_path / LOCK).write_text(str(os.getpid()))
        say(tmp_path, stranger.url)
        status, _, problem = await ocf("cancel", ID, "--data-dir", ".", cwd=tmp_path)
    assert (status, "no stack runs in ." in problem) == (1, True)
    assert stranger.asked == []


@pytest.mark.parametrize("instance", ["another", None])
async def test_another_server_on_the_port_is_asked_who_it_is_and_nothing_else(
    instance: str | None, tmp_path: Path
) -> None:
    """The stack runs, but its port answers as somebody else: an error, and that one never sees the token."""
    async with serving(Gateway(instance)) as stranger:
        with stack_in(tmp_path, stranger.url):
            for verb in (["delete", ID], ["run", "hello"]):
                status, _, problem = await ocf(*verb, "--data-dir", ".", cwd=tmp_path, OCF_TOKEN="secret")
                assert (status, "is not the stack of the data directory" in problem) == (1, True)
    assert set(stranger.asked) == {"/health"}
    assert stranger.tokens == []


async def test_a_stack_that_is_not_ready_says_so(tmp_path: Path) -> None:
    """It holds the directory and has not written where its gateway is."""
    with locked(tmp_path):
        status, _, problem = await ocf("list", "--data-dir", ".", cwd=tmp_path)
    assert (status, "is not ready" in problem, str(os.getpid()) in problem) == (1, True, True)


async def test_named_gateway_is_the_only_one_asked(tmp_path: Path) -> None:
    """--gateway, then --data-dir, then OCF_GATEWAY, then OCF_DATA_DIR; two options at once are refused."""
    async with serving(Gateway("one")) as one, serving(Gateway("two")) as two:
        with stack_in(tmp_path / "one", one.url, "one"), stack_in(tmp_path / "two", two.url, "two"):
            cases: list[tuple[list[str], dict[str, str], Gateway]] = [
                (["list", "--data-dir", "one"], {"OCF_GATEWAY": two.url}, one),
                (["--data-dir", "two", "list"], {"OCF_DATA_DIR": "one"}, two),
                (["--gateway", one.url, "list"], {"OCF_GATEWAY": two.url, "OCF_DATA_DIR": "two"}, one),
                (["list"], {"OCF_GATEWAY": two.url, "OCF_DATA_DIR": "one"}, two),
                (["list"], {"OCF_DATA_DIR": "one"}, one),
            ]
            for words, env, meant in cases:
                before = {one: len(one.asked), two: len(two.asked)}
                assert (await ocf(*words, "--json", cwd=tmp_path, **env))[:2] == (0, "[]\n")
                other = two if meant is one else one
                assert (len(meant.asked) > before[meant], len(other.asked) - before[other]) == (True, 0)
            refused = await ocf("--gateway", one.url, "list", "--data-dir", "two", cwd=tmp_path)
            assert (refused[0], "exclude each other" in refused[2]) == (1, True)


@pytest.mark.timeout(240)
async def test_two_stacks_side_by_side(tmp_path: Path) -> None:
    """Each directory's verbs reach its own stack; doctor shows its configuration, or says that it is the shell's."""
    limits = [{"TASK_TIMEOUT": "111"}, {"TASK_TIMEOUT": "222"}]
    with running_stack(tmp_path / "a", limits[0]) as a, running_stack(tmp_path / "b", limits[1]) as b:
        for stack in (a, b):
            assert json.loads(stack.ocf("list", "--json").stdout) == []
        execution = a.ocf("submit", "hello").stdout.strip()
        assert a.ocf("watch", execution, "--json").returncode == 0
        refused = b.ocf("status", execution)
        assert (refused.returncode, json.loads(b.ocf("list", "--json").stdout)) == (1, [])
        for stack, seconds in ((a, 111), (b, 222)):
            shown = json.loads(stack.ocf("doctor", "--json").stdout)
            assert (shown["settings_of"], shown["settings"]["TASK_TIMEOUT"]) == ("stack", seconds)
            assert shown["settings"]["ENCRYPTION_KEY"] == "********"
    shown = json.loads((await ocf("doctor", "--json", "--data-dir", "a", cwd=tmp_path, TASK_TIMEOUT="333"))[1])
    assert (shown["settings_of"], shown["settings"]["TASK_TIMEOUT"]) == ("shell", 333)
    said = (await ocf("doctor", "--data-dir", "a", cwd=tmp_path))[1]
    assert "no stack runs there to ask" in said


async def test_watch_says_that_the_gateway_is_away_and_goes_on_without_loss(tmp_path: Path) -> None:
    """It comes back on another port, as a new start may; every chunk is shown once, in order."""
    first, second = Gateway("first"), Gateway("second")
    said = [{"seq": n, "type": "text", "data": f"{n}\n", "attempt": 1} for n in range(1, 7)]
    first.chunks, second.chunks = said[:3], said
    second.finished.set()
    await first.start()
    with stack_in(tmp_path, first.url, "first"):
        process = await started("watch", ID, "--json", "--data-dir", ".", cwd=tmp_path)
        assert process.stdout is not None
        shown = [json.loads(await process.stdout.readline())["seq"] for _ in range(3)]
        await first.stop()
        assert first.url in await line(process, "disconnected")
        (tmp_path / STATE).unlink()
        async with serving(second):
            say(tmp_path, second.url, "second")
            assert second.url in await line(process, "reconnected")
            rest, problems = await asyncio.wait_for(process.communicate(), 60)
    shown += [json.loads(one).get("seq") for one in rest.splitlines()]
    assert shown == [1, 2, 3, 4, 5, 6, None]
    assert (process.returncode, b"Traceback" in problems) == (0, False)


async def test_watch_gives_up_in_the_end(tmp_path: Path) -> None:
    """Exit status 5, and from where to go on."""
    gateway = Gateway()
    gateway.chunks = [{"seq": 1, "type": "text", "data": "1\n", "attempt": 1}]
    await gateway.start()
    with stack_in(tmp_path, gateway.url):
        process = await started("watch", ID, "--json", "--give-up", "0.5", "--data-dir", ".", cwd=tmp_path)
        assert process.stdout is not None
        await process.stdout.readline()
        await gateway.stop()
        assert f"ocf watch {ID} --from 2" in await line(process, "gave up")
        assert await asyncio.wait_for(process.wait(), 30) == 5


@pytest.mark.parametrize("verb", [["list"], ["list", "--json"], ["doctor"], ["--help"], ["watch", ID]], ids=" ".join)
async def test_a_closed_pipe_ends_a_verb_quietly(verb: list[str], tmp_path: Path) -> None:
    """`ocf list | head -1`: nothing on stderr. Who followed a run did not see it complete, so that is no 0."""
    async with serving(Gateway()) as gateway:
        gateway.tasks = [
            {"execution_id": ID, "status": "completed", "submitted_at": "2026-01-01T00:00:00Z", "title": "t" * 500}
        ] * 400
        gateway.chunks = [{"seq": n, "type": "text", "data": "x" * 1000 + "\n", "attempt": 1} for n in range(1, 300)]
        gateway.finished.set()
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as nobody:
            status, _, problem = await ocf(*verb, cwd=tmp_path, stdout=nobody, OCF_GATEWAY=gateway.url)
    assert (status, problem) == (141 if verb[0] == "watch" else 0, "")


@pytest.mark.parametrize("verb", [["watch", ID], ["watch", ID, "--json"]], ids=" ".join)
async def test_a_reader_that_leaves_in_the_middle_ends_a_verb_quietly(verb: list[str], tmp_path: Path) -> None:
    """`ocf watch ID | head -3` while more output waits in the connection: nothing on stderr."""
    async with serving(Gateway()) as gateway:
        gateway.chunks = [
            {"seq": n, "type": "text", "data": "x" * 5000 + "\n", "attempt": 1, "timestamp": "2026-01-01T00:00:00Z"}
            for n in range(1, 2000)
        ]
        gateway.finished.set()
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            running = asyncio.create_task(ocf(*verb, cwd=tmp_path, stdout=pipe, OCF_GATEWAY=gateway.url))
            await asyncio.to_thread(os.read, reading, 1000)
            os.close(reading)
            status, _, problem = await running
    assert (status, problem) == (141, "")


@pytest.mark.parametrize("verb", [["list", "--json"], ["doctor"], ["--help"], ["watch", ID]], ids=" ".join)
async def test_a_full_disk_is_one_line(verb: list[str], tmp_path: Path) -> None:
    """`ocf list > file` on a full disk says that the output could not be written, and fails."""
    async with serving(Gateway()) as gateway:
        gateway.chunks = [{"seq": n, "type": "text", "data": "x" * 1000 + "\n", "attempt": 1} for n in range(1, 300)]
        gateway.finished.set()
        with open("/dev/full", "wb") as full:
            status, _, problem = await ocf(*verb, cwd=tmp_path, stdout=full, OCF_GATEWAY=gateway.url)
    assert (status, problem.count("\n"), "No space left on device" in problem) == (1, 1, True)


@pytest.mark.parametrize(
    ("verb", "answer", "said"),
    [
        ("list", {"items": []}, "no executions in project default"),
        ("session list", {"items": []}, "no sessions in project default"),
        ("trigger list", {"triggers": []}, "no rules in project default"),
        ("schedule list", {"schedules": []}, "no schedules in project default"),
        ("credential list", {"credentials": []}, "no credentials in project default"),
        ("hook list team", {"hooks": []}, "no hooks in project team"),
        ("dlq list", {"items": []}, "no dead letters"),
    ],
)
async def test_an_empty_list_says_so(verb: str, answer: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Silence would look like a verb that did nothing."""
    async with serving(Gateway()) as gateway:
        gateway.anything = answer
        status, shown, problem = await ocf(*verb.split(), cwd=tmp_path, OCF_GATEWAY=gateway.url)
    assert (status, shown.strip(), problem) == (0, said, "")


async def test_a_data_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """`ocf up` where a file stands in the way."""
    (tmp_path / "file").touch()
    status, _, problem = await ocf("up", "--data-dir", "file/data", cwd=tmp_path)
    assert (status, problem.count("\n"), "file" in problem) == (1, 1, True)


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "xx", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
async def test_a_locale_without_the_characters_loses_none_in_json(locale: dict[str, str], tmp_path: Path) -> None:
    """Text has stand-ins for them; JSON escapes, so half an emoji survives too."""
    async with serving(Gateway()) as gateway:
        title = "Grüße 🚀 \ud83d"
        gateway.tasks = [
            {"execution_id": ID, "status": "completed", "submitted_at": "2026-01-01T00:00:00Z", "title": title}
        ]
        gateway.status["message"] = title
        gateway.finished.set()
        env = {**locale, "OCF_GATEWAY": gateway.url}
        status, said, _ = await ocf("list", "--json", cwd=tmp_path, **env)
        assert (status, json.loads(said)[0]["title"]) == (0, title)
        for verb in (["list"], ["status", ID], ["doctor"], ["--help"], ["watch", ID]):
            status, said, _ = await ocf(*verb, cwd=tmp_path, **env)
            assert said.isascii()
            assert status == 0 or verb == ["doctor"]


async def test_half_an_emoji_in_utf8_is_no_end(tmp_path: Path) -> None:
    """What no encoding has is replaced, whatever the locale."""
    async with serving(Gateway()) as gateway:
        gateway.chunks = [{"seq": 1, "type": "text", "data": "Fix the \ud83d\n", "attempt": 1}]
        gateway.finished.set()
        status, said, _ = await ocf("watch", ID, cwd=tmp_path, OCF_GATEWAY=gateway.url)
    assert (status, "Fix the ?" in said) == (0, True)


async def test_a_prompt_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    """Before anything is sent."""
    async with serving(Gateway()) as gateway:
        process = await asyncio.create_subprocess_exec(
            *OCF, "submit", b"a\xff", cwd=tmp_path, env=environ(OCF_GATEWAY=gateway.url), stderr=subprocess.PIPE
        )
        _, problem = await process.communicate()
    assert (process.returncode, b"PROMPT (field prompt): is not UTF-8 (byte 1)" in problem) == (2, True)
    assert gateway.asked == []


async def test_answer_of_another_server_is_a_one_line_error(tmp_path: Path) -> None:
    """A server that answers 200 and something else."""
    async with serving(Gateway()) as gateway:
        gateway.tasks = [{"wrong": True}]
        status, _, problem = await ocf("list", cwd=tmp_path, OCF_GATEWAY=gateway.url)
    assert (status, problem.count("\n")) == (1, 1)


async def test_ctrl_c_ends_a_verb_with_130(tmp_path: Path) -> None:
    """While it follows a run, it says how to come back; while it looks for a gateway, nothing."""
    async with serving(Gateway()) as gateway:
        gateway.chunks = [{"seq": 1, "type": "text", "data": "1\n", "attempt": 1}]
        watching = await started("watch", ID, "--json", cwd=tmp_path, OCF_GATEWAY=gateway.url)
        assert watching.stdout is not None
        await watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert "it continues" in await line(watching, f"ocf watch {ID}")
        _, problems = await asyncio.wait_for(watching.communicate(), 30)
        assert (watching.returncode, b"Traceback" in problems) == (130, False)
        gateway.finished.set()
    looking = await started("watch", ID, cwd=tmp_path, OCF_GATEWAY=f"http://127.0.0.1:{free_port()}")
    await line(looking, "disconnected")
    looking.send_signal(signal.SIGINT)
    _, problems = await asyncio.wait_for(looking.communicate(), 30)
    assert (looking.returncode, b"Traceback" in problems) == (130, False)


#: Interrupts itself when it imports the module named by the first argument.
_INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == MOMENT:
            os.kill(os.getpid(), signal.SIGINT)
MOMENT = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
from ocf.cli.main import main
main()
"""


async def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path) -> None:
    """At any moment of the imports, which take most of a short verb's time."""
    for moment in ("typer", "ocf.cli.tasks", "httpx2", "ocf.events.client.gateway"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _INTERRUPTED, moment, "--gateway", "http://127.0.0.1:9", "list"),
            cwd=tmp_path,
            env=environ(),
            stderr=subprocess.PIPE,
        )
        _, problems = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, problems) == (130, b""), moment
