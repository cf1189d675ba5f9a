"""The red team in a pod: a hostile agent in a container of its own, beside the one that holds the keys.

The attempts are those of `tests/integration/test_redteam.py`, made by the real OpenCode in executions like any other.
What an agent could find of others is planted by a shell in its container: a process and folders of its own user, with
no sandbox around them and open to all, so that nothing but the sandbox and the containers is in the way.
"""

from __future__ import annotations

import asyncio
import json
import socket
import tarfile
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from errno import EROFS
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import zstandard

from ocf.events.execution_record import Record
from ocf.events.output import Chunk
from tests.support.cluster import (
    NAMESPACE,
    NEEDS_CLUSTER,
    Cluster,
    cluster,
    kubectl,
    objects,
    pod_of,
    scaled,
    secret_values,
    until,
)
from tests.support.hostile import (
    NEIGHBOUR,
    OUTSIDE,
    PROBES,
    READS,
    bomb_prompt,
    held,
    hostile,
    leaks,
    script,
    shell_of,
)
from tests.support.probe import ATTACKS, PROBE
from tests.support.redteam import BOMBS, INSIDE, TRAPS, Bomb

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(900)]
HONEST = "Please work slowly"
PATIENCE = 300.0
#: Where both containers see it. Whatever is written, read or removed in here would be a breach.
FIELD = "/agent/outside"
#: What another execution would have in the same container: its processes and folders are of the same user.
OTHERS = "/agent/neighbour/workspace"
PLANT = f"""
umask 0; mkdir -p {FIELD} {OTHERS}; printf %s {OUTSIDE} > {FIELD}/secret; printf %s {NEIGHBOUR} > {OTHERS}/secret
SECRET={NEIGHBOUR} setsid sleep 3600 > /dev/null 2>&1 < /dev/null & echo $!
"""
#: Everything that is planted, with what is in it.
LOOK = f"cd {FIELD} && find . | sort && cat secret; cd {OTHERS} && find . | sort && cat secret"
#: Every process of the container: its id, its parent's, command line and environment.
PROCESSES = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = [open(f"/proc/{pid}/{name}").read().split("\\0")[:-1] for name in ("cmdline", "environ")]
        parent = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    except OSError:
        continue
    environ = dict(word.partition("=")[::2] for word in words[1])
    found.append({"pid": int(pid), "parent": parent, "argv": words[0], "environ": environ})
print(json.dumps(found))
"""
#: Programs that only what an agent starts, or a test, runs.
SHELLS = {"sh", "bash", "sleep", "head", "tail", "yes", "git"}


async def inside(pod: str, *command: str, given: str | None = None) -> str:
    """What a command in the agent's container says, as its user and without a sandbox."""
    options = ("-i",) if given is not None else ()
    return await kubectl("exec", *options, pod, "-c", "agent", "--", *command, given=given)


async def processes(pod: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await inside(pod, "python", "-I", "-S", "-c", PROCESSES))
    return found


async def left_behind(pod: str, *known: int) -> list[dict[str, Any]]:
    """Processes of agents' shells that are still there."""
    return [
        one
        for one in await processes(pod)
        if one["pid"] not in known and one["argv"] and Path(one["argv"][0]).name in SHELLS
    ]


async def restarts(pod: str) -> dict[str, int]:
    """How often each container of a pod was started again."""
    [found] = await objects("pods", "--field-selector", f"metadata.name={pod}")
    return {one["name"]: one["restartCount"] for one in found["status"]["containerStatuses"]}


@dataclass
class Server:
    """The OpenCode of an execution, as a shell in its container sees it."""

    execution: str
    pod: str
    supervisor: int
    workspace: str
    port: int
    broker: int
    token: str

    async def open_gate(self) -> None:
        """Let the agent go on, who waits there."""
        await inside(self.pod, "sh", "-c", f"echo go on > {self.workspace}/gate")


async def at_gate(here: Cluster, execution: str) -> Server:
    """Where an execution runs, once its agent waits for its gate to open."""
    pod = await pod_of(await here.running(execution, said=1))
    found: list[Server] = []

    async def waits() -> bool:
        for one in await processes(pod):
            if "serve" in one["argv"]:
                config = json.loads(one["environ"]["OPENCODE_CONFIG_CONTENT"])
                options = next(iter(config["provider"].values()))["options"]
                workspace = str(Path(one["environ"]["HOME"]).parent / "workspace")
                port = int(one["argv"][one["argv"].index("--port") + 1])
                broker = urlsplit(options["baseURL"]).port or 0
                found[:] = [Server(execution, pod, one["parent"], workspace, port, broker, options["apiKey"])]
        ready = (
            f"[ -p {found[0].workspace}/gate ] && [ -s {found[0].workspace}/secret ] && echo yes; true" if found else ""
        )
        return bool(found) and "yes" in await inside(pod, "sh", "-c", ready)

    await until(f"the agent of {execution} waits", waits, PATIENCE)
    return found[0]


