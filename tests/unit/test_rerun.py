"""The task of a rerun: what it keeps of its original's, and what of a stranger's it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ocf.events.base_model import REMOVED
from ocf.events.command_payloads import Execute
from ocf.events.execution_record import Record
from ocf.events.execution_ref import ExecutionRef
from ocf.events.lifecycle import State
from ocf.events.optional_task_fields import ResolvedRerun
from ocf.functions.execute.attempt.rerun_from_recording import Rerun
from ocf.functions.recording.line_types import NAME, VERSION, Head, Inputs
from ocf.functions.recording.recorded_calls_reader import Recording
from ocf.functions.workspace import InvalidWorkspace
from tests.support.handlers import submit
from tests.support.parts import PROJECT, Bench, bench

SEALED = {"alg": "A256GCM", "kid": "k1", "nonce": "bm9uY2Vub25jZQ==", "ciphertext": "c2VjcmV0LXBsYW50ZWQ="}
HOST = "api.example.com"
OUTSIDE: dict[str, Any] = {
    "network": {"allow": [HOST]},
    "secrets": {"API": {"value": SEALED, "url": f"https://{HOST}/", "inject": {"header": "X-Key", "format": "{}"}}},
    "mcp": {
        "far": {"type": "remote", "url": f"https://{HOST}/mcp", "headers": {"Authorization": SEALED}},
        "near": {"type": "local", "command": ["server"]},
    },
}


async def archived(b: Bench, imported_from: str | None = None, **task: Any) -> str:
    """An ended execution with a recording; returns its id."""
    event = b.submit(**task)
    execution = str(json.loads(event.data)["execution_id"])
    await submit(b.deps, event)
    now = b.deps.clock.now()
    ended = {"state": State.COMPLETED, "ended_at": now, "archived": True, "imported_from": imported_from}
    await b.deps.records.change(PROJECT, execution, lambda record: record.model_copy(update=ended))
    await b.deps.store.put(ExecutionRef(PROJECT, execution).object_key(NAME), b"a recording")
    return execution


async def again(b: Bench, execution: str) -> Execute | list[str]:
    """The task that a rerun's worker gets, or the fields that it is rejected for."""
    event = b.submit(prompt=None, rerun={"of": execution})
    rerun = str(json.loads(event.data)["execution_id"])
    await submit(b.deps, event)
    record = await b.deps.records.require(PROJECT, rerun)
    if record.state is State.REJECTED:
        return [f"{error.field}: {error.message}" for error in record.errors]
    (command,) = await b.commands("execute", rerun)
    return Execute.model_validate_json(command.data)


async def test_a_rerun_has_neither_network_nor_secrets() -> None:
    """Hosts are left out, which is said. Secrets and headers lose their values: the recording answers for them, also
    where the operator allows no host any more."""
    b = bench()
    allowing = b.having(settings=b.deps.settings.model_copy(update={"network_allow": (HOST,)}))
    execution = await archived(allowing, **OUTSIDE)
    task = await again(b, execution)
    assert isinstance(task, Execute)
    assert task.rerun == ResolvedRerun(of=execution, left_out=[f"network.allow ({HOST})"])
    assert task.network.allow == []
    assert task.secrets["API"].value.model_dump() == REMOVED
    assert {name: server.model_dump().get("headers") for name, server in task.mcp.items()} == {"far": {}, "near": None}
    assert "c2VjcmV0" not in task.model_dump_json()


async def test_a_strangers_task_makes_a_rerun_fetch_nothing() -> None:
    """An imported original: no definitions from a repository, no address of a model, and no workspace but its files."""
    b = bench()
    folder = {"from": {"git": "https://git.example.com/evil.git"}}
    for task in ({"agents": folder}, {"skills": {"a": folder}}):
        refused = await again(b, await archived(b, "their/1", **task))
        assert isinstance(refused, list)
        assert "fetches nothing" in refused[0]
    config = {"provider": "openai", "model": "m", "api_endpoint": "https://evil.example.com/v1", "api_key": SEALED}
    execution = await archived(b, "their/1", model_config=config)
    task = await again(b, execution)
    assert isinstance(task, Execute)
    assert task.model is not None
    assert (task.model.provider, task.model.api_endpoint, task.model.api_key) == ("openai", None, None)
    original: Record = await b.deps.records.require(PROJECT, execution)
    inputs = Inputs(source="directory", workspace={"source": "directory", "path": "/etc"})
    recording = Recording(Head(version=VERSION, attempt=1, key="ab" * 32, holds="answers"), inputs, {}, (), ())
    rerun = Rerun(ResolvedRerun(of=execution), recording, original, None)
    with pytest.raises(InvalidWorkspace, match="has no files"):
        rerun.source(task)
    own = Rerun(ResolvedRerun(of=execution), recording, original.model_copy(update={"imported_from": None}), None)
    assert own.source(task)[0].workspace.source == "directory"
