"""The red team: a hostile agent, with the real OpenCode's shell tool, on a whole stack with `SANDBOX=required`.

Every row of `tests/support/redteam.py` is tried. The rows of one list share an execution, each being one tool call of
its own; what ends an execution has one of its own. Beside all of them runs a neighbour, which must not notice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import pytest_asyncio

from ocf.events.execution_record import Record
from ocf.functions.execute.sandbox.policy import sandbox_support
from ocf.functions.execute.sandbox.users import cannot_change_users
from ocf.functions.models.offline_model import OfflineModel
from tests.support.hostile import (
    KEY,
    OUTSIDE,
    READS,
    SCRIPTS,
    bomb_prompt,
    contents,
    held,
    hostile,
    leaks,
    script,
    shell_of,
)
from tests.support.offline import OPENCODE, offline_spec
from tests.support.redteam import BOMBS, INSIDE, SHARED, TRAPS, Bomb, fixtures
from tests.support.stack import Project, Stack, running_stack, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(sandbox_support().missing), reason=f"no {', '.join(sandbox_support().missing)}"),
    pytest.mark.skipif(not OPENCODE.exists(), reason="OpenCode is not installed: make install"),
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]
#: Seconds. OpenCode boots in ten on two quiet cores; at load 20 it takes ten times as long.
PATIENCE = 240.0
#: Why executions cannot have users of their own here, if so.
WHY = cannot_change_users(200_000, 265_535, ())


@dataclass
class Field:
    """What the attempts aim at."""

    stack: Stack
    project: Project
    #: Whatever is written, read or removed in here would be a breach.
    outside: Path
    neighbour: str
    neighbour_process: psutil.Process
    before: dict[str, bytes | str]

    def look(self) -> dict[str, bytes | str]:
        """Everything in `outside`."""
        return contents(self.outside)

    async def leak(self, execution: str) -> list[str]:
        """Where something that was planted turns up in what an execution left."""
        chunks = await self.project.chunks(execution)
        return await leaks(chunks, self.project.store, f"{self.project.name}/{execution}/", (KEY, OUTSIDE))


def workspace_of(agent: psutil.Process) -> Path:
    return Path(agent.environ()["HOME"]).parent / "workspace"


def agent_of(stack: Stack, workspace_has: str) -> psutil.Process | None:
    """The OpenCode below whose workspace is a file of that name."""
    for child in stack.children():
        try:
            if (
                "serve" in child.cmdline()
                and (Path(child.environ()["HOME"]).parent / "workspace" / workspace_has).exists()
            ):
                return child
        except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
            continue
    return None


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["root", "unprivileged"])
async def field(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Field]:
    """The stack, the neighbour at work, and in `outside` what must stay as it is and unknown.

    As root each execution has a user of its own; without capabilities all have that of the stack.
    """
    privileged = request.param == "root"
    if privileged and WHY is not None:
        pytest.skip(WHY)
    top = tmp_path_factory.mktemp("redteam")
    (top / "script.json").write_text(fixtures(SCRIPTS))
    outside = top / "outside"
    outside.mkdir()
    (outside / "secret").write_text(OUTSIDE)
    async with OfflineModel(offline_spec([top / "script.json"])) as model:
        environ = {
            "OPENCODE_BIN": str(OPENCODE),
            "OCF_MODEL": "openai/scripted",
            "OCF_MODEL_ENDPOINT": model.base_url,
            "OPENCODE_API_KEY": KEY,
            "SANDBOX": "required",
            "WORKSPACE_SOURCES": f"{top}/sources,{top}/data/workspaces",
        }
        with running_stack(top, privileged=privileged, **environ) as stack:
            async with stack.project() as project:
                neighbour = await project.submit("red stays")

                async def at_work() -> psutil.Process | None:
                    return agent_of(stack, "secret")

                process = await until(at_work, timeout=PATIENCE, what="the neighbour is at work")
                yield Field(stack, project, outside, neighbour, process, contents(outside))


def targets(field: Field) -> str:
    """Where everything is: the shell's variables."""
    config = json.loads(field.neighbour_process.environ()["OPENCODE_CONFIG_CONTENT"])
    options = config["provider"]["ocf-openai"]["options"]
    arguments = field.neighbour_process.cmdline()
    function = field.stack.workers()[0].pid  # there are the keys, and not in its parent
    answer = field.stack.answer
    found = {
        "OUTSIDE": str(field.outside),
        "STATE": str(field.stack.data_dir / "state"),
        "FUNCTION": str(function),
        "SUPERVISOR": str(field.neighbour_process.ppid()),
        "NEIGHBOUR": str(field.neighbour_process.pid),
        "NEIGHBOUR_DIR": str(workspace_of(field.neighbour_process)),
        "NEIGHBOUR_SERVER": f"127.0.0.1:{arguments[arguments.index('--port') + 1]}",
        "NEIGHBOUR_BROKER": urlsplit(options["baseURL"]).netloc,
        "NEIGHBOUR_TOKEN": options["apiKey"],
        "NATS": f"127.0.0.1:{urlsplit(answer['nats']).port}",
        "S3": f"127.0.0.1:{urlsplit(answer['s3_endpoint']).port}",
        "GATEWAY": f"127.0.0.1:{urlsplit(answer['gateway']).port}",
        "EXECUTE": f"127.0.0.1:{json.loads((field.stack.data_dir / 'ports.json').read_text())['execute']}",
    }
    return script(found)