@asynccontextmanager
async def gated(here: Cluster, prompt: str, **request: Any) -> AsyncIterator[Server]:
    """An execution that waits at its gate; whatever happens, nothing of it runs on after the block."""
    execution = await here.client.submit(prompt=prompt, **request)
    try:
        yield await at_gate(here, execution)
    finally:
        if not (await here.client.status(execution)).terminal:
            await here.client.cancel(execution)


async def chunks(here: Cluster, execution: str) -> list[Chunk]:
    """All that it has said; it has ended."""
    return [chunk async for chunk in here.client.watch(execution)]


async def heard(here: Cluster, execution: str, word: str) -> None:
    """Wait until an execution has said that."""
    async with asyncio.timeout(PATIENCE):
        async for chunk in here.client.watch(execution):
            if word in chunk.data:
                return
    raise AssertionError(f"{execution} has ended and never said {word!r}")


async def leaked(here: Cluster, execution: str) -> list[str]:
    """What of the keys, or of what was planted, an execution left."""
    prefix = f"{here.project}/{execution}/"
    return await leaks(await chunks(here, execution), here.store, prefix, (OUTSIDE, *await secret_values()))


async def snapshot(here: Cluster, folder: Path) -> str:
    """Put a folder there as the workspace that an execution has left; returns that execution's id."""
    execution = str(uuid.uuid4())
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in folder.iterdir():
            tar.add(path, arcname=path.name)
    data = zstandard.ZstdCompressor().compress(packed.getvalue())
    await here.store.put(f"{here.project}/{execution}/workspace.tar.zst", data)
    return execution


