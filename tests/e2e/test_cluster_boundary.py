"""What the platform draws between an agent and the worker: two containers, two users, one folder and a network."""

from __future__ import annotations

import tarfile
from io import BytesIO

import pytest
import zstandard

from tests.support.cluster import NEEDS_CLUSTER, Cluster, kubectl, objects, pod_of, secret_values, until

pytestmark = [*NEEDS_CLUSTER, pytest.mark.timeout(600)]
#: Of every process, and of every container.
SEEN = (
    "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; ls /etc/ocf /state"
)


async def test_an_agent_sees_no_secret_and_no_process_of_the_worker_and_hides_nothing(here: Cluster) -> None:
    """By what the agent itself finds, and by what a shell in its container does: another user, no key, no file of NATS,
    no process of execute. What it has hidden (mode 000) is in the archive all the same."""
    execution = await here.client.submit(prompt="Please look around")
    said = [chunk async for chunk in here.client.watch(execution)]
    record = await here.ended(execution)
    assert (record.state, record.message) == ("completed", None)
    keys = await secret_values()
    text = "".join(f"{chunk.data}{chunk.detail}" for chunk in said)
    assert "looked around" in text
    assert "65533" in text
    pod = await pod_of(record)
    seen = await kubectl("exec", pod, "-c", "agent", "--", "sh", "-c", f"id -u; {SEEN} 2>&1; true")
    for found in (text, seen):
        assert "ocf.functions.runtime.serve" not in found
        assert not [key for key in keys if key in found]
        assert ".creds" not in found
    assert seen.startswith("65533\n")
    assert "agent_host" in seen
    await here.archived(execution)
    files = _files(await here.store.get(f"{here.project}/{execution}/workspace.tar.zst"))
    assert files["hidden/deep/file"] == b"found\n"


def _files(packed: bytes) -> dict[str, bytes]:
    data = zstandard.ZstdDecompressor().stream_reader(BytesIO(packed)).read()
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}  # type: ignore[union-attr]


async def test_the_agents_container_dies_alone(here: Cluster) -> None:
    """Its first process is killed in mid-run: the run fails, execute goes on in the same pod, and the next run there
    completes in a container that was started since."""
    execution = await here.client.submit(prompt="Please work slowly")
    record = await here.running(execution)
    pod = await pod_of(record)
    # From inside, its first process is beyond all signals of its own namespace but those that it takes: it ends when
    # its supervisor does.
    kill = "for p in /proc/[0-9]*; do n=${p#/proc/}; [ $n = 1 ] || [ $n = $$ ] || kill -9 $n; done 2>/dev/null; true"
    await kubectl("exec", pod, "-c", "agent", "--", "sh", "-c", kill)
    assert (await here.ended(execution, timeout=90)).state == "failed"

    async def back() -> bool:
        found = await objects("pods", "--field-selector", f"metadata.name={pod}")
        states = {one["name"]: one for one in found[0]["status"]["containerStatuses"]} if found else {}
        return bool(states) and states["agent"]["restartCount"] > 0 and states["agent"]["ready"]

    await until("the agent's container was started again", back, 60)
    found = await objects("pods", "--field-selector", f"metadata.name={pod}")
    [execute] = [one for one in found[0]["status"]["containerStatuses"] if one["name"] == "execute"]
    assert execute["restartCount"] == 0
    again = await here.client.submit(prompt="Say hello")
    assert (await here.ended(again)).state == "completed"