def left_behind(field: Field) -> Iterator[psutil.Process]:
    """Processes of agents, the neighbour's apart."""
    its = {field.neighbour_process.ppid(), field.neighbour_process.pid}
    its |= {child.pid for child in field.neighbour_process.children(recursive=True)}
    yield from (child for child in field.stack.children() if child.pid not in its and child.is_running())


async def test_nothing_inside_gets_out(field: Field) -> None:
    """Every attempt from a shell inside is denied, in a workspace that is hostile itself; the run completes, what it
    planted for the diff, the archive and its own next prompt leads nowhere, and no daemon outlives it."""
    source = field.stack.data_dir.parent / "sources/hostile"
    hostile(source, field.outside / "sprung")
    (source / "redteam.sh").write_text(targets(field))
    project = field.project
    execution = await project.submit("red inside", workspace={"source": "directory", "path": str(source)})
    await project.running(execution, "asking", PATIENCE)
    await project.client.reply(execution, "prompt", "red again")
    record = await project.archived(execution, PATIENCE)
    chunks = await project.chunks(execution)
    wrong = [one for row in (*INSIDE, *TRAPS) for one in held(row, shell_of(row, "red inside", chunks))]
    assert not wrong, "\n\n".join(wrong)
    assert (record.state, record.result) == ("completed", "Done."), (record.reason, record.message)
    assert any("follow-up" in chunk.data for chunk in chunks)
    assert field.look() == field.before
    assert await field.leak(execution) == []
    assert {"workspace.patch", "workspace.tar.zst"} <= await project.objects(execution)
    assert list(left_behind(field)) == []
    await again(field, {"source": "snapshot", "execution_id": execution}, "completed")


async def test_files_planted_for_the_next_run_have_no_effect(field: Field) -> None:
    """An agent in a shared folder plants links and hooks where the next clone or copy looks, then it ignores every
    signal: cancelled, it is gone with all its processes. The copy and the clone are refused, and have run nothing."""
    project = field.project
    shared = field.stack.data_dir / "workspaces/team"
    shared.mkdir(parents=True)
    (shared / "redteam.sh").write_text(targets(field))
    execution = await project.submit("red shared", workspace={"source": "shared", "path": "team"})
    await project.running(execution, "deaf now\n", PATIENCE)
    await project.client.cancel(execution)
    await project.fact(execution, "cancelled", 5)
    assert list(left_behind(field)) == []
    (row,) = SHARED
    assert held(row, shell_of(row, "red shared", await project.chunks(execution))) == []
    await asyncio.gather(
        again(field, {"source": "directory", "path": str(shared / "way")}, "failed"),
        again(field, {"source": "git", "url": f"file://{shared}/repo", "submodules": True}, "failed"),
    )
    assert field.look() == field.before


async def again(field: Field, workspace: dict[str, object], state: str) -> None:
    """The next execution gets what was planted: it sees nothing either."""
    execution = await field.project.submit("red reads", workspace=workspace)
    record = await field.project.archived(execution, PATIENCE)
    assert record.state == state, (workspace, record.reason, record.message)
    assert state == "completed" or record.reason == "invalid_workspace", record
    if state == "completed":
        said = shell_of(READS, "red reads", await field.project.chunks(execution))
        assert "looked" in said
        assert OUTSIDE not in said
    assert await field.leak(execution) == []


async def test_each_bomb_ends_its_own_execution(field: Field) -> None:
    """What fills processes, memory, disk or output ends as `failed` with its reason; nothing of it is left, and the
    neighbour is still at work. All four at once: none ends another's run."""

    async def ends(bomb: Bomb) -> None:
        execution = await field.project.submit(bomb_prompt(bomb), limits=bomb.limits)
        record: Record = await field.project.ended(execution, PATIENCE)
        assert (record.state, record.reason) == ("failed", bomb.reason), record
        assert bomb.said in (record.message or "")

    await asyncio.gather(*map(ends, BOMBS))
    assert list(left_behind(field)) == []
    neighbour = await field.project.record(field.neighbour)
    assert neighbour is not None
    assert neighbour.state == "running"


async def test_the_neighbour_has_not_noticed(field: Field) -> None:
    """After all of it the neighbour completes in its first attempt, and the function is the same process as before."""
    (workspace_of(field.neighbour_process) / "gate").write_text("go on\n")
    record = await field.project.ended(field.neighbour, PATIENCE)
    assert (record.state, len(record.attempts)) == ("completed", 1), record
    assert field.look() == field.before

    async def gone() -> bool:
        return not field.neighbour_process.is_running()

    await until(gone, what="the neighbour's processes end")