@asynccontextmanager
async def another(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Another project."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        async with cluster(Path(folder), f"e2e-{uuid.uuid4().hex[:8]}") as connected:
            yield connected


@asynccontextmanager
async def honest_beside(here: Cluster) -> AsyncIterator[None]:
    """An honest run, in a pod of its own, which completes in one attempt and without a gap."""
    execution = await here.client.submit(prompt=HONEST)
    await here.running(execution)
    yield
    await here.completed_once(execution)


async def targets(attacker: Server, neighbour: Server, planted: int) -> dict[str, str]:
    """Where everything is: the shell's variables."""
    [pod] = await objects("pods", "--field-selector", f"metadata.name={neighbour.pod}")
    ip = pod["status"]["podIP"]
    services = {one["metadata"]["name"]: one["spec"].get("clusterIP") for one in await objects("services")}
    gateway = socket.gethostbyname(f"gateway.{NAMESPACE}.svc.cluster.local")
    return {
        "OUTSIDE": FIELD,
        "STATE": "/state",
        "FUNCTION": "1",  # the agent's host; no process of execute has a number here
        "SUPERVISOR": str(attacker.supervisor),
        "NEIGHBOUR": str(planted),
        "NEIGHBOUR_DIR": OTHERS,
        "NEIGHBOUR_SERVER": f"{ip}:{neighbour.port}",
        "NEIGHBOUR_BROKER": f"{ip}:{neighbour.broker}",
        "NEIGHBOUR_TOKEN": neighbour.token,
        "NATS": f"{services['nats']}:4222",
        "S3": f"{services['s3']}:8333",
        "GATEWAY": f"{gateway}:80",
        "EXECUTE": "127.0.0.1:8080",  # the containers of a pod share its network
    }


async def arm(attacker: Server, found: dict[str, str]) -> None:
    """Put what the attempts call into the workspace of the one who makes them."""
    names = {
        "home": "/tmp",
        "neighbour": OTHERS,
        "function": 1,
        "supervisor": attacker.supervisor,
        "broker_port": attacker.broker,
        "other_port": 8080,
        "own_port": attacker.port,
        "unix": "/agent/host.sock",
    }
    attacks = json.dumps({name: code.format(**names) for name, (code, _) in ATTACKS.items()})
    for name, text in (("redteam.sh", script(found)), ("probe.py", PROBE), ("attacks.json", attacks)):
        await inside(attacker.pod, "sh", "-c", f"cat > {attacker.workspace}/{name}", given=text)


async def test_nothing_gets_out_of_a_pod(here: Cluster, tmp_path: Path) -> None:
    """Every attempt from a shell is denied, in a workspace that is hostile itself, and every system call; the run
    completes. What it planted leads nowhere, neither it nor its output has a key, and no daemon outlives it. Its
    neighbours, an honest run and one of another project, complete without a gap."""
    hostile(tmp_path / "hostile", Path(FIELD) / "sprung")
    workspace = {"source": "snapshot", "execution_id": await snapshot(here, tmp_path / "hostile")}
    async with another(tmp_path) as other, honest_beside(here), gated(other, "red stays") as neighbour:
        async with gated(here, "red pod", workspace=workspace) as attacker:
            execution = attacker.execution
            assert attacker.pod != neighbour.pod
            planted = int(await inside(attacker.pod, "sh", "-c", PLANT))
            try:
                await _attacks(here, attacker, neighbour, planted)
            finally:
                await inside(attacker.pod, "sh", "-c", f"kill {planted}; rm -rf {FIELD} {Path(OTHERS).parent}")
        await neighbour.open_gate()
        await other.completed_once(neighbour.execution)
    again = await here.client.submit(prompt="red reads", workspace={"source": "snapshot", "execution_id": execution})
    record = await here.archived(again, PATIENCE)
    assert record.state == "completed", record
    said = shell_of(READS, "red reads", await chunks(here, again))
    assert "looked" in said
    assert await leaked(here, again) == []


async def _attacks(here: Cluster, attacker: Server, neighbour: Server, planted: int) -> None:
    pod, execution = attacker.pod, attacker.execution
    before = await inside(pod, "sh", "-c", LOOK)
    await arm(attacker, await targets(attacker, neighbour, planted))
    keys = await secret_values()
    await here.client.reply(execution, "prompt", "red again")
    await attacker.open_gate()
    record = await here.ended(execution, PATIENCE)
    gone = await left_behind(pod, planted)
    record = await here.archived(execution, PATIENCE)
    said = await chunks(here, execution)
    wrong = [one for row in (*INSIDE, *TRAPS) for one in held(row, shell_of(row, "red pod", said), keys)]
    assert not wrong, "\n\n".join(wrong)
    answers = json.loads(shell_of(PROBES, "red pod", said))
    # What the container holds read-only, the kernel may say before it asks the sandbox.
    allowed = {name: answers[name] for name, (_, codes) in ATTACKS.items() if answers[name] not in codes | {EROFS}}
    assert allowed == {}
    assert (record.state, record.result) == ("completed", "Done."), (record.reason, record.message)
    assert any("follow-up" in chunk.data for chunk in said)
    assert gone == []
    assert await inside(pod, "sh", "-c", LOOK) == before
    assert await leaked(here, execution) == []
    assert await restarts(pod) == {"queue-proxy": 0, "execute": 0, "agent": 0}


async def test_process_that_ignores_signals_is_gone_after_cancel(here: Cluster) -> None:
    """Cancelled, it ends within seconds, with all its processes; the containers go on."""
    async with honest_beside(here):
        execution = await here.client.submit(prompt="red deaf")
        try:
            await heard(here, execution, "deaf now\n")
            pod = await pod_of(await here.running(execution, said=1))
        finally:
            await here.client.cancel(execution)
        record = await here.ended(execution, timeout=10)
        assert record.state == "cancelled"
        assert await left_behind(pod) == []
        assert await restarts(pod) == {"queue-proxy": 0, "execute": 0, "agent": 0}


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.attempt.name.split(",")[0].replace(" ", "-"))
async def test_a_bomb_ends_its_own_execution(here: Cluster, bomb: Bomb) -> None:
    """What fills processes, memory, disk or output ends as failed, with its reason; execute goes on, nothing is left in
    the agent's container, and an honest run beside it completes without a gap."""
    async with honest_beside(here):
        execution = await here.client.submit(prompt=bomb_prompt(bomb), limits=bomb.limits)
        record: Record = await here.ended(execution, PATIENCE)
        assert (record.state, record.reason) == ("failed", bomb.reason), record
        assert bomb.said in (record.message or "")
        pod = await pod_of(record)
        assert await left_behind(pod) == []
        assert await restarts(pod) == {"queue-proxy": 0, "execute": 0, "agent": 0}


async def test_a_hostile_run_and_then_one_of_another_project_in_the_same_pod(here: Cluster, tmp_path: Path) -> None:
    """It locks and removes all it can reach and signals everybody. The next run there, of another project, completes
    without a gap, with its files; nothing of the first is left."""
    async with scaled("execute", 1):
        execution = await here.client.submit(prompt="red locks")
        record = await here.ended(execution, PATIENCE)
        pod = await pod_of(record)
        async with another(tmp_path) as other:
            after = await other.client.submit(prompt=HONEST)
            record = await other.completed_once(after)
            assert await pod_of(record) == pod
            record = await other.archived(after)
            assert record.diff is not None
            assert record.diff.files == 1
        assert await left_behind(pod) == []

        async def alone() -> bool:
            names = (await inside(pod, "ls", "-A", "/agent")).split()
            return len(names) <= 1  # that of the server that waits for the next run

        await until("the folders of ended runs are removed", alone, 60)
        [found] = await objects("pods", "--field-selector", f"metadata.name={pod}")
        assert all(one["ready"] for one in found["status"]["containerStatuses"])
