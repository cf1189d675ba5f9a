"""`ocf up`, `ocf down`, `ocf creds`: the embedded stack. `ocf mcp`: a stack as tools of another agent."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ocf.cli.common import (
    DEFAULT_DATA_DIR,
    DEFAULT_PROJECT,
    DataDir,
    JsonFlag,
    Project,
    fail,
    local_directory,
    plain,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocf.stack.process_specs import Layout, Plan
    from ocf.stack.processes import Child

_READY_FD = "OCF_READY_FD"


def up(
    data_dir: DataDir = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is ready; it continues in the background.")
    ] = False,
    port: Annotated[int, typer.Option("--port", envvar="PORT", help="Port of the gateway; 0: 3003 or a free one.")] = 0,
    json_output: JsonFlag = False,
) -> None:
    """Start the embedded stack: NATS, S3, the functions, the dispatcher, the console.

    Everything listens on loopback only and is stored below the data directory. With --json one line is printed once
    everything is ready: the addresses of gateway, NATS, S3 and console, and credentials. With --detach a stack that is
    already up is left unchanged, and its line is printed.
    """
    chosen = local_directory(data_dir)
    if detach:
        _detach(chosen, port, json_output)
    _foreground(chosen, port, json_output)


def down(data_dir: DataDir = None, json_output: JsonFlag = False) -> None:
    """Stop the embedded stack. Its data stays; `ocf up` continues from there."""
    import signal

    from ocf.stack.process_specs import Layout
    from ocf.stack.state import running_pid

    layout = Layout(local_directory(data_dir).resolve())
    pid = running_pid(layout.data_dir)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        _wait_gone(layout, pid)
    if json_output:
        print_json({"stopped": pid is not None, "data_dir": str(layout.data_dir)})
    else:
        sys.stdout.write("stopped\n" if pid else f"nothing runs in {layout.data_dir}\n")


def creds(
    project: Project = None,
    ttl: Annotated[int, typer.Option("--ttl", min=0, help="Seconds until they expire; 0: never.")] = 0,
    data_dir: DataDir = None,
    json_output: JsonFlag = False,
) -> None:
    """Print NATS credentials for a backend of one project, which may subscribe to its facts and output.

    They may publish nothing; such a backend submits over REST (docs/how-to/publish-events.md). For all projects:
    `ocf up --json`.
    """
    import time

    from ocf.events.errors import InvalidEvent
    from ocf.events.subjects import check_project
    from ocf.functions.runtime.nats_auth import PROJECT_BACKEND, mint_user
    from ocf.stack.keys import load

    chosen, project = local_directory(data_dir), project or DEFAULT_PROJECT
    keys = load(chosen)
    if keys is None:
        fail(f"no stack has run in {chosen}; `ocf up` makes its keys")
    try:
        found = mint_user(keys.trust, PROJECT_BACKEND, int(time.time()), project=check_project(project), ttl=ttl)
    except InvalidEvent as error:
        fail(str(error))
    if json_output:
        print_json({"project_id": project, "jwt": found.jwt, "seed": found.seed, "expires_at": found.expires_at})
    else:
        sys.stdout.write(found.file())


def mcp(project: Project = None, data_dir: DataDir = None) -> None:
    """Serve MCP on standard input and output: tools to submit, watch, answer and cancel tasks, and to read results."""
    from ocf.cli.where import where

    try:
        from ocf.cli.mcp_server import server
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; run: pip install 'opencode-functions[mcp]'")
    server(lambda: where(project, data_dir)).run("stdio")


def _wait_gone(layout: Layout, pid: int, patience: float = 60.0) -> None:
    import time

    import psutil

    from ocf.stack.state import running_pid

    def runs() -> bool:
        if running_pid(layout.data_dir) == pid:
            return True
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + patience
    while runs():
        if time.monotonic() > deadline:
            fail(f"pid {pid} does not end; see the logs, or: kill -9 {pid}")
        time.sleep(0.02)


def _foreground(data_dir: Path, port: int, json_output: bool) -> NoReturn:
    import asyncio

    from ocf.functions.settings.settings import load_or_exit
    from ocf.stack.keys import make_private_dir
    from ocf.stack.ports import PortTaken
    from ocf.stack.process_specs import Layout
    from ocf.stack.processes import StackFailed
    from ocf.stack.state import AlreadyUp, locked
    from ocf.stack.tools import Missing
    from ocf.stack.up import prepare

    load_or_exit()
    say = _reporter()
    layout = Layout(make_private_dir(data_dir).resolve())
    try:
        with locked(layout.data_dir):
            plan = prepare(layout.data_dir, dict(os.environ), port=port, own_dir=data_dir != DEFAULT_DATA_DIR)
            asyncio.run(_run(plan, json_output, say))
    except (AlreadyUp, PortTaken, StackFailed, Missing) as error:
        _answer_parent({"error": str(error)})
        fail(str(error))
    raise typer.Exit(0)


async def _run(plan: Plan, json_output: bool, say: Callable[[str], None]) -> None:
    import asyncio
    import signal
    import time

    from ocf.stack.up import run

    started = time.monotonic()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def ready(children: list[Child]) -> None:
        if _answer_parent(plan.answer()):
            return
        if json_output:
            print_json(plan.answer())
        else:
            _show(plan, children, time.monotonic() - started)

    await run(plan, on_ready=ready, stop=stop, say=say)


def _reporter() -> Callable[[str], None]:
    def say(line: str) -> None:
        sys.stderr.write(f"ocf: {line}\n")
        sys.stderr.flush()

    return say


def _show(plan: Plan, children: list[Child], seconds: float) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    from ocf.stack.process_specs import OFFLINE_NOTICE
    from ocf.stack.tools import IN_CHECKOUT, INSTALL

    answer = plan.answer()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for label, value in (
        ("console", answer["console"] or f"not there ({INSTALL})"),
        ("gateway", answer["gateway"]),
        ("NATS", f"{answer['nats']}  ·  WebSocket {answer['nats_ws']}"),
        ("S3", f"{answer['s3_endpoint']}  bucket {answer['s3_bucket']}"),
        ("credentials", plain(answer["nats_creds"])),
        ("model", f"[yellow]{OFFLINE_NOTICE}[/] (set ANTHROPIC_API_KEY, OPENAI_API_KEY or OCF_MODEL for a real one)")
        if plan.offline
        else ("model", plain(plan.environ.get("OCF_MODEL") or "the provider of the key that is set")),
        ("logs", plain(plan.layout.logs)),
        ("processes", "  ".join(f"{child.spec.name} {child.pid}" for child in children)),
    ):
        grid.add_row(label, value)
    console = Console()
    console.print(Panel(grid, title=f"OpenCode functions · ready in {seconds:.1f} s", border_style="green"))
    where = "demo/repo" if IN_CHECKOUT else "."
    console.print(
        f"Try: [bold]ocf run 'Run the tests and fix what fails' --dir {where}[/]   ·   Ctrl-C stops everything"
    )


def _detach(data_dir: Path, port: int, json_output: bool) -> NoReturn:
    """Start `ocf up` in a session of its own and wait for its one line on an inherited pipe."""
    import subprocess

    from ocf.functions.settings.settings import load_or_exit
    from ocf.stack.keys import make_private_dir
    from ocf.stack.process_specs import Layout
    from ocf.stack.state import running_pid

    layout = Layout(make_private_dir(data_dir).resolve())
    if running_pid(layout.data_dir) is not None and layout.answer.exists():
        _print_answer(json.loads(layout.answer.read_text()), data_dir, json_output)
    load_or_exit()  # the other process could only write what is wrong to its log
    reading, writing = os.pipe()
    make_private_dir(layout.logs)
    argv = [sys.executable, "-m", "ocf.cli.main", "up", "--data-dir", str(data_dir), "--port", str(port)]
    environ = {**os.environ, _READY_FD: str(writing), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (layout.logs / "ocf.log").open("ab") as log:
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, pass_fds=[writing],
            start_new_session=True,
        )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            line = pipe.readline()
    except KeyboardInterrupt:
        sys.stderr.write(f"ocf: the stack is still starting; `{_down(data_dir)}` stops it\n")
        raise
    if not line:
        fail(f"it did not start; see {layout.logs / 'ocf.log'}")
    answer = json.loads(line)
    if "error" in answer:
        fail(answer["error"])
    _print_answer(answer, data_dir, json_output)


def _print_answer(answer: dict[str, str | None], data_dir: Path, json_output: bool) -> NoReturn:
    if json_output:
        print_json(answer)
    else:
        for name in ("console", "gateway", "nats", "nats_ws", "s3_endpoint", "nats_creds"):
            sys.stdout.write(f"{name:12} {answer[name] or '-'}\n")
        sys.stdout.write(f"up; `{_down(data_dir)}` stops it\n")
    raise typer.Exit(0)


def _down(data_dir: Path) -> str:
    """Return the command that stops the stack of a data directory."""
    return "ocf down" if data_dir == DEFAULT_DATA_DIR else f"ocf down --data-dir {shlex.quote(str(data_dir))}"


def _answer_parent(answer: object) -> bool:
    """Answer the `ocf up --detach` that waits for this process, if there is one."""
    descriptor = os.environ.pop(_READY_FD, None)
    if descriptor is None:
        return False
    with os.fdopen(int(descriptor), "w") as pipe:
        pipe.write(json.dumps(answer) + "\n")
    return True
